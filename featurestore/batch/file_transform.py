"""The files path: SageMaker Batch Transform's contract.

::

    in/flights-1.csv ──►┐                                           ┌──► out/flights-1.csv.out
    in/flights-2.csv ──►┤ split · filter · pack ► model ► join ·    ├──► out/flights-2.csv.out
    in/more/3.csv    ──►┘                         filter · assemble └──► out/more/3.csv.out

One output for each input, named after it, its records in the input's order; records of two files
never share a payload.  Several payloads of a file are with the model at a time, no more than twice
as many as there are processes: who reads waits for who writes.  A file that fails has no output;
the others are scored all the same, and then the job fails.

Exactly once
------------
A file's output grows under a temporary name.  Now and then it is synced, and then a line of the
progress log says how far the input has come with it::

    {"file": "flights-1.csv", "in": 6291456, "out": [0, 183211], "counts": [40001, 0]}

Killed and called again, the output is cut back to what the log says, and the input is read on from
there.  What the output holds is a function of the input and the model, wherever it was cut.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import time
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore import models
from featurestore.batch import capture as captured
from featurestore.batch import job as batch_job
from featurestore.batch import jsonpath, payloads
from featurestore.batch.client import Pool
from featurestore.batch.job import BatchJob, Fail, ProgressLog, Stop
from featurestore.batch.payloads import BadRecord
from featurestore.errors import FeatureStoreError, InvalidInput
from featurestore.event_time import duration_us
from featurestore.jobs import records
from featurestore.models.artefacts import sha256
from featurestore.storage import files, seam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from datetime import timedelta
    from typing import BinaryIO

    from featurestore.batch.payloads import Payload, Record
    from featurestore.store import FeatureStore

#: How often progress is made durable: what a kill costs in work done again.
LOG_SECONDS = 1.0
#: Records of one payload, where only bytes limit it.
RECORDS_MAX = 100_000
#: A share of errors means something from this many records on.
SHARE_RECORDS = 100


def transform(
    store: FeatureStore,
    model: str,
    source: str | Path,
    output: str | Path,
    *,
    content_type: str = payloads.CSV,
    accept: str | None = None,
    split: str = "Line",
    assemble: str | None = None,
    batch_strategy: str = "MultiRecord",
    max_payload_mb: int = 6,
    max_concurrent: int = 1,
    input_filter: str = "$",
    join: str = "None",
    output_filter: str = "$",
    compression: str = "None",
    on_error: str = "fail",
    max_error_share: float = 1.0,
    timeout: str | timedelta = "10m",
    retries: int = 0,
    handler: str | Path | None = None,
    capture: str | Path | None = None,
    name: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> BatchJob:
    """Score files; called again with the name of a job that was killed, go on with it.

    Parameters
    ----------
    store : FeatureStore
        Where the model is.
    model : str
        ``"late:3"``; see :func:`featurestore.models.get`.
    source : path
        A file, or a folder of them.
    output : path
        A folder: for each file of the source one of that name and ``.out``.
    content_type : {"text/csv", "application/jsonlines", "application/json",
            "application/x-recordio-protobuf", "application/x-parquet"}
        What the files hold.
    accept : str, optional
        What the model is to answer with: the same, unless given.
    split : {"Line", "RecordIO", "None"}
        Into what the files are split; ``"None"`` sends each whole.
    assemble : {"Line", "None"}, optional
        How answers become a file: each on a line, or one after the other as the model gave them.
        By default lines, where the source is split by lines.
    batch_strategy : {"MultiRecord", "SingleRecord"}
        As many records in a payload as fit, or one.
    max_payload_mb : int
        MiB of a payload; 0 for any number.  A record beyond it is an error.
    max_concurrent : int
        Processes of the model.
    input_filter, output_filter : str
        Which part of a record the model is given, and which part of the joined record is kept; see
        :mod:`featurestore.batch.jsonpath`.
    join : {"None", "Input"}
        Whether the answer is put to its record.
    compression : {"None", "Gzip"}
        Of the source.
    on_error : {"fail", "skip", "quarantine"}
        What a record does that cannot be scored: the job fails, the record is left out, or it is
        left out and put aside with file, line, reason and payload (:meth:`BatchJob.errors`).
    max_error_share : float
        The job fails when more of the records than this were left out.
    timeout : str or timedelta
        Of one payload.
    retries : int
        How often a payload is sent again when the model's process died or took too long; at most 3.
    handler : path, optional
        A script of one's own around the model; see :mod:`featurestore.batch.worker`.
    capture : path, optional
        A folder for capture records of what was scored; see :mod:`featurestore.batch.capture`.
    name : str, optional
        Of the job.
    progress : callable, optional
        Is given the number of records so far, now and then.

    Returns
    -------
    BatchJob
        Also of a job that failed: ask its ``status``.

    Raises
    ------
    InvalidInput, UnknownModel
        For a request that cannot be.
    """
    accept = content_type if accept is None else accept
    if assemble is None:
        assemble = "Line" if split == "Line" and accept != payloads.RECORDIO else "None"
    payloads.check_types(content_type, accept, split, assemble, join)
    for what, value, known in [
        ("batch_strategy", batch_strategy, ("MultiRecord", "SingleRecord")),
        ("compression", compression, ("None", "Gzip")),
        ("on_error", on_error, ("fail", "skip", "quarantine")),
    ]:
        if value not in known:
            raise InvalidInput(f"{what}= is {value!r}; it is one of {', '.join(known)}.")
    if max_payload_mb < 0 or max_concurrent < 1 or not 0 <= retries <= 3:
        raise InvalidInput("max_payload_mb is at least 0, max_concurrent 1, and retries 0 to 3.")
    filters = (jsonpath.parse(input_filter), jsonpath.parse(output_filter))
    has_text = payloads.is_text(content_type) and payloads.is_text(accept)
    if not all(chosen.is_whole for chosen in filters) and not has_text:
        raise InvalidInput("Filters are for CSV and JSON.")
    looks_inside = join == "Input" or not all(chosen.is_whole for chosen in filters)
    if looks_inside and payloads.CSV in (content_type, accept) and split != "Line":
        raise InvalidInput('Filters and join="Input" need split="Line" for CSV: SageMaker says so.')
    version = models.get(store, model)
    base = Path(source).expanduser().absolute()
    found = _inputs(base)
    request = {
        "model": version.reference,
        "source": str(base),
        "output": str(Path(output).expanduser().absolute()),
        "content_type": content_type,
        "accept": accept,
        "split": split,
        "assemble": assemble,
        "batch_strategy": batch_strategy,
        "max_payload_mb": max_payload_mb,
        "input_filter": input_filter,
        "join": join,
        "output_filter": output_filter,
        "compression": compression,
        "on_error": on_error,
        "max_error_share": max_error_share,
        "handler": "" if handler is None else str(Path(handler).expanduser().absolute()),
        "capture": "" if capture is None else str(Path(capture).expanduser().absolute()),
        "files": [[str(path.relative_to(found.base)), sha256(path)] for path in found.paths],
    }
    name = records.check_name(records.fresh_name(version.name) if name is None else name)
    lineage = {"model": version.reference, "digest": version.digest, "seq": store.snapshot()}
    full = f"{batch_job.PREFIX}/{name}"
    with records.running(store, full):
        record = batch_job.begin(store, name, request, lineage)
        if record["status"] != records.COMPLETED:
            seconds = duration_us(timeout, what="timeout") / 1e6
            _Transform(store, name, record, filters, progress).run(
                found, processes=max_concurrent, timeout=seconds, retries=retries
            )
    return BatchJob(store, name)


@dataclass(frozen=True)
class _Inputs:
    """The files of a job, and the folder their names are relative to."""

    base: Path
    paths: list[Path]


def _inputs(source: Path) -> _Inputs:
    if source.is_file():
        return _Inputs(source.parent, [source])
    found = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else []
    if not found:
        raise InvalidInput(f"{source} holds no files to score.")
    return _Inputs(source, found)


class _FileFailed(Fail):
    """A file cannot be scored; others may be."""


@dataclass
class _Counts:
    """How far a file has come: records, and how many of those are errors."""

    rows: int = 0
    errors: int = 0


class _Transform:
    """A job that is running."""

    def __init__(
        self,
        store: FeatureStore,
        name: str,
        record: dict[str, Any],
        filters: tuple[jsonpath.Filter, jsonpath.Filter],
        progress: Callable[[int], None] | None,
    ) -> None:
        self._store = store
        self._name = name
        self._full = f"{batch_job.PREFIX}/{name}"
        self._asked: dict[str, Any] = record["request"]
        self._created_at_us: int = record["created_at_us"]
        self._input_filter, self._output_filter = filters
        self._progress = progress
        self._folder = records.folder(store, self._full)
        self._counts: dict[str, _Counts] = {}
        self._teller = batch_job.Teller(store, name, float(record.get("seconds", 0.0)))

    def run(self, found: _Inputs, *, processes: int, timeout: float, retries: int) -> None:
        """Score all files, and write down how it went."""
        asked = self._asked
        (self._folder / "home").mkdir(parents=True, exist_ok=True)
        arguments = [str(self._store.path), asked["model"], asked["handler"]]
        records.move(self._store, self._full, "InProgress")
        log = ProgressLog(self._folder / "progress.jsonl")
        pool = Pool(
            processes, arguments, self._folder / "model.log", timeout=timeout, retries=retries
        )
        last = {entry["file"]: entry for entry in log.entries}
        self._counts = {name: _Counts(*entry["counts"]) for name, entry in last.items()}
        failed: list[str] = []
        try:
            with ThreadPoolExecutor(processes, "transform") as threads:
                for number, path in enumerate(found.paths):
                    name = str(path.relative_to(found.base))
                    try:
                        self._file(number, path, name, last.get(name), log, pool, threads)
                    except _FileFailed as error:
                        failed.append(str(error))
            _check_files(failed)
            self._check_share(at_end=True)
        except Stop:
            self._end("Stopped", records.STOPPED)
        except Fail as error:
            self._end("Failed", records.FAILED, failure=str(error))
        except (FeatureStoreError, OSError) as error:
            with contextlib.suppress(FeatureStoreError):
                self._end("Failed", records.FAILED, failure=f"InternalServerError: {error}")
            raise
        else:
            self._end("Completed", records.COMPLETED)
        finally:
            pool.close()
            log.close()

    # ── one file ─────────────────────────────────────────────────────────────────────────────

    def _file(
        self,
        number: int,
        path: Path,
        name: str,
        last: dict[str, Any] | None,
        log: ProgressLog,
        pool: Pool,
        threads: ThreadPoolExecutor,
    ) -> None:
        errors = self._folder / f"errors-{number:05d}.jsonl"
        finals = [Path(self._asked["output"]) / f"{name}.out"]
        if self._asked["capture"]:
            folder = Path(self._asked["capture"])
            finals.append(captured.path(folder, self._name, name, self._created_at_us))
        parts = [f.with_name(f".{f.name}.{self._name}.part") for f in finals]
        last = {"in": 0, "out": [0, 0, 0]} if last is None else last
        self._counts.setdefault(name, _Counts())
        if not last.get("done"):
            for one in finals:
                files.make_folder(one.parent)
            with contextlib.ExitStack() as open_files:
                outs = [
                    open_files.enter_context(_cut(at, size))
                    for at, size in zip([errors, *parts], last["out"], strict=False)
                ]
                end = self._records(path, name, last["in"], outs, log, pool, threads)
                self._note(log, name, end, outs, done=True)
        if errors.exists() and not errors.stat().st_size:
            files.remove(errors)
        # All of it is on disk, and the log says so; the names may be missing yet.
        for part, to in zip(parts, finals, strict=True):
            if part.exists():
                files.publish(part, to)

    def _records(
        self,
        path: Path,
        name: str,
        after: int,
        outs: list[BinaryIO],
        log: ProgressLog,
        pool: Pool,
        threads: ThreadPoolExecutor,
    ) -> int:
        """Score the rest of a file; returns where it ends."""
        asked = self._asked
        kinds = (asked["content_type"], asked["accept"], asked["split"])
        waiting: deque[tuple[Payload, Future[list[bytes | BadRecord]]]] = deque()
        logged_at, end = time.monotonic(), after
        sent = self._payloads(path, name, after)
        try:
            while True:
                while len(waiting) < 2 * pool.count and (payload := next(sent, None)):
                    waiting.append((payload, threads.submit(pool.answers, payload.data, *kinds)))
                if not waiting:
                    return end
                payload, future = waiting.popleft()
                found = future.result()
                for record, data, answer in zip(payload.records, payload.data, found, strict=True):
                    self._write(record, data, answer, name, outs)
                end = payload.records[-1].end
                if time.monotonic() - logged_at >= LOG_SECONDS:
                    self._note(log, name, end, outs)
                    self._check_share()
                    batch_job.require_unasked(self._store, self._name)
                    logged_at = time.monotonic()
        finally:
            for _, future in waiting:
                future.cancel()

    def _payloads(self, path: Path, name: str, after: int) -> Iterator[Payload]:
        asked = self._asked
        limit = asked["max_payload_mb"] << 20
        framed = {"Line": 1, "RecordIO": 8}.get(asked["split"], 0)

        def given() -> Iterator[tuple[Record, bytes | BadRecord]]:
            compressed = asked["compression"] == "Gzip"
            found = payloads.records(path, asked["split"], compressed=compressed, after=after)
            for record in found:
                try:
                    data = payloads.given(record.data, asked["content_type"], self._input_filter)
                except BadRecord as error:
                    yield record, error
                    continue
                is_too_large = limit and len(data) + framed > limit
                why = f"the record has {len(data):,} bytes, more than max_payload_mb"
                yield record, BadRecord(why) if is_too_large else data

        most = 1 if asked["batch_strategy"] == "SingleRecord" else RECORDS_MAX
        try:
            yield from payloads.pack(given(), framed=framed, bytes_max=limit, records_max=most)
        except (BadRecord, EOFError, OSError, zlib.error) as error:
            raise _FileFailed(f"ClientError: {name}: {error}") from error

    def _write(
        self,
        record: Record,
        data: bytes | BadRecord,
        answer: bytes | BadRecord,
        name: str,
        outs: list[BinaryIO],
    ) -> None:
        """Write what became of a record: to the output, or to the errors."""
        asked = self._asked
        counts = self._counts[name]
        counts.rows += 1
        try:
            if isinstance(answer, BadRecord):
                raise answer
            if asked["assemble"] == "Line":
                answer = answer.rstrip(b"\r\n")
            line = self._kept(record, answer)
        except BadRecord as error:
            if asked["on_error"] == "fail":
                raise _FileFailed(f"ClientError: {name}:{record.number}: {error}") from error
            counts.errors += 1
            if asked["on_error"] == "quarantine":
                outs[0].write(_put_aside(record, name, str(error)))
            return
        outs[1].write(line + b"\n" if asked["assemble"] == "Line" else line)
        if asked["capture"]:
            assert isinstance(data, bytes)  # noqa: S101  it was answered
            event = f"{self._name}/{name}/{record.number}"
            kinds = (asked["content_type"], asked["accept"])
            outs[2].write(
                captured.line(event, self._created_at_us, data, kinds[0], answer, kinds[1])
            )

    def _kept(self, record: Record, answer: bytes) -> bytes:
        """Return what the output has of a record."""
        accept = self._asked["accept"]
        if self._asked["join"] == "Input":
            text = record.data.rstrip(b"\r\n") if accept == payloads.CSV else record.data
            return payloads.joined(text, answer, accept, self._output_filter)
        found = payloads.given(answer, accept, self._output_filter)
        if accept == payloads.RECORDIO and self._asked["split"] != "None":
            return payloads.as_recordio(found)
        return found

    # ── what is durable ──────────────────────────────────────────────────────────────────────

    def _note(
        self,
        log: ProgressLog,
        name: str,
        end: int,
        outs: list[BinaryIO],
        **more: Any,
    ) -> None:
        """Make what was written durable, then say how far the input has come with it."""
        for out in outs:
            out.flush()
            seam.call("fsync", out.name, os.fsync, out.fileno())
        counts = self._counts[name]
        sizes = [out.tell() for out in outs]
        log.add(file=name, **{"in": end}, out=sizes, counts=[counts.rows, counts.errors], **more)
        rows, errors = self._totals()
        self._teller.tell(rows, errors)
        if self._progress is not None:
            self._progress(rows)

    def _totals(self) -> tuple[int, int]:
        """Return the records of all files so far, and how many of those are errors."""
        counts = self._counts.values()
        return sum(one.rows for one in counts), sum(one.errors for one in counts)

    def _check_share(self, *, at_end: bool = False) -> None:
        rows, errors = self._totals()
        enough = at_end or rows >= SHARE_RECORDS
        if enough and errors > self._asked["max_error_share"] * rows:
            raise Fail(f"ClientError: {errors:,} of {rows:,} records could not be scored.")

    def _end(self, secondary: str, status: str, **facts: Any) -> None:
        rows, errors = self._totals()
        facts |= {"rows": rows, "errors": errors, "seconds": self._teller.seconds}
        records.move(self._store, self._full, secondary, status=status, **facts)


def _check_files(failed: list[str]) -> None:
    if failed:
        more = f" ({len(failed) - 1} more of the files failed)" if failed[1:] else ""
        raise Fail(f"{failed[0]}{more}")


def _cut(path: Path, size: int) -> BinaryIO:
    """Open a file to go on at a place; what is behind it was not said to be there."""
    out = path.open("r+b" if path.exists() else "w+b")
    out.truncate(size)
    out.seek(size)
    return out


def _put_aside(record: Record, name: str, reason: str) -> bytes:
    """Return the line of a record that could not be scored."""
    entry: dict[str, Any] = {"file": name, "line": record.number, "reason": reason}
    try:
        entry["payload"] = record.data.decode()
    except UnicodeDecodeError:
        entry["payload_base64"] = base64.b64encode(record.data).decode()
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"
