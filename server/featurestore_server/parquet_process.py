"""One Parquet file of a stranger, decoded in a process made for it.

::

    worker ──file──►  footer: rows x columns, bytes it says it takes
                        │  too much: refused before anything is decoded
                        ▼
                      row by row group, in batches of a few megabytes
                        │
    worker ◄──────────  pieces of an Arrow stream, which it looks at as at any client's

A footer may lie, and a decoder may be made to crash; the process then dies behind its walls
(:mod:`featurestore_server.confined`), and the upload is refused.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, BinaryIO

from featurestore.errors import TooLarge
from featurestore_server.bodies import Limits, parquet_batches
from featurestore_server.confined import END, receive, send, tell

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

#: Loaded before there is any file.
LOADS = ("pyarrow.parquet", "featurestore_server.answers")
#: What a file is refused with that needs too much.
REFUSED = TooLarge
#: A batch that unfolds to more is passed on in parts.
_PIECE_BYTES = 8 << 20


def do(source: BinaryIO, sink: BinaryIO, _memory_bytes: int, file: int) -> None:
    """Decode the one file."""
    import pyarrow as pa

    from featurestore_server.answers import ArrowPieces

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    limits = Limits(*json.loads(receive(source)))
    schema, batches = parquet_batches(os.fdopen(file, "rb"), limits)
    tell(sink, {})
    pieces = ArrowPieces(schema)
    for batch in batches:
        for part in _parts(batch):
            send(sink, pieces.of(part))
    send(sink, pieces.end())
    send(sink, b"", END)


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    count = max(1, -(-batch.nbytes // _PIECE_BYTES))
    rows = max(1, -(-batch.num_rows // count))
    for first in range(0, batch.num_rows, rows):
        yield batch.slice(first, rows)
