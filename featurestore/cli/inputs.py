"""What the shell gives, as values: words as keys, files as rows.

Types come from the group's definition; only ``--create`` has to guess them from a file.  In CSV an
unquoted empty cell is null and nothing else is (``--null`` adds more).  JSON lines go through the
checks of single records, one by one, so that a large integer never passes through a float.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput, InvalidRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from featurestore.schema import FeatureGroup

# ── words ────────────────────────────────────────────────────────────────────────────────────────


def keys_from_text(group: FeatureGroup, texts: Sequence[str]) -> list[object]:
    """Return the keys that a row of words asks for: as many words each as the key has parts."""
    width = len(group.record_identifier)
    if len(texts) % width:
        parts = ", ".join(group.record_identifier)
        raise InvalidInput(
            f'A key of "{group.name}" has {width} parts ({parts}); {len(texts)} were given.'
        )
    return [key_from_text(group, texts[i : i + width]) for i in range(0, len(texts), width)]


def key_from_text(group: FeatureGroup, texts: Sequence[str]) -> object:
    """Return the words of one key as values of the identifier's types.

    Dates and timestamps stay text, which the front door reads; binary is written in hex.
    """
    values: list[object] = []
    for feature, text in zip(group.key_features, texts, strict=True):
        kind = feature.dtype.kind
        try:
            if kind == "bool":
                values.append({"true": True, "false": False}[text.lower()])
            elif kind == "int":
                values.append(int(text))
            elif kind == "binary":
                values.append(bytes.fromhex(text))
            else:
                values.append(text)
        except (KeyError, ValueError) as error:
            raise InvalidInput(
                f'"{feature.name}" of "{group.name}" is {feature.dtype}, and "{text}" is not.'
            ) from error
    return values[0] if len(values) == 1 else tuple(values)


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def rows_of(
    path: Path, group: FeatureGroup, nulls: Sequence[str]
) -> tuple[str | pa.RecordBatchReader | Iterator[dict[str, Any]], int | None]:
    """Return a file as something ``ingest`` takes, and its number of rows where known."""
    kind = file_kind(path)
    if kind == "parquet":
        from pyarrow import parquet

        with refusing(path):
            return str(path), parquet.read_metadata(path).num_rows
    if kind == "csv":
        from featurestore.engine.sources import text_types

        return open_csv(path, text_types(group), nulls), None
    return json_lines(path), None


def schema_of(path: Path, event_time: str, nulls: Sequence[str]) -> pa.Schema:
    """Return the columns of a file as a group's schema, the event time as a timestamp.

    A zone is not asked of the type: the rows are checked for one when they are ingested.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv
    from pyarrow import json as arrow_json
    from pyarrow import parquet

    from featurestore.engine.sources import csv_options

    kind = file_kind(path)
    with refusing(path):
        if kind == "parquet":
            schema = parquet.read_schema(path)
        elif kind == "csv":
            schema = arrow_csv.read_csv(path, **csv_options({}, nulls)).schema
        else:
            schema = arrow_json.read_json(path).schema
    at = schema.get_field_index(event_time)
    if at < 0:
        columns = ", ".join(f'"{column}"' for column in schema.names)
        raise InvalidInput(f'{path} has no column "{event_time}"; it has {columns}.')
    return schema.set(at, pa.field(event_time, pa.timestamp("us", tz="UTC")))


def file_kind(path: Path) -> str:
    """Return ``"parquet"``, ``"csv"`` or ``"jsonl"`` by the name's ending."""
    kinds = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".jsonl": "jsonl"}
    kinds[".ndjson"] = "jsonl"
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise InvalidInput(f'{path}: ingest reads .parquet, .csv and .jsonl, not "{path.suffix}".')
    return kind


def open_csv(
    path: Path, types: dict[str, pa.DataType], nulls: Sequence[str]
) -> pa.RecordBatchReader:
    """Read a CSV file a block at a time."""
    import pyarrow as pa

    from featurestore.engine import sources

    hint = " If a text such as NA stands for null, say --null NA."
    with refusing(path, hint):
        reader = sources.open_csv(path, types, nulls)

    def batches() -> Iterator[pa.RecordBatch]:
        with reader, refusing(path, hint):
            yield from reader

    return pa.RecordBatchReader.from_batches(reader.schema, batches())


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file that has one on each line; blank lines are passed over."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise InvalidRecord(f"{path}, line {number}: not JSON ({error.msg}).") from error
            if not isinstance(record, dict):
                raise InvalidRecord(f"{path}, line {number}: not an object with named values.")
            yield record


@contextmanager
def refusing(path: Path, hint: str = "") -> Iterator[None]:
    """Turn Arrow's refusal of a file into ours, which names the file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).rstrip(".")
        raise InvalidInput(f"{path} cannot be read: {reason}.{hint}") from error
