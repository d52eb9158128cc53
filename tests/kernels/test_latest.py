"""The rows of a journal entry: found by the kernel, and by the loop that names what is wrong."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.encoding import runs
from featurestore.encoding.values import HEADER
from featurestore.errors import CorruptStore
from featurestore.kernels import latest
from featurestore.storage import journal

both_ways = pytest.mark.parametrize(
    "rows",
    [latest.journal_rows, getattr(latest.journal_rows, "py_func", latest.journal_rows)],
    ids=["compiled", "plain"],
)


def record(values: bytes) -> bytes:
    """Return bytes that have the length of a record in the right place."""
    length = HEADER.size + len(values) // 8 * 8
    return bytes(4) + struct.pack("<I", length) + values.ljust(length, b"x")[: length - 8]


pairs = st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=64).map(record)), max_size=6)


def entry(rows: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(struct.pack("<H", len(key)) + key + value for key, value in rows)
    head = bytearray(journal.HEAD_BYTES)
    journal._HEAD.pack_into(head, 0, *_head(len(rows)))
    return bytes(head) + body


def _head(count: int) -> tuple[int, ...]:
    """Return the fields of a head, the count before the last of them."""
    fields = len(journal._HEAD.unpack(bytes(journal.HEAD_BYTES)))
    return (0,) * (fields - 2) + (count, count)


def found(rows: Any, body: bytes, count: int) -> list[tuple[bytes, bytes]] | None:
    at = np.empty((4, count), np.int64)
    if rows(np.frombuffer(body, np.uint8), journal.HEAD_BYTES, *at) != len(body):
        return None
    return [(body[k : k + n], body[r : r + m]) for k, n, r, m in at.T.tolist()]


@both_ways
@given(pairs)
def test_rows_are_found_where_they_were_put(rows: Any, given_rows: list[Any]) -> None:
    assert found(rows, entry(given_rows), len(given_rows)) == given_rows


@both_ways
@given(pairs, st.data())
def test_the_kernel_refuses_what_the_loop_refuses(
    rows: Any, given_rows: list[Any], data: st.DataObject
) -> None:
    body = bytearray(entry(given_rows))
    if len(body) > journal.HEAD_BYTES and data.draw(st.booleans()):
        place = data.draw(st.integers(journal.HEAD_BYTES, len(body) - 1))
        body[place] ^= data.draw(st.integers(1, 255))
    else:
        body = body[: data.draw(st.integers(journal.HEAD_BYTES, len(body)))]
    try:
        expected = list(journal.split(bytes(body), "1/1"))
    except CorruptStore:
        expected = None
    assert found(rows, bytes(body), len(given_rows)) == expected


@given(pairs)
def test_an_entry_is_read_the_same_on_both_roads(given_rows: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for few in (0, 2**62):
            patch.setattr(runs, "_FEW", few)
            keys, records = journal._rows(entry(given_rows), "1/1")
            assert list(zip(keys.split(), records.split(), strict=True)) == given_rows
