"""History over HTTP: SQL, the point-in-time join, changes and those who follow them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featurestore import wire
from featurestore.event_time import duration_us, format_us, to_us
from featurestore.feature_view import expand
from featurestore.remote.connection import duration, names, zone_name
from featurestore.remote.groups import Groups
from featurestore.remote.tables import (
    Sent,
    beside,
    beside_in_order,
    columns_sent,
    lines,
    stream,
    streams,
)

if TYPE_CHECKING:
    from datetime import datetime, timedelta, tzinfo

    import pyarrow as pa

#: Joins of more labels than this are jobs: no connection has to stay silent until they are done.
_JOB_ROWS = 200_000


class History(Groups):
    """The verbs of history."""

    def sql(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        tables: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """Run a SELECT over feature groups, fresh to the last commit."""
        values = None if params is None else wire.exact(params)
        if tables is None:
            asked = {"query": query, "params": values}
            return self._table("POST", "/v1/sql", asked)
        words = [("query", query)] + ([] if values is None else [("params", json.dumps(values))])
        body = Sent(lambda: streams(tables))
        return self._table("POST", "/v1/sql", query=words, body=body, kind=wire.ARROW)

    def point_in_time(
        self,
        labels: Any,
        features: Any,
        label_time: str | None = None,
        *,
        as_of: int | datetime | None = None,
        known: str = "event_time",
        tz: str | tzinfo | None = None,
        with_status: bool = False,
        explain: bool = False,
        last_n: int | None = None,
        stream: bool = False,
        memory_limit: int = 1 << 30,
    ) -> Any:
        """Join each label with what was known at its moment.

        Only the columns that the join reads are sent; what comes back stands beside the caller's
        own table.  With ``stream=True`` labels of any number are sent as they are read, kept in a
        file, and given back as the answer is received; ``memory_limit`` is the server's affair
        then, and only checked here.
        """
        from featurestore.engine import frames
        from featurestore.engine.point_in_time import batches

        lookups = expand(features, self.describe_feature_view)
        if last_n is not None:
            lookups = tuple(
                lookup if lookup.last_n is not None else replace(lookup, last_n=last_n)
                for lookup in lookups
            )
        query = [("features", json.dumps(lookup.to_json())) for lookup in lookups]
        query += [("known", known), ("with_status", str(with_status).lower())]
        query += [("explain", "true")] if explain else []
        query += [] if label_time is None else [("label_time", label_time)]
        query += [] if (zone := zone_name(tz)) is None else [("tz", zone)]
        if as_of is not None:
            whole = isinstance(as_of, int) and not isinstance(as_of, bool)
            seq = str(as_of) if whole else format_us(to_us(as_of, what="as_of"))
            query.append(("as_of", seq))
        times = [label_time or "event_time"]
        if stream:
            batches.require_memory(memory_limit)
            return self._streamed(batches.stretches(labels), lookups, times, query)
        frame = frames.accept(batches.whole(labels), "labels")
        wanted = self._columns_read(lookups, frames.column_names(frame), times)
        sent = columns_sent(frame, wanted, what="labels")
        body = Sent(lambda: streams({"": sent}))
        if sent.num_rows > _JOB_ROWS:
            with self._joined(query, body) as reader:
                found = reader.read_all()
        else:
            options: dict[str, Any] = {"query": query, "body": body, "kind": wire.ARROW}
            found = self._table("POST", "/v1/point-in-time", **options)
        return beside(frame, found, sent.num_columns)

    def _joined(self, query: Sequence[tuple[str, str]], body: Any) -> pa.RecordBatchReader:
        """Do a join as a job; returns its answer, to be received."""
        _, href = self._job("/v1/point-in-time", query, body=body, kind=wire.ARROW)
        return self._reader("GET", f"{href}/table")

    def _streamed(
        self, labels: Any, lookups: Any, times: list[str], query: Sequence[tuple[str, str]]
    ) -> pa.RecordBatchReader:
        """Send labels as they are read, and put what comes back beside them, batch by batch."""
        import tempfile

        import pyarrow as pa

        wanted = self._columns_read(lookups, labels.schema.names, times)
        sent_columns = max(len(wanted), 1)
        with contextlib.ExitStack() as undo:
            kept = undo.enter_context(tempfile.TemporaryFile())
            with pa.ipc.new_stream(pa.PythonFile(kept, mode="w"), labels.schema) as writer:

                def columns() -> Iterator[pa.Table]:
                    for batch in labels.batches:
                        writer.write_batch(batch)
                        yield columns_sent(pa.Table.from_batches([batch]), wanted, what="labels")

                empty = columns_sent(labels.schema.empty_table(), wanted, what="labels")
                body = (piece for piece, _ in stream(empty.schema, columns()))
                answer = self._joined(query, body)
            kept.seek(0)
            undo.pop_all()  # it is closed with the answer
        return beside_in_order(kept, answer, sent_columns)

    def snapshot(self) -> int:
        """Return the seq of the last commit: a token for ``as_of=`` and ``since=``."""
        return int(self._json("GET", "/v1/snapshot")["seq"])

    # ── changes ──────────────────────────────────────────────────────────────────────────────

    def changes(
        self,
        since: int | None = None,
        groups: Sequence[str] | None = None,
        *,
        consumer: str | None = None,
        follow: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Yield every accepted record after a seq, in commit order.

        With ``follow`` it goes on as records are accepted, and does not end by itself.
        """
        query = [("follow", str(follow).lower()), ("exact", "true")]
        query += [] if since is None else [("since", str(since))]
        query += [] if consumer is None else [("consumer", consumer)]
        query += [] if groups is None else [("group", name) for name in names(groups)]
        return self._events(self._request("GET", "/v1/changes", query=query, stream=True))

    def _events(self, answer: Any) -> Iterator[dict[str, Any]]:
        try:
            for line in lines(answer, self._url):
                if line.startswith(b"data: "):
                    yield wire.from_exact(json.loads(line[6:]))
        finally:
            answer.close()

    def create_consumer(
        self,
        name: str,
        *,
        since: int = 0,
        max_lag: str | timedelta | None = "7d",
        max_lag_records: int | None = None,
        exist_ok: bool = False,
    ) -> int:
        """Follow the changes under a name: the store remembers how far you have come."""
        lag_us = None if max_lag is None else duration_us(max_lag, what="max_lag")
        asked = {
            "name": name,
            "since": since,
            "max_lag": duration(lag_us),
            "max_lag_records": max_lag_records,
            "exist_ok": exist_ok,
        }
        return int(self._write("POST", "/v1/consumers", asked)["seq"])

    def acknowledge(self, consumer: str, seq: int) -> None:
        """Say that a consumer has dealt with every change up to a seq; a mark never moves back."""
        self._write("POST", "/v1/consumers/acknowledge", {"consumer": consumer, "seq": seq})

    def delete_consumer(self, name: str) -> None:
        """Forget a consumer: nothing is held for it any more.  :meth:`stat` lists all of them."""
        self._write("DELETE", "/v1/consumers", query=[("name", name)])
