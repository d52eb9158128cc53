"""The block path: labels in, predictions out, and back into the store.

::

    labels ─┐
    SQL ────┤ units of rows ─► features as of then ─► float32 ─► model ─► part-00000.parquet
    Parquet ┘     (reader thread)                            (writer thread)    │
                                                                                ▼
                              feature group: record ids, scored_at, score, model_version, unit

The model remembers its features, so whoever asks gives the labels only.

Exactly once
------------
A unit's output is written under a temporary name, synced and renamed, written back under an id that
is the unit's own, and then told to the progress log.  Killed in between, the unit is done again, to
the same bytes, and the store knows the id.  What a unit sees is fixed when the job begins: the seq
of the store, and the moment that "now" is.

Rows that kill
--------------
The model runs in the caller's process, which is cheapest; a row that kills the model (a fault in
its library's C) kills the caller, too.  ``isolate=True`` puts it into a process of its own, by the
files path's means (:mod:`featurestore.batch.client`): that one dies, and the unit is halved until
the row is found.  A job that a row has killed may be called again so, and goes on.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import models
from featurestore.batch import blocks, pipeline, sources
from featurestore.batch import capture as captured
from featurestore.batch import job as batch_job
from featurestore.batch.client import Client, Died, Refused
from featurestore.batch.job import BatchJob, Fail, ProgressLog, Stop
from featurestore.errors import FeatureStoreError, InvalidInput
from featurestore.event_time import duration_us, to_datetime, to_us
from featurestore.feature_view import expand
from featurestore.jobs import records
from featurestore.storage import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime, timedelta

    from numpy.typing import NDArray

    from featurestore.models import ModelVersion
    from featurestore.models.formats import Scorer
    from featurestore.store import FeatureStore

UNIT_ROWS = 131_072
MOMENT = pa.timestamp("us", tz="UTC")
SCORED_AT = "scored_at"


def score(
    store: FeatureStore,
    model: str,
    source: Any,
    *,
    label_time: str | None = None,
    at: datetime | str | None = None,
    as_of: int | datetime | None = None,
    known: str = "event_time",
    features: Any = None,
    output: str | Path | None = None,
    keep: Sequence[str] | None = None,
    write_to: str | None = None,
    record_id: Sequence[str] | str = (),
    unit_rows: int = UNIT_ROWS,
    on_error: str = "fail",
    max_error_share: float = 1.0,
    isolate: bool = False,
    timeout: str | timedelta = "10m",
    capture: str | Path | None = None,
    name: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> BatchJob:
    """Score rows; called again with the name of a job that was killed, go on with it.

    Parameters
    ----------
    store : FeatureStore
        Where the model and its features are.
    model : str
        ``"late:3"``; see :func:`featurestore.models.get`.
    source : table, SQL, path, list of paths, or TrainingSet
        The rows.  Those of them that lack the model's columns are labels: keys, for which the
        model's features are looked up.
    label_time : str, optional
        The labels' column of times: features are those known then.
    at : datetime or str, optional
        Instead of such a column, one moment for all; by default the job's beginning, "now".
    as_of, known
        As of :meth:`FeatureStore.point_in_time`; by default the store as it is when the job begins.
    features : references, optional
        Instead of those the model remembers.
    output : path, optional
        A folder for the predictions; by default in the job's.
    keep : sequence of str, optional
        Columns of the source that the predictions have, too; by default all but the model's own.
    write_to : str, optional
        A feature group for the predictions, made if it is not there: the record ids, ``scored_at``
        (the job's beginning), ``score``, ``model_version``, ``unit``.
    record_id : str or sequence of str
        Columns of the source that tell the predictions apart, for ``write_to``.
    unit_rows : int
        Rows of a unit; of Parquet a unit is a row group.
    on_error : {"fail", "skip", "quarantine"}
        What a row does that the model refuses: the job fails, the row is left out, or it is left
        out and put aside with unit, row, reason and values (:meth:`BatchJob.errors`).
    max_error_share : float
        The job fails when more of the rows than this were left out.
    isolate : bool
        Whether the model runs in a process of its own, in one thread: a row that kills it is then
        as one that it refuses.  A job that began without may go on with it.
    timeout : str or timedelta
        Of such a process, for one unit: then it is killed, and the unit halved.
    capture : path, optional
        A folder for capture records; see :mod:`featurestore.batch.capture`.
    name : str, optional
        Of the job.
    progress : callable, optional
        Is given the number of rows so far, after each unit.

    Returns
    -------
    BatchJob
        ``output`` has a Parquet file for each unit.

    Raises
    ------
    InvalidInput, UnknownModel
        For a request that cannot be.
    """
    if on_error not in ("fail", "skip", "quarantine"):
        raise InvalidInput(f'on_error= is {on_error!r}; it is "fail", "skip" or "quarantine".')
    ids = [record_id] if isinstance(record_id, str) else list(record_id)
    if (write_to is None) != (not ids):
        raise InvalidInput("write_to= and record_id= go together.")
    if unit_rows < 1:
        raise InvalidInput("unit_rows= is at least 1.")
    version = models.get(store, model)
    name = records.check_name(records.fresh_name(version.name) if name is None else name)
    full = f"{batch_job.PREFIX}/{name}"
    with records.running(store, full):
        folder = records.folder(store, full)
        units = sources.source_of(store, source, unit_rows, folder)
        lookups = () if features is None else expand(features, store.describe_feature_view)
        request = {
            "model": version.reference,
            "source": units.digest(),
            "unit_rows": unit_rows,
            "label_time": label_time,
            "at": None if at is None else to_us(at, what="at"),
            "as_of": as_of
            if isinstance(as_of, int) or as_of is None
            else to_us(as_of, what="as_of"),
            "known": known,
            "features": [lookup.to_json() for lookup in lookups],
            "output": str(folder / "output" if output is None else Path(output).absolute()),
            "keep": None if keep is None else list(keep),
            "write_to": write_to,
            "record_id": ids,
            "on_error": on_error,
            "max_error_share": max_error_share,
            "capture": "" if capture is None else str(Path(capture).expanduser().absolute()),
        }
        lineage = {"model": version.reference, "digest": version.digest, "seq": store.snapshot()}
        record = batch_job.begin(store, name, request, lineage, rows_in_all=units.rows)
        if record["status"] != records.COMPLETED:
            seconds = duration_us(timeout, what="timeout") / 1e6 if isolate else None
            work = _Scoring(store, name, record, version, units, progress, seconds)
            work.run(lookups or version.lookups)
    return BatchJob(store, name)


class _Scoring:
    """A job that is running."""

    def __init__(
        self,
        store: FeatureStore,
        name: str,
        record: dict[str, Any],
        version: ModelVersion,
        units: sources.Table | sources.ParquetFiles,
        progress: Callable[[int], None] | None,
        timeout: float | None,
    ) -> None:
        self._store = store
        self._name = name
        self._full = f"{batch_job.PREFIX}/{name}"
        self._asked: dict[str, Any] = record["request"]
        self._seq = int(record["lineage"]["seq"])
        self._began_us = int(record["created_at_us"])
        self._version = version
        self._units = units
        self._progress = progress
        self._timeout = timeout  # None where the model runs in this process
        self._folder = records.folder(store, self._full)
        self._output = Path(self._asked["output"])
        self._rows = self._errors = 0
        self._teller = batch_job.Teller(store, name, float(record.get("seconds", 0.0)))

    def run(self, lookups: Sequence[Any]) -> None:
        """Score what is left, and write down how it went."""
        files.make_folder(self._output)
        log = ProgressLog(self._folder / "progress.jsonl")
        for entry in log.entries:
            self._rows += entry["rows"]
            self._errors += entry["errors"]
        try:
            read, kept = self._reading(lookups, first=len(log.entries))
            self._group(kept)
            with self._scorer() as scorer:
                # Only what the next stage needs goes on: memory that is free early is used again.
                pipeline.run(
                    ((unit, table.select(kept), self._block(table)) for unit, table in read),
                    lambda item: (item[0], item[1], *self._scored(scorer, item[2])),
                    lambda item: self._write(log, *item),
                )
            self._check_share()
        except Stop:
            self._end("Stopped", records.STOPPED)
        except Fail as error:
            self._end("Failed", records.FAILED, failure=str(error))
        except (FeatureStoreError, OSError, pa.ArrowException) as error:
            with contextlib.suppress(FeatureStoreError):
                self._end("Failed", records.FAILED, failure=f"{type(error).__name__}: {error}")
            raise
        else:
            self._end("Completed", records.COMPLETED)
        finally:
            log.close()

    # ── reading ──────────────────────────────────────────────────────────────────────────────

    def _reading(
        self, lookups: Sequence[Any], first: int
    ) -> tuple[Iterator[tuple[int, pa.Table]], list[str]]:
        """Return the units with the model's columns, and the columns that are kept of them."""
        asked, schema = self._asked, self._units.schema
        inputs = self._inputs()
        needs_join = bool(lookups) and any(name not in schema.names for name in inputs)
        kept = asked["keep"]
        if kept is None:
            kept = [n for n in schema.names if needs_join or n not in inputs]
        kept = list(dict.fromkeys([*kept, *asked["record_id"]]))
        if not needs_join:
            blocks.require(schema, [*inputs, *kept])
            wanted = list(dict.fromkeys([*inputs, *kept]))
            return self._units.read(first, wanted), kept
        blocks.require(schema, kept)
        options = {
            "as_of": self._seq if asked["as_of"] is None else asked["as_of"],
            "known": asked["known"],
        }
        if asked["label_time"] is not None:
            joined = self._units.joined(
                self._store, first, lookups, {**options, "label_time": asked["label_time"]}
            )
            return joined, kept
        moment = self._began_us if asked["at"] is None else asked["at"]
        timed = _WithMoment(self._units, moment)
        joined = timed.joined(
            self._store, first, lookups, {**options, "label_time": sources.ASKED_AT}
        )
        return joined, kept

    def _inputs(self) -> list[str]:
        inputs = list(self._version.inputs)
        if not inputs:
            raise Fail(
                f"The model {self._version.reference} does not say what its columns are: register "
                "it with its training set, or with inputs=."
            )
        return inputs

    def _block(self, table: pa.Table) -> NDArray[np.float32]:
        version = self._version
        blocks.require(table.schema, version.inputs)
        return blocks.rows_of(table, version.inputs, version.categories, version.fills)

    # ── scoring ──────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def _scorer(self) -> Iterator[Scorer]:
        """Yield the model as a function: of this process, or asking another that runs it."""
        if self._timeout is None:
            yield models.load(self._store, self._version).score
            return
        (self._folder / "home").mkdir(parents=True, exist_ok=True)
        arguments = [str(self._store.path), self._version.reference]
        asked = Client(arguments, self._folder / "model.log", self._timeout)
        with contextlib.closing(asked):
            yield asked.score

    def _scored(
        self, scorer: Scorer, rows: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], list[tuple[int, str]], NDArray[np.float32] | None]:
        """Return scores, why some rows have none, and the rows if they are to be told of."""
        batch_job.require_unasked(self._store, self._name)
        refused: list[tuple[int, str]] = []
        parts = self._bisected(scorer, rows, 0, refused) if len(rows) else []
        scores = np.concatenate(parts) if parts else np.empty(0)
        if refused and self._asked["on_error"] == "fail":
            raise Fail(f"The model refuses row {self._rows + refused[0][0]:,}: {refused[0][1]}")
        return scores, refused, rows if refused or self._asked["capture"] else None

    def _bisected(
        self, scorer: Scorer, rows: NDArray[np.float32], start: int, refused: list[tuple[int, str]]
    ) -> list[NDArray[np.float64]]:
        """Score rows; what the model refuses is halved until it is one row."""
        try:
            scores = scorer(rows)
        except Fail:
            raise
        except Exception as error:  # noqa: BLE001  whatever a model raises is its answer
            if len(rows) == 1:
                is_told = isinstance(error, (Refused, Died))
                why = str(error) if is_told else f"{type(error).__name__}: {error}"
                refused.append((start, why))
                return []
        else:
            if len(scores) != len(rows):
                raise Fail(f"The model gave {len(scores):,} scores to {len(rows):,} rows.")
            return [scores]
        middle = len(rows) // 2
        return [
            *self._bisected(scorer, rows[:middle], start, refused),
            *self._bisected(scorer, rows[middle:], start + middle, refused),
        ]

    # ── writing ──────────────────────────────────────────────────────────────────────────────

    def _write(
        self,
        log: ProgressLog,
        unit: int,
        table: pa.Table,
        scores: NDArray[np.float64],
        refused: list[tuple[int, str]],
        rows: NDArray[np.float32] | None,
    ) -> None:
        """Make a unit's output durable, write it back, and say so."""
        asked = self._asked
        is_scored = np.ones(table.num_rows, bool)
        is_scored[[row for row, _ in refused]] = False
        base = table.filter(pa.array(is_scored)) if refused else table
        predictions = _with_scores(base, scores)
        stamp = pa.DictionaryArray.from_arrays(
            pa.array(np.zeros(len(scores), np.int8)), [self._version.reference]
        )
        predictions = predictions.append_column("model_version", stamp)
        if asked["on_error"] == "quarantine" and refused and rows is not None:
            text = "".join(self._put_aside(unit, rows, row, why) for row, why in refused)
            self._publish(self._folder / f"errors-{unit:05d}.jsonl", text.encode())
        if asked["capture"] and rows is not None:
            self._capture(unit, rows[is_scored], scores)
        final = self._output / f"part-{unit:05d}.parquet"
        temporary = final.with_name(f".{final.name}.tmp")
        _write_parquet(predictions, temporary)
        files.publish(temporary, final)
        if asked["write_to"]:
            self._write_back(unit, predictions)
        log.add(unit=unit, rows=table.num_rows, errors=len(refused))
        self._rows += table.num_rows
        self._errors += len(refused)
        self._teller.tell(self._rows, self._errors)
        if self._progress is not None:
            self._progress(self._rows)

    def _put_aside(self, unit: int, rows: NDArray[np.float32], row: int, why: str) -> str:
        values = dict(zip(self._version.inputs, rows[row].tolist(), strict=True))
        entry = {"file": f"unit {unit}", "line": row + 1, "reason": why, "payload": values}
        return json.dumps(entry, ensure_ascii=False) + "\n"

    def _capture(self, unit: int, rows: NDArray[np.float32], scores: NDArray[np.float64]) -> None:
        lines = []
        pairs = zip(rows.tolist(), scores.tolist(), strict=True)
        for number, (given, found) in enumerate(pairs):
            told = found if isinstance(found, list) else [found]
            event = f"{self._name}/{unit}/{number}"
            sides = (_cells(given), "text/csv", _cells(told), "text/csv")
            lines.append(captured.line(event, self._began_us, *sides))
        folder = Path(self._asked["capture"])
        path = captured.path(folder, self._name, f"unit-{unit:05d}", self._began_us)
        self._publish(path, b"".join(lines))

    @staticmethod
    def _publish(path: Path, content: bytes) -> None:
        files.make_folder(path.parent)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(content)
        files.publish(temporary, path)

    # ── write-back ───────────────────────────────────────────────────────────────────────────

    def _group(self, kept: Sequence[str]) -> None:
        """Make the feature group of the predictions, unless it is there."""
        name = self._asked["write_to"]
        if not name or name in {group.name for group in self._store.list_feature_groups()}:
            return
        ids = self._asked["record_id"]
        blocks.require(pa.schema([self._units.schema.field(n) for n in kept]), ids)
        fields = [self._units.schema.field(column) for column in ids]
        fields += [pa.field(SCORED_AT, MOMENT), pa.field("score", pa.float64())]
        fields += [pa.field("model_version", pa.string()), pa.field("unit", pa.string())]
        self._store.create_feature_group(
            name,
            record_identifier=ids,
            event_time=SCORED_AT,
            features=pa.schema(fields),
            description=f"predictions of {self._version.name}",
            exist_ok=True,
        )

    def _write_back(self, unit: int, predictions: pa.Table) -> None:
        """Put a unit's predictions into the store, once."""
        if "score" not in predictions.column_names:
            raise Fail("Only one score for each row can be written back; this model gives several.")
        rows = predictions.num_rows
        record = {
            **{column: predictions[column] for column in self._asked["record_id"]},
            SCORED_AT: pa.array([to_datetime(self._began_us)] * rows, MOMENT),
            "score": predictions["score"],
            "model_version": pa.array([self._version.reference] * rows, pa.string()),
            "unit": pa.array([f"{self._name}/{unit}"] * rows, pa.string()),
        }
        if rows:
            table = pa.table(record)
            self._store.ingest(self._asked["write_to"], table, id=f"{self._full}/{unit}")

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    def _check_share(self) -> None:
        if self._errors > self._asked["max_error_share"] * self._rows:
            raise Fail(f"The model refused {self._errors:,} of {self._rows:,} rows.")

    def _end(self, secondary: str, status: str, **facts: Any) -> None:
        told = {
            "rows": self._rows,
            "errors": self._errors,
            "seconds": self._teller.seconds,
            **facts,
        }
        records.move(self._store, self._full, secondary, status=status, **told)


class _WithMoment:
    """Units whose labels are all asked at one moment."""

    def __init__(self, units: sources.Table | sources.ParquetFiles, at_us: int) -> None:
        self._units = units
        self._at = to_datetime(at_us)

    def joined(
        self, store: FeatureStore, first: int, lookups: Sequence[Any], options: dict[str, Any]
    ) -> Iterator[tuple[int, pa.Table]]:
        """Yield the units from one on, each row with its features."""
        for unit, table in self._units.read(first, self._units.schema.names):
            moments = pa.array([self._at] * table.num_rows, MOMENT)
            timed = table.append_column(sources.ASKED_AT, moments)
            yield unit, store.point_in_time(timed, list(lookups), **options)


def _write_parquet(table: pa.Table, path: Path) -> None:
    """Write predictions; what it costs is much of what a unit costs beside its model.

    Numbers hardly repeat, and looking for those that do takes longer than writing them.  Integers
    are ids and times above all: their differences are short, and leave zstd nothing to do.  Scores
    are as good as random: zstd takes as long to find out as all the rest does.
    """
    repeat = [f.name for f in table.schema if not pa.types.is_primitive(f.type)]
    counted = [f.name for f in table.schema if pa.types.is_integer(f.type)]
    scores = [name for name in table.column_names if name.startswith("score")]
    pq.write_table(
        table, path, use_dictionary=repeat,
        compression=dict.fromkeys(table.column_names, "zstd") | dict.fromkeys(scores, "none"),
        column_encoding=dict.fromkeys(counted, "DELTA_BINARY_PACKED"),
    )  # fmt: skip


def _cells(values: Sequence[float]) -> bytes:
    """Return numbers as CSV; what is missing is empty, since a monitor would take NaN for text."""
    text = ",".join("" if value != value else repr(value) for value in values)  # noqa: PLR0124
    return text.encode() or b'""'  # one empty field, and not no line at all


def _with_scores(table: pa.Table, scores: NDArray[np.float64]) -> pa.Table:
    if scores.ndim == 1:
        return table.append_column("score", pa.array(scores))
    for place in range(scores.shape[1]):
        table = table.append_column(f"score_{place}", pa.array(scores[:, place]))
    return table
