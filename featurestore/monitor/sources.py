"""Where a window's rows come from.

======================  ======================================================================
source                  rows of a window ``start <= time < end``
======================  ======================================================================
``"group:NAME"``        a feature group, predictions among them: by event time, the newest
                        version of each key and event time, no tombstones
``"capture:FOLDER"``    requests captured in Model Monitor's format: by inference time
``"files:FOLDER"``      Parquet: a training set's parts; all of it, or by a time column
``"module:function"``   a function of yours, ``function(store, start, end)`` -> table
======================  ======================================================================

Where it need not be written down (a baseline, a run by hand), a function or a table will do too.
A time column of text or numbers is no time: give one of timestamps.
"""

from __future__ import annotations

import base64
import csv
import importlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from featurestore.errors import InvalidInput, UnknownFeature, did_you_mean
from featurestore.event_time import format_us, to_datetime, to_us

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from featurestore.store import FeatureStore

    Function = Callable[[FeatureStore, datetime, datetime], Any]

KINDS = ("group", "capture", "files")

PART_VALUES = 2_000_000
"""A window is read so many values at a time: two columns of a million rows, all of a small one."""

CAPTURE_COLUMNS = ("event_id", "inference_id", "inference_time")


class Window(NamedTuple):
    """A stretch of time, ``start_us <= time < end_us``, in microseconds since the epoch.

    Examples
    --------
    >>> str(window_of(("2013-11-01T00:00Z", "2013-11-08T00:00Z")))
    '2013-11-01T00:00:00Z/2013-11-08T00:00:00Z'
    """

    start_us: int
    end_us: int

    def __str__(self) -> str:
        return f"{format_us(self.start_us)}/{format_us(self.end_us)}"

    @property
    def start(self) -> datetime:
        """Its first moment."""
        return to_datetime(self.start_us)

    @property
    def end(self) -> datetime:
        """The first moment after it."""
        return to_datetime(self.end_us)


def window_of(given: Any) -> Window:
    """Return a pair of moments as a window.

    Raises
    ------
    InvalidInput
        When it ends before it starts.
    """
    if isinstance(given, Window):
        return given
    try:
        start, end = given
    except (TypeError, ValueError):
        raise InvalidInput(
            f"A window is a pair of moments, start and end; got {given!r}."
        ) from None
    found = Window(to_us(start, what="window start"), to_us(end, what="window end"))
    if found.end_us <= found.start_us:
        raise InvalidInput(f"The window {found} is empty: its end is not after its start.")
    return found


@dataclass(frozen=True)
class Source:
    """A source, read out of what a user wrote.

    Attributes
    ----------
    kind : str
        ``"group"``, ``"capture"``, ``"files"``, ``"function"`` or ``"table"``.
    name : str
        Of the group, the folder, the function; what a definition keeps.
    given : object
        The function or the table itself.
    """

    kind: str
    name: str
    given: Any = None

    @property
    def text(self) -> str:
        """The source as it is written."""
        return f"{self.kind}:{self.name}" if self.kind in KINDS else self.name

    def require_lasting(self) -> None:
        """Refuse what cannot be written down, and so cannot be run again by another process."""
        if self.given is not None and self.kind == "table":
            raise InvalidInput(
                "A monitor reads its source again for each window, so a table will not do: give "
                '"group:NAME", "capture:FOLDER", "files:FOLDER" or "module:function".'
            )
        if self.given is not None and "<" in self.name:
            raise InvalidInput(
                f"{self.name} cannot be found again by another process. Give a function of a "
                'module, or its name as "module:function".'
            )


def source_of(given: Any) -> Source:
    """Return what a user calls a source."""
    if isinstance(given, Source):
        return given
    if isinstance(given, Path):
        return Source("files", str(given.absolute()))
    if isinstance(given, str):
        kind, colon, name = given.partition(":")
        if colon and kind in KINDS and name:
            return Source(kind, name if kind == "group" else str(Path(name).absolute()))
        if colon and kind and name and "/" not in given:
            return Source("function", given)
        raise InvalidInput(
            f'"{given}" is no source: write "group:NAME", "capture:FOLDER", "files:FOLDER" or '
            '"module:function".'
        )
    if callable(given):
        return Source("function", f"{given.__module__}:{given.__qualname__}", given)
    return Source("table", "table", given)


def function_named(name: str) -> Callable[..., Any]:
    """Return the function that ``"module:function"`` names."""
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(f'"{name}" names no function that can be imported: {error}.') from error
    if not callable(found):
        raise InvalidInput(f'"{name}" is a {type(found).__name__}, not a function.')
    return found  # type: ignore[no-any-return]


# ── reading ──────────────────────────────────────────────────────────────────────────────────


def read(
    store: FeatureStore,
    source: Source,
    window: Window | None,
    *,
    features: Sequence[str] | None = None,
    time_column: str | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Read a window.

    Parameters
    ----------
    window : Window or None
        None for everything there is.
    features : sequence of str, optional
        Only these columns; without it a group gives its features without identifier and event
        time.  Those it lacks are left out.
    time_column : str, optional
        Of files and tables: by which rows fall into windows.
    columns : sequence of str, optional
        Names for the fields of captured CSV, inputs then outputs.
    """
    if source.kind == "group":
        return read_group(store, source.name, window, features=features)
    if source.kind == "capture":
        table = read_captured(Path(source.name), window, columns)
        return _chosen(table, features, leave_out=CAPTURE_COLUMNS)
    if source.kind == "function":
        function = source.given or function_named(source.name)
        start, end = _bounds(window)
        table = as_table(function(store, start, end))
        return _chosen(table, features)
    table = as_table(source.given) if source.kind == "table" else _read_files(source.name)
    if window is not None and time_column is not None:
        table = within(table, time_column, window)
    return _chosen(table, features, leave_out=() if time_column is None else (time_column,))


def read_in_parts(
    store: FeatureStore,
    source: Source,
    window: Window | None,
    *,
    features: Sequence[str] | None = None,
    time_column: str | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.Table]:
    """Read a window as :func:`read` does, of a group a few columns at a time, all of one moment.

    A million rows of twenty features are 160 MB that nobody needs side by side: a column is
    summed up by itself.  Let each part go before the next is taken.
    """
    if source.kind != "group":
        yield read(
            store, source, window, features=features, time_column=time_column, columns=columns
        )
        return
    from featurestore.engine.sql.query import run_queries, snapshots_of

    wanted, where, values = _asked_of(store, source.name, window, features)
    # Only how many columns are read together hangs on it, so it may be of another moment.
    rows = store.sql(f"SELECT count(*) AS n {where}", values)["n"][0].as_py()
    size = max(1, PART_VALUES // max(1, rows))
    parts = [wanted[at : at + size] for at in range(0, len(wanted), size)]
    queries = [f"SELECT {', '.join(map(_quoted, part))} {where}" for part in parts]
    snapshots = snapshots_of(store._database, store._now_us())  # noqa: SLF001  as store.sql does
    yield from run_queries(queries, values, snapshots)


def read_group(
    store: FeatureStore,
    name: str,
    window: Window | None,
    *,
    features: Sequence[str] | None = None,
    with_keys: bool = False,
) -> pa.Table:
    """Read features of a group's records whose event times lie in a window."""
    wanted, where, values = _asked_of(store, name, window, features, with_keys=with_keys)
    return store.sql(f"SELECT {', '.join(map(_quoted, wanted))} {where}", values)


def _asked_of(
    store: FeatureStore,
    name: str,
    window: Window | None,
    features: Sequence[str] | None,
    *,
    with_keys: bool = False,
) -> tuple[list[str], str, list[datetime]]:
    """Return the features to read of a group, and the rest of the SELECT with its values."""
    group = store.describe_feature_group(name)
    known = [feature.name for feature in group.features]
    wanted = [f.name for f in group.value_features] if features is None else list(features)
    wanted = [feature for feature in wanted if feature in known]
    if with_keys:
        wanted = list(dict.fromkeys([*group.record_identifier, group.event_time, *wanted]))
    if not wanted:
        raise UnknownFeature(
            f'"{name}" has none of the features asked for.'
            f"{did_you_mean((features or ['?'])[0], known)}"
        )
    time, rows = _quoted(group.event_time), f"FROM {_quoted(name)}"
    if window is None:
        return wanted, rows, []
    return wanted, f"{rows} WHERE {time} >= ? AND {time} < ?", [window.start, window.end]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _bounds(window: Window | None) -> tuple[datetime, datetime]:
    if window is None:
        raise InvalidInput("A function is asked for a window: give window=(start, end).")
    return window.start, window.end


def as_table(data: Any) -> pa.Table:
    """Return whatever a user calls a table as Arrow: Arrow, pandas, Polars, a dict of columns."""
    import pyarrow as pa

    if isinstance(data, pa.Table):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    if isinstance(data, dict):
        return pa.table(data)
    if hasattr(data, "__arrow_c_stream__"):
        return pa.table(data)
    raise InvalidInput(
        f"A {type(data).__name__} is no table: give Arrow, pandas, Polars, a dict of columns, or "
        "the path of a folder of Parquet."
    )


def _read_files(folder: str) -> pa.Table:
    import pyarrow as pa
    from pyarrow import parquet

    path = Path(folder)
    parts = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not parts or not parts[0].exists():
        raise InvalidInput(f"{folder} holds no Parquet files.")
    return pa.concat_tables([parquet.read_table(part) for part in parts], promote_options="default")


def within(table: pa.Table, time_column: str, window: Window) -> pa.Table:
    """Return the rows whose times lie in a window."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if time_column not in table.column_names:
        raise InvalidInput(
            f'There is no column "{time_column}".{did_you_mean(time_column, table.column_names)}'
        )
    times = table[time_column]
    if not pa.types.is_timestamp(times.type):
        raise InvalidInput(f'"{time_column}" is {times.type}; windows need timestamps.')
    times = times.cast(pa.timestamp("us", times.type.tz)).cast(pa.int64())
    inside = pc.and_(pc.greater_equal(times, window.start_us), pc.less(times, window.end_us))
    return table.filter(inside)


def _chosen(
    table: pa.Table, features: Sequence[str] | None, leave_out: Sequence[str] = ()
) -> pa.Table:
    names = table.column_names
    if features is None:
        return table.select([name for name in names if name not in leave_out])
    return table.select([name for name in features if name in names])


# ── captured requests ────────────────────────────────────────────────────────────────────────


def read_captured(
    folder: Path, window: Window | None, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read requests and answers captured in Model Monitor's format.

    Parameters
    ----------
    folder : Path
        ``.../yyyy/mm/dd/hh/*.jsonl`` below it, of one endpoint or transform job.
    columns : sequence of str, optional
        Names of CSV fields, those of the input first; else ``_c0``, ``_c1``, ... as Spark has
        them.  JSON brings its own names; an array gives fields as CSV does.

    Returns
    -------
    pyarrow.Table
        A row for each record of a request (a CSV body may have many lines), fields of the output
        beside those of the input, then ``event_id``, ``inference_id`` and ``inference_time``.
        Fields of CSV are text: their type is the baseline's to say.

    Raises
    ------
    InvalidInput
        With file and line, for a line that is not such a record.
    """
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    for path in sorted(folder.rglob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                rows += _captured_rows(json.loads(line), window, columns)
            except (KeyError, TypeError, ValueError) as error:
                raise InvalidInput(
                    f"{path}:{number} is no captured request: {type(error).__name__} {error}."
                ) from error
    names = dict.fromkeys(name for row in rows for name in row)
    found = {name: [row.get(name) for row in rows] for name in names}
    schema: dict[str, Any] = {}
    for name, values in found.items():
        if name == "inference_time":
            schema[name] = pa.array(values, pa.timestamp("us", "UTC"))
        else:
            schema[name] = _one_type(values)
    return pa.table(schema)


def _one_type(values: list[Any]) -> pa.Array:
    """Return values as one column: of text where JSON has sent now a number and now a text."""
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array(
            [None if v is None else v if isinstance(v, str) else json.dumps(v) for v in values]
        )


def _captured_rows(
    record: dict[str, Any], window: Window | None, columns: Sequence[str] | None
) -> Iterator[dict[str, Any]]:
    about = record["eventMetadata"]
    time_us = to_us(about["inferenceTime"], what="inferenceTime")
    if window is not None and not window.start_us <= time_us < window.end_us:
        return
    parts = [
        list(_bodies(record["captureData"][side]))
        for side in ("endpointInput", "endpointOutput")
        if side in record["captureData"]
    ]
    lengths = {len(part) for part in parts}
    if len(lengths) > 1:
        raise ValueError(f"{' inputs and '.join(map(str, map(len, parts)))} outputs")
    for bodies in zip(*parts, strict=True):
        row: dict[str, Any] = {}
        place = 0
        for body in bodies:
            for name, value in body:
                if name is not None:
                    row[name] = value
                    continue
                known = columns is not None and place < len(columns)
                row[columns[place] if columns is not None and known else f"_c{place}"] = value
                place += 1
        row["event_id"] = about["eventId"]
        row["inference_id"] = about.get("inferenceId")
        row["inference_time"] = time_us
        yield row


def _bodies(side: dict[str, Any]) -> Iterator[list[tuple[str | None, Any]]]:
    """Yield the records of one side: pairs of name and value, a name where the format has one."""
    data, encoding = side["data"], side["encoding"]
    content = side.get("observedContentType", "")
    if encoding == "BASE64":
        data = base64.b64decode(data).decode("utf-8")
        encoding = "JSON" if "json" in content else "CSV"
    if encoding == "CSV":
        for fields in csv.reader(io.StringIO(data)):
            if fields:
                yield [(None, field) for field in fields]
        return
    if encoding != "JSON":
        raise ValueError(f'encoding "{encoding}" is none of CSV, JSON and BASE64')
    texts = data.splitlines() if "jsonlines" in content else [data]
    for text in texts:
        value = json.loads(text) if isinstance(text, str) else text
        for item in _records(value):
            if isinstance(item, dict):
                yield list(item.items())
            elif isinstance(item, list):
                yield [(None, field) for field in item]
            else:
                yield [(None, item)]


def _records(value: Any) -> list[Any]:
    """Return the records of a JSON body: ``{"instances": [...]}`` and the like hold several."""
    if isinstance(value, dict):
        for name in ("instances", "predictions"):
            if isinstance(value.get(name), list):
                return list(value[name])
        return [value]
    if isinstance(value, list) and value and isinstance(value[0], list | dict):
        return value
    return [value]


def read_ground_truth(folder: Path) -> dict[str, Any]:
    """Return labels merged later, ``{"groundTruthData": ..., "eventMetadata": ...}``, by event id.

    Text of CSV with one field; of several for one id the last read counts.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                [[(_, value)]] = list(_bodies(record["groundTruthData"]))
                found[record["eventMetadata"]["eventId"]] = value
            except (KeyError, TypeError, ValueError) as error:
                raise InvalidInput(
                    f"{path}:{number} is no ground truth: {type(error).__name__} {error}."
                ) from error
    return found
