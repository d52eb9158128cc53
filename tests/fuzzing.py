"""The parsers under fire: any bytes give a value, or an error of ours.

::

    python -m tests.fuzzing record --minutes 10       with atheris: pip install atheris
    pytest tests/test_fuzzing.py                      the corpus again, and Hypothesis

===========  ======================================================================================
target       what reads the bytes
===========  ======================================================================================
record       headers, records one by one and many at a time, with and without a good checksum
key          keys of every combination of types; what is read is written as the same bytes again
journal      entries, and the records in them
manifest     rows of files, groups, states, definitions, views, consumers, counters, commits,
             requests: once as they are, once with the checksum they should have
time         event times and durations as text, with and without zones and units
page         headers, dictionaries and runs of Parquet pages, as ``storage.pages`` reads them
footer       footers of Parquet files
===========  ======================================================================================

atheris watches which branches are taken and changes the bytes to take others.  What it finds worth
keeping goes to ``tests/fuzz_corpus/<target>``, cut down to a few files.
"""

from __future__ import annotations

import argparse
import inspect
import json
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from featurestore.encoding import columns, key_columns, keys, values
from featurestore.errors import CorruptStore, FeatureStoreError, InvalidInput
from featurestore.event_time import MAX_US, MIN_US, duration_us, to_us
from featurestore.feature_view import FeatureView
from featurestore.schema import FeatureGroup, define
from featurestore.storage import catalog, commits, consumers, journal, manifest, requests
from featurestore.storage.rows import unseal_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CORPUS = Path(__file__).parent / "fuzz_corpus"

_TYPES = (
    "bool", "int8", "int32", "int64", "float32", "float64", "string", "binary", "timestamp",
    "date", "list<int16>", "list<string>", "list<bool>", "list<timestamp>", "vector<float32, 2>",
)  # fmt: skip
_KEY_TYPES = ("string", "int8", "bool", "timestamp", "binary", "date")


def _group() -> FeatureGroup:
    features = {"k": "string", "t": "timestamp"}
    first = {f"f{number}": name for number, name in enumerate(_TYPES)}
    group = define("g", record_identifier="k", event_time="t", features=features | first, id=1)
    return group.with_features({"later": "string"})


GROUP = _group()
CODEC = values.RecordCodec(GROUP)
HASH = keys.KeyHash(b"seed")


def record(data: bytes) -> None:
    """Read a record: as it is, and with length, version and checksum put right."""
    refused(values.verify_record, data, b"key", error=CorruptStore)
    whole = data[: len(data) // 8 * 8]
    if len(whole) >= values.HEADER.size:
        mended = bytearray(whole)
        mended[4:8] = len(whole).to_bytes(4, "little")
        mended[8:10] = (1 + data[8] % 2).to_bytes(2, "little")
        mended[0:4] = crc32(bytes(mended[4:]), crc32(b"key")).to_bytes(4, "little")
        whole = bytes(mended)
        values.verify_record(whole, b"key")
    one = refused(CODEC.decode, whole, error=CorruptStore)
    many = refused(columns.decode_records, GROUP, [whole], error=CorruptStore)
    if one is not None and many is not None:
        found = many.to_pylist()[0]
        assert one.keys() == found.keys()
        assert repr(_plain(one)) == repr(_plain(found))
    refused(columns.decode_history, GROUP, [data[:40]], [whole], HASH, error=CorruptStore)


def _plain(value: Any) -> Any:
    """Return values as both decoders give them: zones have several names for UTC."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value.isoformat() if isinstance(value, date) else value


def key(data: bytes) -> None:
    """Read a key of types that the first byte chooses."""
    count, chosen = 1 + (data[:1] or b"\0")[0] % 3, data[1:4]
    dtypes = [
        define_dtype(_KEY_TYPES[(chosen[i] if i < len(chosen) else 0) % len(_KEY_TYPES)])
        for i in range(count)
    ]
    found = refused(keys.decode_key, data[4:], dtypes, error=CorruptStore)
    if found is not None:
        assert keys.encode_key(found, dtypes) == data[4:]
    many = refused(key_columns.decode_keys, [data[4:]], dtypes, error=CorruptStore)
    assert (many is None) == (found is None)


def define_dtype(name: str) -> Any:
    """Return a type by its name."""
    return _DTYPES.setdefault(name, _parsed(name))


_DTYPES: dict[str, Any] = {}


def _parsed(name: str) -> Any:
    from featurestore.dtypes import parse_dtype

    return parse_dtype(name)


def entry(data: bytes) -> None:
    """Read a journal entry: its head, and the records in it."""
    refused(journal.check, data[:12], data[12:], error=CorruptStore)
    at, body = b"\0\0\0\x01" + data[:8].ljust(8, b"\0"), data[8:]
    mended = crc32(body, crc32(at)).to_bytes(4, "little") + body
    refused(journal.check, at, mended, error=CorruptStore)
    refused(lambda: list(journal.split(mended, "here")), error=CorruptStore)


_ROWS: list[tuple[bytes, Callable[[bytes, bytes], Any]]] = [
    (b"f" + bytes(12), manifest.FileEntry.of),
    (b"s" + bytes(4), manifest.GroupState.of),
    (b"g" + bytes(4), catalog.group_of),
    (b"vmine", lambda at, row: FeatureView.from_json(catalog.view_of(at, row))),
    (b"consumer/c", consumers.of),
    (b"last_file_id", lambda at, row: unseal_number(at, row, "it")),
    (bytes(8), commits.parsed),
    (bytes(32), requests.parsed),
]


def row(data: bytes) -> None:
    """Read a row of the manifest, the catalog or the like; the first byte says which."""
    at, read = _ROWS[(data[:1] or b"\0")[0] % len(_ROWS)]
    body = data[1:]
    refused(read, at, body, error=CorruptStore)
    if body[-1:] == b"}":
        sealed = b'%b, "crc": %d}' % (body[:-1], crc32(body, crc32(at)))
        refused(read, at, sealed, error=FeatureStoreError)


def time(data: bytes) -> None:
    """Read a time, or a duration; the first byte says with which zone and unit."""
    how = (data[:1] or b"\0")[0]
    text: Any = data[1:].decode("utf-8", "surrogateescape" if how & 1 else "replace")
    if how & 16:
        text = _number(text)
    tz = (None, "UTC", "America/New_York", "+05:45", text)[(how >> 1) % 5]
    unit = (None, "s", "ms", "us", "ns")[(how >> 5) % 5]
    found = refused(to_us, text, tz=tz, unit=unit, error=InvalidInput)
    assert found is None or MIN_US <= found <= MAX_US
    length = refused(duration_us, text, error=InvalidInput)
    assert length is None or length >= 0


def _number(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def page(data: bytes) -> None:
    """Read a Parquet page as a plain one, and as a dictionary with the codes that follow it."""
    from featurestore.kernels import parquet

    memory, chunk = np.frombuffer(data, np.uint8), np.full(parquet.CHUNK_FIELDS, -1)
    chunk[[parquet.CODEC, parquet.NULLS]] = 0
    chunk[[parquet.VALUES, parquet.DATA_PAGE, parquet.SIZE]] = 8, 4, max(0, len(data) - 4)
    for optional in (0, 1):
        start, end = refused(parquet.plain_page, memory, chunk, optional, 8, error=ValueError) or (
            -1,
            -1,
        )
        assert start == end == -1 or 0 <= start <= len(data) == end
    chunk[parquet.DICTIONARY_PAGE] = 4
    found = refused(parquet.dictionary_page, memory, chunk, 8, error=ValueError) or (-1, -1, -1)
    start, end, distinct = found
    assert found == (-1, -1, -1) or (0 <= start <= end <= len(data) and distinct <= end - start)
    starts, codes = np.zeros(8, np.int64), np.zeros(8, np.int64)
    for optional in (0, 1):
        chunk[parquet.DATA_PAGE] = max(end, 5)
        runs = refused(
            parquet.dictionary_runs, memory, chunk, optional, 8, 3, starts, codes, error=ValueError
        )
        if runs is not None and runs > 0:
            assert runs <= 8
            assert starts[:runs].tolist() == sorted(set(starts[:runs].tolist()))
            assert ((codes[:runs] >= 0) & (codes[:runs] < 3)).all()


def footer(data: bytes) -> None:
    """Read the footer of a Parquet file; nothing is believed of what it says."""
    from featurestore.kernels import parquet

    footer = np.frombuffer(data, np.uint8)
    shape = refused(parquet.footer_shape, footer, error=ValueError)
    if shape is not None:
        _, groups, width = shape
        tables = (
            np.zeros((width, parquet.COLUMN_FIELDS), np.int64),
            np.zeros((groups, width, parquet.CHUNK_FIELDS), np.int64),
        )
        refused(parquet.read_footer, footer, np.zeros(groups, np.int64), *tables, error=ValueError)
        for at, size, _ in tables[0].tolist():
            assert size < 0 or 0 <= at <= at + size <= len(data)


def refused(read: Callable[..., Any], *given: Any, error: type[Exception], **how: Any) -> Any:
    """Return what is read, or None where it is refused with an error of ours."""
    try:
        return read(*given, **how)
    except error:
        return None


TARGETS: dict[str, Callable[[bytes], None]] = {
    "record": record,
    "key": key,
    "journal": entry,
    "manifest": row,
    "time": time,
    "page": page,
    "footer": footer,
}


# ── atheris ──────────────────────────────────────────────────────────────────────────────────


def main() -> int:
    """Fuzz a target; afterwards its corpus holds what covers most, in the fewest bytes."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--files", type=int, default=60, help="to keep in the corpus")
    parser.add_argument("--engine", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.engine is not None:
        return _engine(asked.target, asked.engine)
    kept = CORPUS / asked.target
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        found, least = Path(folder) / "found", Path(folder) / "least"
        found.mkdir()
        least.mkdir()
        command = [sys.executable, "-m", "tests.fuzzing", asked.target, "--engine"]
        seconds = f"-max_total_time={int(asked.minutes * 60)}"
        # The artifact of a crash is left in the current folder, and named on standard error.
        # One input may take no gigabyte; all together may, since compiled code keeps some bytes of
        # each error that it raises, and there are hundreds of millions.
        limits = ("-max_len=4096", "-malloc_limit_mb=1024", "-rss_limit_mb=0")
        ended = subprocess.run([*command, seconds, *limits, found, kept], check=False)
        if ended.returncode:
            return ended.returncode
        subprocess.run([*command, "-merge=1", least, kept, found], check=True)
        smallest = sorted(least.iterdir(), key=lambda path: path.stat().st_size)[: asked.files]
        if not smallest:  # compiled parsers tell atheris nothing of their branches
            return 0
        for old in kept.iterdir():
            old.unlink()
        for path in smallest:
            shutil.copy(path, kept / path.name[:16])
    return 0


def _engine(target: str, arguments: list[str]) -> int:
    import atheris

    parsers = [
        values,
        columns,
        key_columns,
        keys,
        journal,
        manifest,
        catalog,
        consumers,
        commits,
        requests,
    ]
    parsers += [sys.modules[known.__module__] for known in (to_us, define, FeatureView)]
    for function in {f for module in parsers for f in _functions(module)}:
        atheris.instrument_func(function)
    # The engine starts itself again to cut a corpus down, through a shell.
    again = f"{sys.executable} -m tests.fuzzing {target} --engine"
    atheris.Setup([again, *arguments], TARGETS[target])
    atheris.Fuzz()
    return 0


def _functions(module: Any) -> Iterator[Any]:
    """Yield the functions and methods that a module defines."""
    for member in vars(module).values():
        if getattr(member, "__module__", "") != module.__name__:
            continue
        for function in vars(member).values() if isinstance(member, type) else [member]:
            found = getattr(function, "__func__", function)
            if inspect.isfunction(found) and found.__module__ == module.__name__:
                yield found


if __name__ == "__main__":
    sys.exit(main())
