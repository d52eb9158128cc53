"""What is too large, too slow or too much is refused, before it costs anything."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import urllib3

import featurestore as fs
from featurestore import wire
from featurestore_server.problems import TooManyRequests, problem
from tests.server.serving import LIMITS, serving

SMALL = LIMITS._replace(
    json_bytes=100_000, line_bytes=10_000, whole_bytes=4 << 20, upload_bytes=8 << 20,
    batch_bytes=2 << 20, decoded_bytes=16 << 20, keys=50, stall_seconds=1.0,
)  # fmt: skip
FEATURES = {"k": "string", "at": "timestamp", "x": "float64", "s": "string"}
AT = "2013-01-01T12:00:00Z"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with fs.open(tmp_path_factory.mktemp("limits") / "store") as store:
        store.create_feature_group("g", record_identifier="k", event_time="at", features=FEATURES)
        with serving(store, SMALL) as where:
            yield where
        assert store.snapshot() == 0, "something that was refused was stored all the same"


def post(url: str, path: str, body: Any, kind: str = "application/json") -> tuple[int, Any]:
    http = urllib3.PoolManager(retries=False)
    answer = http.request("POST", url + path, body=body, headers={"content-type": kind})
    return answer.status, json.loads(answer.data)


def memory_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


# ── bodies that are too large ────────────────────────────────────────────────────────────────


def endless(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/groups", "application/json"),
        ("/v1/batch-get", "application/json"),
        ("/v1/groups/g/records", "application/json"),
        ("/v1/groups/g/ingest", "application/json"),
        ("/v1/groups/g/ingest", wire.JSON_LINES),
        ("/v1/groups/g/ingest", wire.PARQUET),
        ("/v1/point-in-time?features=g:x", wire.ARROW),
    ],
)
def test_a_body_without_end_is_cut_off(path: str, kind: str, url: str) -> None:
    before = memory_bytes()
    try:
        status, _ = post(url, path, endless(b"[" * 65_536), kind)
        assert status in (400, 413)
    except urllib3.exceptions.HTTPError:
        pass  # closed while we were still sending, which is how it has to end
    assert memory_bytes() - before < 200 << 20


def test_a_body_over_its_limit_is_413(url: str) -> None:
    record = {"record": {"k": "a", "at": AT, "s": "x" * 200_000}}
    status, problem = post(url, "/v1/groups/g/records", json.dumps(record))
    assert (status, problem["error"]) == (413, "TooLarge")
    line = json.dumps({"k": "a", "at": AT, "s": "x" * 20_000}).encode()
    assert post(url, "/v1/groups/g/ingest", line, wire.JSON_LINES)[0] == 413
    assert post(url, "/v1/batch-get", json.dumps({"keys": {"g": ["a"] * 51}}))[0] == 400


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_exactly_the_limit_is_taken_and_no_byte_more(chunked: bool, url: str) -> None:
    query = json.dumps({"query": "SELECT 1 AS one"}).encode()
    for path, kind, body, most in (
        ("/v1/sql", "application/json", query, SMALL.json_bytes),
        ("/v1/groups/g/ingest", wire.JSON_LINES, b"\n", SMALL.upload_bytes),
    ):
        for more, wanted in ((0, 200), (1, 413)):
            blank = (b" " * 8191 + b"\n") * (most // 8192 + 1)
            whole = (body + blank)[: most + more]
            sent: Any = iter([whole[:1000], whole[1000:]]) if chunked else whole
            assert post(url, path, sent, kind)[0] == wanted, (path, more)


# ── bombs ────────────────────────────────────────────────────────────────────────────────────


def arrow(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        out.write_table(table)
    return sink.getvalue()


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def rows_claimed(data: bytes, rows: int, claimed: int) -> bytes:
    """Return a stream in which each count of so many rows says another number."""
    return data.replace(struct.pack("<q", rows), struct.pack("<q", claimed))


ZEROS = pa.table({"x": pa.array([0.0] * 4_000_000)})
LONG = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), ["y" * 50_000])
VIEWS = pa.table({"s": pa.array(["z" * 100] * 10, pa.string_view())})
RUNS = pa.table({"x": pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 2], pa.int32()), [1.0])})
PLAIN = pa.table({"k": ["a"] * 1234, "x": [1.0] * 1234})

BOMBS: dict[str, tuple[bytes, str]] = {
    "compressed Arrow": (arrow(ZEROS.slice(0, 100_000), compression="zstd"), wire.ARROW),
    "a batch too large": (arrow(ZEROS.slice(0, 400_000)), wire.ARROW),
    "a dictionary that unfolds": (arrow(pa.table({"s": LONG})), wire.ARROW),
    "views of one text": (arrow(VIEWS), wire.ARROW),
    "one run of two billion": (arrow(RUNS), wire.ARROW),
    "rows that are not there": (rows_claimed(arrow(PLAIN), 1234, 2**50), wire.ARROW),
    "nulls without bytes": (arrow(pa.table({"x": pa.nulls(50_000_000)})), wire.ARROW),
    "a negative number of rows": (rows_claimed(arrow(PLAIN), 1234, -5), wire.ARROW),
    "Arrow cut short": (arrow(PLAIN)[:900], wire.ARROW),
    "no Arrow": (b"\xff" * 5000, wire.ARROW),
    "an empty body": (b"", wire.ARROW),
    "metadata without end": (b"\xff\xff\xff\xff\xff\xff\xff\x7f" + b"x" * 100, wire.ARROW),
    "small Parquet, many rows": (parquet(ZEROS, row_group_size=4_000_000), wire.PARQUET),
    "small Parquet, long text": (parquet(pa.table({"s": LONG})), wire.PARQUET),
    "no Parquet": (b"PAR1" + b"\x00" * 100 + b"PAR1", wire.PARQUET),
    "Parquet cut short": (parquet(PLAIN)[:-20], wire.PARQUET),
    "JSON of brackets": (b'{"k":' * 5000, "application/json"),
}


#: What has to be seen from the outside of a frame, not by what comes of decoding it.
SEEN = {
    "compressed Arrow": "is compressed",
    "a batch too large": "the limit is",
    "rows that are not there": "more than those can hold",
    "nulls without bytes": "more than those can hold",
    "a negative number of rows": "more than those can hold",
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("path", ["/v1/groups/g/ingest", "/v1/groups/g/ingest?whole=true"])
def test_a_bomb_is_refused_before_it_goes_off(bomb: str, path: str, url: str) -> None:
    body, kind = BOMBS[bomb]
    before = memory_bytes()
    status, problem = post(url, path, body, kind)
    assert status in (400, 413), problem
    assert SEEN.get(bomb, "") in problem["detail"]
    assert memory_bytes() - before < 200 << 20


def test_arrow_with_broken_offsets_is_refused(url: str) -> None:
    data = bytearray(arrow(pa.table({"k": ["aaaa", "bbbb"], "x": [1.0, 2.0]})))
    at = data.index(struct.pack("<3i", 0, 4, 8))
    data[at + 4 : at + 8] = struct.pack("<i", 2**30)
    status, problem = post(url, "/v1/groups/g/ingest", bytes(data), wire.ARROW)
    assert (status, problem["error"]) == (400, "InvalidInput")


# ── clients that are too slow ────────────────────────────────────────────────────────────────


def talk(url: str, *pieces: bytes, pause: float = 0.0, seconds: float = 12.0) -> bytes:
    """Send pieces with pauses; returns what came back until the server closed."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.settimeout(seconds)
        heard = b""
        try:
            for piece in pieces:
                client.sendall(piece)
                time.sleep(pause)
            while data := client.recv(65_536):
                heard += data
        except (ConnectionError, TimeoutError) as error:
            heard += repr(error).encode()
        return heard


HEAD = (
    b"POST /v1/groups/g/ingest HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/x-ndjson\r\n"
)


def test_headers_that_never_end_are_dropped(url: str) -> None:
    assert b"Timeout" not in talk(url, b"GET /health HTTP/1.1\r\nHos")


def test_a_body_that_stops_is_dropped(url: str) -> None:
    heard = talk(url, HEAD + b"Content-Length: 1000\r\n\r\n" + b"{")
    assert heard.startswith(b"HTTP/1.1 408")


def test_a_body_in_drops_is_dropped(url: str) -> None:
    drops = [b"1\r\n{\r\n"] * 15
    heard = talk(url, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *drops, pause=0.3)
    assert b"slower than" in heard or b"Error" in heard


def test_two_lengths_are_refused(url: str) -> None:
    smuggled = HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    heard = talk(url, smuggled + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", seconds=3.0)
    # Either the request is refused, or the length that does not count is not looked at; never
    # may the two parties disagree, so the rest of the line must not be read as a body.
    assert heard.count(b"HTTP/1.1 200") <= 2
    twice = HEAD + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde"
    assert b" 400 " in talk(url, twice, seconds=3.0)


def test_a_hundred_stalled_clients_do_not_keep_others_waiting(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    stalled = [socket.create_connection((host, int(port))) for _ in range(100)]
    for client in stalled:
        client.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
    http = urllib3.PoolManager(retries=False)
    assert http.request("GET", f"{url}/v1/groups/g/record?key=a").status == 200
    assert http.request("GET", f"{url}/v1/groups").status == 200
    for client in stalled:
        client.settimeout(20)
        heard = client.recv(100)
        assert heard.startswith((b"HTTP/1.1 408", b"HTTP/1.1 429")) or heard == b""
        client.close()


DRIBBLE = {
    "lines": (wire.JSON_LINES, "/v1/groups/g/ingest"),
    "Parquet": (wire.PARQUET, "/v1/groups/g/ingest"),
    "labels": (wire.ARROW, "/v1/point-in-time?features=g:x"),
    "tables for SQL": (wire.ARROW, "/v1/sql?query=SELECT%201"),
}


@pytest.mark.parametrize("what", DRIBBLE)
def test_who_sends_slowly_holds_no_place_that_others_need(what: str, tmp_path: Path) -> None:
    """Far more slow clients than there are places; each keeps to the pace it has to keep to."""
    kind, path = DRIBBLE[what]
    limits = LIMITS._replace(
        concurrent_ingests=1, concurrent_work=1, waiting_work=0, stall_seconds=30.0,
        bytes_per_second=1,
    )  # fmt: skip
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n".encode()
    with fs.open(tmp_path / "store") as store:
        store.create_feature_group("g", record_identifier="k", event_time="at", features=FEATURES)
        with serving(store, limits) as url:
            host, port = url.removeprefix("http://").split(":")
            slow = [socket.create_connection((host, int(port))) for _ in range(8)]
            for client in slow:
                client.sendall(head + b"Content-Length: 900000\r\n\r\n" + b" " * 400_000)
            for number in range(3):
                for client in slow:
                    client.sendall(b" ")
                line = json.dumps({"k": str(number), "at": AT}).encode()
                status, counts = post(url, "/v1/groups/g/ingest", line, wire.JSON_LINES)
                assert (status, counts["accepted"]) == (200, 1)
                assert post(url, "/v1/flush", b"")[0] == 200
                query = json.dumps({"query": "SELECT k FROM g"})
                assert len(post(url, "/v1/sql", query)[1]) == number + 1
            for client in slow:
                client.close()
        assert store.verify() == []


def test_all_that_is_on_its_way_together_has_a_limit(tmp_path: Path) -> None:
    line = json.dumps({"k": "a", "at": AT}).encode()
    with fs.open(tmp_path / "store") as store:
        store.create_feature_group("g", record_identifier="k", event_time="at", features=FEATURES)
        with serving(store, LIMITS._replace(spool_bytes=1 << 20, stall_seconds=60.0)) as url:
            host, port = url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as slow:
                slow.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (1 << 20))
                slow.sendall(b"\n" * ((1 << 20) - 10))
                status = 200
                while status == 200:  # then it has come, all but the last bytes
                    time.sleep(1.0)
                    status, problem = post(url, "/v1/groups/g/ingest", line, wire.JSON_LINES)
                assert (status, problem["error"]) == (429, "StoreBusy")
                slow.sendall(b"\n" * 10)
                assert slow.recv(100).startswith(b"HTTP/1.1 200")
            for kind, body, wanted in (
                (wire.JSON_LINES, line, 200),  # what was held is free again, however it ended
                (wire.JSON_LINES, b"{" * 600_000, 400),
                (wire.JSON_LINES, b"x\n" + b" " * 600_000, 400),
                (wire.PARQUET, b"x" * 600_000, 400),
                (wire.JSON_LINES, line, 200),
            ):
                assert post(url, "/v1/groups/g/ingest", body, kind)[0] == wanted
                headers = {"content-type": kind, "prefer": "respond-async"}
                http = urllib3.PoolManager(retries=False)
                path = f"{url}/v1/groups/g/ingest"
                begun = http.request("POST", path, body=body, headers=headers)
                assert begun.status == 202
                while http.request("GET", url + begun.json()["href"]).json()["state"] not in (
                    "done", "failed",
                ):  # fmt: skip
                    time.sleep(0.01)


def test_a_length_over_the_limit_is_refused_unread(url: str) -> None:
    heard = talk(url, HEAD + b"Content-Length: %d\r\n\r\n" % (9 << 20), seconds=5.0)
    assert heard.startswith(b"HTTP/1.1 413")


def test_a_reader_that_stalls_is_let_go(tmp_path: Path) -> None:
    with fs.open(tmp_path / "store") as store:
        store.create_feature_group("g", record_identifier="k", event_time="at", features=FEATURES)
        rows = [{"k": f"k{i}", "at": AT, "s": "x" * 5000} for i in range(10_000)]
        store.ingest("g", rows)
        with serving(store, SMALL._replace(sql_result_bytes=1 << 30)) as url:
            host, port = url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as client:
                client.sendall(b"GET /v1/changes?follow=false HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert client.recv(1000).startswith(b"HTTP/1.1 200")
                time.sleep(SMALL.stall_seconds * 3)
                client.settimeout(20)
                ended = False
                try:
                    while data := client.recv(1 << 20):
                        ended = data.endswith(b"0\r\n\r\n")
                except ConnectionError:
                    pass
                assert not ended


# ── too much at once ─────────────────────────────────────────────────────────────────────────


def test_more_work_than_fits_in_line_is_429_with_retry_after(tmp_path: Path) -> None:
    with fs.open(tmp_path / "store") as store:
        limits = LIMITS._replace(concurrent_work=1, waiting_work=1, sql_seconds=2.0)
        with serving(store, limits) as url:
            query = json.dumps(
                {"query": "SELECT count(*) FROM range(1000000000) a, range(99999) b"}
            )
            http = urllib3.PoolManager(retries=False, maxsize=8)

            def ask() -> None:
                http.request("POST", f"{url}/v1/sql", body=query)

            threads = [threading.Thread(target=ask) for _ in range(2)]
            for thread in threads:
                thread.start()
            time.sleep(0.5)
            answer = http.request("POST", f"{url}/v1/sql", body=query)
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert json.loads(answer.data)["error"] == "StoreBusy"
            # A look-up does not stand in that line.
            assert http.request("GET", f"{url}/v1/groups/g/record?key=a").status == 404
            for thread in threads:
                thread.join()


def test_more_requests_than_the_worker_takes_are_429(tmp_path: Path) -> None:
    with (
        fs.open(tmp_path / "store") as store,
        serving(store, LIMITS._replace(concurrent=4)) as url,
    ):
        host, port = url.removeprefix("http://").split(":")
        held = [socket.create_connection((host, int(port))) for _ in range(4)]
        for client in held:
            client.sendall(b"GET /v1/changes HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        http = urllib3.PoolManager(retries=False)
        answer = http.request("GET", f"{url}/v1/groups")
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        for client in held:
            client.close()


def test_every_refusal_for_now_says_when_to_come_again() -> None:
    for error, status in (
        (fs.StoreBusy("x"), 503),
        (fs.Unavailable("x"), 503),
        (fs.OutcomeUnknown("x"), 503),
        (TooManyRequests("x", after_seconds=2.5), 429),
    ):
        found, headers, _ = problem(error)
        assert (found, headers["retry-after"]) == (status, "3" if status == 429 else "1")


def test_no_read_transaction_waits_for_a_client(tmp_path: Path) -> None:
    """LMDB keeps every page since the oldest: a client that waits may not hold one."""
    limits = LIMITS._replace(stall_seconds=60.0)
    with fs.open(tmp_path / "store") as store:
        store.create_feature_group("g", record_identifier="k", event_time="at", features=FEATURES)
        store.ingest("g", [{"k": f"k{i}", "at": AT, "s": "x" * 1000} for i in range(10_000)])
        store.flush()
        query = json.dumps({"query": "SELECT * FROM g"}).encode()
        keys = json.dumps({"keys": {"g": [f"k{i}" for i in range(9_000)]}}).encode()
        with serving(store, limits) as url:
            host, port = url.removeprefix("http://").split(":")
            waiting = []
            for asked, body in (
                (b"GET /v1/changes", b""),
                (b"GET /v1/changes?follow=false", b""),
                (b"GET /v1/groups/g/records?limit=9000", b""),
                (b"GET /v1/backup", b""),
                (b"POST /v1/sql", query),
                (b"POST /v1/batch-get", keys),
            ):
                client = socket.create_connection((host, int(port)))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                size = b"Content-Length: %d\r\n" % len(body) if body else b""
                client.sendall(asked + b" HTTP/1.1\r\nHost: localhost\r\n" + size + b"\r\n" + body)
                assert client.recv(12) == b"HTTP/1.1 200", asked
                waiting.append(client)
            deadline = time.monotonic() + 30
            while store.stat()["readers"] and time.monotonic() < deadline:
                time.sleep(0.1)
            assert store.stat()["readers"] == 0
            for client in waiting:
                client.close()


# ── bodies that are more than they seem ──────────────────────────────────────────────────────


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
@pytest.mark.parametrize(
    "path", ["/v1/groups", "/v1/batch-get", "/v1/groups/g/ingest", "/v1/point-in-time?features=g:x"]
)
def test_a_compressed_body_is_not_unpacked(path: str, encoding: str, url: str) -> None:
    bomb = gzip.compress(b"[" * (32 << 20))
    before = memory_bytes()
    http = urllib3.PoolManager(retries=False)
    headers = {"content-type": "application/json", "content-encoding": encoding}
    answer = http.request("POST", url + path, body=bomb, headers=headers)
    assert (answer.status, json.loads(answer.data)["error"]) == (415, "InvalidInput")
    assert memory_bytes() - before < 200 << 20


def test_a_gibibyte_is_cut_off_at_the_limit(url: str) -> None:
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1 << 14):
            sent += 65_536
            yield b" " * 65_536

    with contextlib.suppress(urllib3.exceptions.HTTPError):
        status, _ = post(url, "/v1/groups/g/ingest", pieces(), wire.ARROW)
        assert status in (400, 413)
    assert sent < 256 << 20


def test_a_parquet_file_is_decoded_by_a_process_of_its_own(tmp_path: Path) -> None:
    """A decoder that dies takes its upload with it, and nothing else."""
    with fs.open(tmp_path / "store") as store:
        store.create_feature_group("g", record_identifier="k", event_time="at", features=FEATURES)
        at = pa.array([datetime(2013, 1, 1, tzinfo=UTC)] * 30_000, pa.timestamp("us", tz="UTC"))
        table = pa.table({"k": [f"k{i}" for i in range(30_000)], "at": at})
        with serving(store, SMALL._replace(decode_memory_bytes=4 << 20)) as url:
            status, problem = post(url, "/v1/groups/g/ingest", parquet(table), wire.PARQUET)
            assert (status, problem["error"]) in ((400, "InvalidInput"), (413, "TooLarge")), problem
            assert store.snapshot() == 0
            assert post(url, "/v1/batch-get", json.dumps({"keys": {"g": ["k1"]}}))[0] == 200
        with serving(store, SMALL) as url:
            status, counts = post(url, "/v1/groups/g/ingest", parquet(table), wire.PARQUET)
            assert (status, counts["accepted"]) == (200, 30_000)
            path = "/v1/point-in-time?features=g:s&label_time=at"
            status, rows = post(url, path, parquet(table.slice(0, 9)), wire.PARQUET)
            assert (status, len(rows)) == (200, 9)


def test_a_look_up_of_many_that_is_not_read_is_dropped(tmp_path: Path) -> None:
    with fs.open(tmp_path / "store") as store:
        store.create_feature_group("g", record_identifier="k", event_time="at", features=FEATURES)
        rows = [{"k": f"k{i}", "at": AT, "s": "x" * 100_000} for i in range(400)]
        store.ingest("g", rows)
        with serving(store, SMALL._replace(keys=1000)) as url:
            host, port = url.removeprefix("http://").split(":")
            body = json.dumps({"keys": {"g": [f"k{i}" for i in range(400)]}}).encode()
            with socket.create_connection((host, int(port))) as client:
                head = b"POST /v1/batch-get HTTP/1.1\r\nHost: localhost\r\n"
                client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                assert client.recv(1000).startswith(b"HTTP/1.1 200")
                time.sleep(SMALL.stall_seconds * 3)
                client.settimeout(20)
                got = 0
                with contextlib.suppress(ConnectionError):
                    while data := client.recv(1 << 20):
                        got += len(data)
                assert got < 40_000_000
