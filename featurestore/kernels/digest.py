"""NH, a universal hash: many bytes to few, at the speed of memory.

::

    block of 1,024 bytes   │ w0 │ w1 │ w2 │ …  64-bit words, each a pair of 32-bit halves
    secret                 │ k0 │ k1 │ k2 │ …
    sum                    Σ (low(w) + low(k) mod 2**32) · (high(w) + high(k) mod 2**32)   mod 2**64

Two sums are taken of each block, the second with the secret one word further on.  Two inputs that
differ have the same sums with a probability of 2**-64, for whoever does not know the secret: Black,
Halevi, Krawczyk, Krovetz and Rogaway, "UMAC: Fast and Secure Message Authentication", 1999, of
which this is the first layer.  The sums are no digest yet; they are what a real one is taken of, a
sixty-fourth of the bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types

from featurestore.kernels import WORDS_READ, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.uint64]

BLOCK_WORDS = 128
SECRET_WORDS = BLOCK_WORDS + 1

# Words of a column begin at any byte, if it is text.
_WORDS_ANYWHERE = types.Array(types.uint64, 1, "C", readonly=True, aligned=False)


@kernel(_WORDS_ANYWHERE, WORDS_READ, types.uint64[::1])
def add_up(words: Any, secret: Words, sums: Words) -> None:
    """Take the two sums of each block.

    Parameters
    ----------
    words : uint64[128 * n]
        The blocks.
    secret : uint64[129]
        Random numbers.
    sums : uint64[2 * n]
        Filled.
    """
    blocks = words.size // BLOCK_WORDS
    if words.size != blocks * BLOCK_WORDS or sums.size != 2 * blocks:
        raise ValueError("words and sums do not fit together")
    if secret.size != SECRET_WORDS:
        raise ValueError("the secret has 129 words")
    low, half = np.uint64(0xFFFF_FFFF), np.uint64(32)
    for block in range(blocks):
        at = block * BLOCK_WORDS
        one = np.uint64(0)
        two = np.uint64(0)
        for j in range(BLOCK_WORDS):
            word, first, second = words[at + j], secret[j], secret[j + 1]
            one += ((word + first) & low) * (((word >> half) + (first >> half)) & low)
            two += ((word + second) & low) * (((word >> half) + (second >> half)) & low)
        sums[2 * block] = one
        sums[2 * block + 1] = two
