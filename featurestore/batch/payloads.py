"""Files to records, records to payloads, and back.

::

    file ──split──► records ──input filter──► what the model is given ──pack──► payloads
    output file ◄──assemble── records ◄──output filter── joined ◄──join── answers

A record is the bytes of a line, or of a RecordIO record; without a split a whole file is one.
Empty lines are no records.  Text is only parsed where a filter or a join asks for it.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from featurestore.batch.jsonpath import Filter, NotThere
from featurestore.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

CSV, JSON_LINES, JSON = "text/csv", "application/jsonlines", "application/json"
RECORDIO, PARQUET = "application/x-recordio-protobuf", "application/x-parquet"
CONTENT_TYPES = (CSV, JSON_LINES, JSON, RECORDIO, PARQUET)
#: Arrays as NumPy writes them; no files of records are, only what the block path sends.
NPY = "application/x-npy"

_MAGIC = 0xCED7230A
_HEAD = struct.Struct("<II")
_CHUNK_BYTES = 1 << 20


class BadRecord(Exception):
    """A record that cannot be used; the message is SageMaker's ``ClientError`` in its own words."""


def as_npy(array: NDArray[Any]) -> bytes:
    """Return an array as NumPy's file format."""
    import numpy as np

    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def from_npy(data: bytes) -> NDArray[Any]:
    """Return the array of such a file."""
    import numpy as np

    return np.load(io.BytesIO(data), allow_pickle=False)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file: its number from 1, its bytes, and where it ends in the file."""

    number: int
    data: bytes
    end: int


# ── files to records ─────────────────────────────────────────────────────────────────────────


def records(path: Path, split: str, *, compressed: bool, after: int = 0) -> Iterator[Record]:
    """Yield the records of a file that begin at or after a place where one ended.

    The place counts bytes after decompression.  Numbers count from the file's first record.
    """
    with _open(path, compressed=compressed) as file:
        if split == "None":
            data = file.read()
            if data and after == 0:
                yield Record(1, data, len(data))
            return
        found = _lines(file) if split == "Line" else _recordio(file)
        for number, (data, end) in enumerate(found, start=1):
            if end > after:
                yield Record(number, data, end)


def _open(path: Path, *, compressed: bool) -> BinaryIO:
    return gzip.open(path, "rb") if compressed else path.open("rb")  # type: ignore[return-value]


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    end = 0
    for line in file:
        end += len(line)
        text = line.rstrip(b"\r\n")
        if text:
            yield text, end


def _recordio(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    end, parts = 0, b""
    while head := file.read(_HEAD.size):
        if len(head) < _HEAD.size:
            raise BadRecord("the file ends within the head of a RecordIO record")
        magic, word = _HEAD.unpack(head)
        length, part = word & (1 << 29) - 1, word >> 29
        if magic != _MAGIC:
            raise BadRecord(f"there is no RecordIO record at byte {end}")
        padded = -(-length // 4) * 4
        data = file.read(padded)
        if len(data) < padded:
            raise BadRecord("the file ends within a RecordIO record")
        end += _HEAD.size + padded
        parts += data[:length]
        if part in (0, 3):  # whole, or the last part
            yield parts, end
            parts = b""


def as_recordio(data: bytes) -> bytes:
    """Return a record's bytes with the head and padding of RecordIO."""
    return _HEAD.pack(_MAGIC, len(data)) + data + bytes(-len(data) % 4)


# ── what the model is given ──────────────────────────────────────────────────────────────────


def given(record: bytes, content_type: str, chosen: Filter) -> bytes:
    """Return what a filter leaves of a record.

    Raises
    ------
    BadRecord
    """
    if chosen.is_whole:
        return record
    try:
        return written(chosen.of(parsed(record, content_type)), content_type)
    except NotThere as error:
        raise BadRecord(f"the filter {chosen.text} cannot be applied: {error}") from error


def parsed(record: bytes, content_type: str) -> Any:
    """Return a record as JSON values; a CSV row is an array of texts."""
    try:
        if content_type == CSV:
            rows = list(csv.reader([record.decode()], strict=True))
            return rows[0] if rows else []
        return json.loads(record)
    except (UnicodeDecodeError, ValueError, csv.Error) as error:
        kind = "CSV" if content_type == CSV else "JSON"
        raise BadRecord(f"unable to parse data as {kind}: {error}") from error


def written(value: Any, content_type: str) -> bytes:
    """Return JSON values as a record."""
    if content_type != CSV:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    row = value if isinstance(value, list) else [value]
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(row)
    return text.getvalue().encode()


def joined(record: bytes, answer: bytes, content_type: str, kept: Filter) -> bytes:
    """Return a record with its answer, and of that what a filter keeps.

    A CSV answer is appended.  To a JSON object it is added as ``SageMakerOutput``; any other JSON
    becomes ``{"SageMakerInput": ..., "SageMakerOutput": ...}``.
    """
    if content_type == CSV and kept.is_whole:
        return record + b"," + answer
    before, after = parsed(record, content_type), parsed(answer, content_type)
    if content_type == CSV:
        both: Any = [*before, *after]
    elif isinstance(before, dict):
        both = {**before, "SageMakerOutput": after}
    else:
        both = {"SageMakerInput": before, "SageMakerOutput": after}
    return given(written(both, content_type), content_type, kept)


# ── payloads ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Payload:
    """Records that go to the model together, and what it is given of each, or why it is not."""

    records: tuple[Record, ...]
    data: tuple[bytes | BadRecord, ...]


def pack(
    found: Iterable[tuple[Record, bytes | BadRecord]],
    *,
    framed: int,
    bytes_max: int,
    records_max: int,
) -> Iterator[Payload]:
    """Put records together as far as they fit: SageMaker's MultiRecord.

    Parameters
    ----------
    found : iterable of (Record, bytes or BadRecord)
        Each record, and what the model is given of it.  One that it is not given takes no room.
    framed : int
        Bytes that each takes besides.
    bytes_max, records_max : int
        Of a payload; 0 for any number.
    """
    waiting: list[tuple[Record, bytes | BadRecord]] = []
    size = 0
    for record, data in found:
        more = 0 if isinstance(data, BadRecord) else len(data) + framed
        is_full = bytes_max and size + more > bytes_max
        if waiting and (is_full or len(waiting) == records_max):
            yield _payload(waiting)
            waiting, size = [], 0
        waiting.append((record, data))
        size += more
    if waiting:
        yield _payload(waiting)


def _payload(waiting: list[tuple[Record, bytes | BadRecord]]) -> Payload:
    return Payload(tuple(record for record, _ in waiting), tuple(data for _, data in waiting))


def body(data: Iterable[bytes], content_type: str, split: str) -> bytes:
    """Return the payload's bytes."""
    if split == "None":
        return b"".join(data)
    if content_type == RECORDIO:
        return b"".join(map(as_recordio, data))
    return b"".join(line + b"\n" for line in data)


def answers(response: bytes, count: int, accept: str) -> list[bytes]:
    """Return the answer to each record of a payload; a line of text with its end.

    Raises
    ------
    BadRecord
        When there are not as many as records.
    """
    if accept == RECORDIO:
        found = [data for data, _ in _recordio(io.BytesIO(response))]
    else:
        found = list(io.BytesIO(response))
    if len(found) != count:
        raise BadRecord(f"the model gave {len(found)} answers to {count} records")
    return found


def is_text(content_type: str) -> bool:
    """Return whether filters and joins can look into it."""
    return content_type in (CSV, JSON_LINES, JSON)


def check_types(content_type: str, accept: str, split: str, assemble: str, join: str) -> None:
    """Refuse what does not go together."""
    for what, value, known in [
        ("content_type", content_type, CONTENT_TYPES),
        ("accept", accept, CONTENT_TYPES),
        ("split", split, ("None", "Line", "RecordIO")),
        ("assemble", assemble, ("None", "Line")),
        ("join", join, ("None", "Input")),
    ]:
        if value not in known:
            raise InvalidInput(f"{what}= is {value!r}; it is one of {', '.join(known)}.")
    if split == "RecordIO" and content_type != RECORDIO:
        raise InvalidInput('split="RecordIO" is for the content type of RecordIO.')
    if split == "Line" and content_type not in (CSV, JSON_LINES):
        raise InvalidInput('split="Line" is for CSV and JSON Lines.')
    if split == "Line" and accept == PARQUET:
        raise InvalidInput("Answers of Parquet are not one to a record: they need split='None'.")
    if assemble == "Line" and accept in (RECORDIO, PARQUET):
        raise InvalidInput('assemble="Line" is for answers of text.')
    if join == "Input" and (accept != content_type or assemble != split):
        raise InvalidInput(
            'join="Input" needs accept= to be content_type=, and assemble= to be split=: SageMaker '
            f"says so. They are {accept} and {content_type}, {assemble} and {split}."
        )
    if join == "Input" and content_type in (RECORDIO, PARQUET):
        raise InvalidInput('join="Input" is for CSV and JSON.')
