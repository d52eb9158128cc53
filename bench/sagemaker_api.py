"""How many puts and gets a second does boto3 do against our server, and whose time is it?

A server runs in a process of its own, with an access key, so every request is signed and every
signature verified; records have 20 features, as text.  One caller, one connection, one call after
the other, as most code that uses boto3 has it.

==============  ==================================================================================
case            what is asked
==============  ==================================================================================
put             one record put
get             one record looked up
==============  ==================================================================================

==============  ==================================================================================
side            what is done
==============  ==================================================================================
boto3           the call, as anybody writes it: validated, serialised, signed, sent, parsed
bare            the same requests, signed beforehand by the same boto3, over a plain socket; the
                answer is read and thrown away.  What is left of a call if boto3 cost nothing
fs_connect      the same get, or put, by ``fs.connect``: our own client and our own API
==============  ==================================================================================

CPU is the client's, all of it; the server's is ``server_cpu_us``.  The share of the time spent
inside botocore is what ``bare`` leaves of ``boto3``, of the wall, since the caller waits for all.

**A surprise would be** a share below a half: a get takes the server some 100 µs, and boto3 some
500 µs on each side of it.

**The bound.**  No server can make boto3 faster than ``boto3`` less ``bare``.

**Reached** (one round; ``python -m bench sagemaker_api``; load 1 to 1.6 at the start):

====  ============================================================================================
get   full size: 481 a second by boto3, 1,805 of the same requests bare, 1,285 by `fs.connect`; 73 %
      of the wall and 98 % of the client's CPU are botocore's
put   small size, each durable: 276 a second by boto3, 441 bare, 272 by `fs.connect`; 37 % of the
      wall and 96 % of the client's CPU are botocore's
====  ============================================================================================
"""  # noqa: D400  a benchmark asks a question

from __future__ import annotations

import contextlib
import importlib.util
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import server_get
from bench.harness import Case, Figures, Goal, Options, Run, Side, Step, ratio, timed_calls

GROUP = "entities"
FEATURES = tuple(f"f{i:02}" for i in range(18))
AT = "2024-05-01T00:00:00Z"
LATER = "2024-05-02T00:00:00Z"


@dataclass(frozen=True)
class Size:
    """The numbers of one size."""

    keys: int
    calls: int


SIZES = {"tiny": Size(50, 20), "small": Size(2_000, 1_000), "full": Size(100_000, 10_000)}


def boto3(_options: Options) -> str | None:
    """Need boto3, and a machine that says what a process has used."""
    if importlib.util.find_spec("boto3") is None:
        return "needs boto3"
    return None if Path("/proc/self/stat").exists() else "needs /proc"


# ── making ───────────────────────────────────────────────────────────────────────────────────


def _values(key: int, salt: int = 0) -> dict[str, str]:
    """Return the value features of a key, as text."""
    return {name: repr((key * 31 + place + salt) / 8) for place, name in enumerate(FEATURES)}


def _record(key: int, at: str, salt: int = 0) -> list[dict[str, str]]:
    texts = {"id": f"e{key}", "at": at, **_values(key, salt)}
    return [{"FeatureName": name, "ValueAsString": text} for name, text in texts.items()]


def _make(run: Run, folder: Path) -> None:
    import featurestore as fs

    with fs.open(folder / "store") as store:
        store.create_feature_group(
            GROUP, record_identifier="id", event_time="at",
            features={"id": "string", "at": "timestamp"} | dict.fromkeys(FEATURES, "float64"),
        )  # fmt: skip
        store.ingest(
            GROUP,
            (
                {"id": f"e{key}", "at": AT} | {n: float(v) for n, v in _values(key).items()}
                for key in range(run.size.keys)
            ),
            progress=False,
        )


STORE = Step("sagemaker-api", _make)


# ── a server and its callers ─────────────────────────────────────────────────────────────────


class World:
    """A server with a key of either form.

    Attributes
    ----------
    group : int
        Its process group.
    """

    def __init__(self, url: str, group: int, api_key: str, access_key: tuple[str, str]) -> None:
        self.url, self.group = url, group
        self.api_key, self.access_key = api_key, access_key

    def client(self) -> Any:
        """Return a client as anybody would make it."""
        import boto3

        return boto3.client(
            "sagemaker-featurestore-runtime", endpoint_url=self.url, region_name="us-east-1",
            aws_access_key_id=self.access_key[0], aws_secret_access_key=self.access_key[1],
        )  # fmt: skip


@contextlib.contextmanager
def _served(run: Run) -> Iterator[World]:
    import featurestore as fs
    from featurestore.engine.database import open_database
    from featurestore_server.access import Keys

    with run.fresh(run.path(STORE)) as folder:
        path = folder / "store"
        with fs.open(path, upkeep=False):
            database = open_database(path)
            keys = Keys(database)
            api_key, _ = keys.create("bench", ["admin"])
            secret, facts = keys.create("bench", ["admin"], access_key=True)
            database.close()
        port = server_get.free_port()
        url = f"http://127.0.0.1:{port}"
        with server_get.server(server_get.ours(path, port), f"{url}/ready") as group:
            yield World(url, group, api_key, (facts["id"], secret))


def _asked(run: Run, place: int) -> int:
    """Return which key a call asks for: spread, the same for every side."""
    return place * 7919 % run.size.keys


def _measure(run: Run, world: World, call: Callable[[int], Any]) -> None:
    """Make all calls, measured; then as many again, timed one by one."""
    calls = run.size.calls
    with run.warming_up():
        for place in range(max(10, calls // 20)):
            call(-1 - place)
    before, began = server_get.cpu_seconds(world.group), time.perf_counter()
    with run.measuring(calls):
        for place in range(calls):
            call(place)
    taken = time.perf_counter() - began
    used = server_get.cpu_seconds(world.group) - before
    run.note(calls_per_s=calls / taken, server_cpu_s=used, server_cpu_us=used / calls * 1e6)
    run.latencies(timed_calls(call, range(calls, 2 * calls)))


# ── get ──────────────────────────────────────────────────────────────────────────────────────


def _get_request(run: Run, place: int) -> dict[str, Any]:
    key = f"e{_asked(run, place)}"
    return {"FeatureGroupName": GROUP, "RecordIdentifierValueAsString": key}


def _put_request(run: Run, place: int) -> dict[str, Any]:
    # A place of its own makes each put a change: one that is there already changes nothing.
    return {"FeatureGroupName": GROUP, "Record": _record(_asked(run, place), LATER, place)}


REQUESTS = {"get_record": _get_request, "put_record": _put_request}


def _by_boto3(run: Run, verb: str) -> None:
    with _served(run) as world:
        ask, request = getattr(world.client(), verb), REQUESTS[verb]
        _measure(run, world, lambda place: ask(**request(run, place)))
        _checked(run, world, verb)


def _by_bare(run: Run, verb: str) -> None:
    with _served(run) as world:
        warm = max(10, run.size.calls // 20)
        places = range(-warm, 2 * run.size.calls)
        sent = dict(zip(places, _signed(run, world, verb, places), strict=True))
        host, _, port = world.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def call(place: int) -> None:
                connection.sendall(sent[place])
                answer = connection.recv(1 << 16)
                end = b"\r\n0\r\n\r\n" if b"chunked" in answer[:60] else b"\r\n\r\n"
                while not answer.endswith(end):
                    answer += connection.recv(1 << 16)
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise AssertionError(answer)

            _measure(run, world, call)
        _checked(run, world, verb)


def _signed(run: Run, world: World, verb: str, places: range) -> Iterator[bytes]:
    """Yield what boto3 would send, whole."""
    from botocore.awsrequest import AWSResponse

    held: list[bytes] = []

    def catch(request: Any, **_: Any) -> AWSResponse:
        path = request.url.removeprefix(world.url)
        # The same header that http.client would add; all others are botocore's.
        headers = {"Host": world.url.removeprefix("http://"), **_texts(request.headers)}
        lines = [f"{request.method} {path} HTTP/1.1", *(f"{n}: {v}" for n, v in headers.items())]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        held.append(head + (request.body or b""))
        return AWSResponse(request.url, 200, {}, _Empty())

    client = world.client()
    client.meta.events.register_first("before-send", catch)
    for place in places:
        getattr(client, verb)(**REQUESTS[verb](run, place))
        yield held.pop()


def _texts(headers: Mapping[str, Any]) -> dict[str, str]:
    return {n: v.decode() if isinstance(v, bytes) else str(v) for n, v in headers.items()}


class _Empty:
    """A body without anything in it."""

    def stream(self) -> Iterator[bytes]:
        """Yield it."""
        yield from ()


def _by_connect(run: Run, verb: str) -> None:
    import featurestore as fs

    def record(place: int) -> dict[str, Any]:
        key = _asked(run, place)
        return {
            "id": f"e{key}",
            "at": LATER,
            **{n: float(v) for n, v in _values(key, place).items()},
        }

    with _served(run) as world, fs.connect(world.url, api_key=world.api_key) as store:
        if verb == "get_record":
            _measure(run, world, lambda place: store.get_record(GROUP, f"e{_asked(run, place)}"))
        else:
            _measure(run, world, lambda place: store.put_record(GROUP, record(place)))
        _checked(run, world, verb)


def _checked(run: Run, world: World, verb: str) -> None:
    """Hold what is there to what was written: by the last calls, where they were puts."""
    import featurestore as fs

    calls = run.size.calls
    written = {key: _values(key) for key in map(partial(_asked, run), range(calls))}
    if verb == "put_record":
        for place in [*range(-1, -1 - max(10, calls // 20), -1), *range(2 * calls)]:
            written[_asked(run, place)] = _values(_asked(run, place), place)
    keys = sorted(written)[:100]
    with fs.connect(world.url, api_key=world.api_key) as store:
        found = [store.get_record(GROUP, f"e{key}", list(FEATURES)) for key in keys]
    run.answers(found, [{n: float(v) for n, v in written[key].items()} for key in keys])


# ── cases ────────────────────────────────────────────────────────────────────────────────────


def _share(of: str, words: str) -> Goal:
    """Return the goal that shows what share of a call is botocore's own."""

    def measure(figures: Mapping[str, Figures]) -> float:
        return 1.0 - figures["bare"][of] / figures["boto3"][of]

    return Goal(f"inside botocore, share of the {words}", ("boto3", "bare"), measure, unit="")


def _case(name: str, question: str, verb: str) -> Case:
    steps = (STORE,)
    return Case(
        name,
        question,
        "call",
        (
            Side("boto3", partial(_by_boto3, verb=verb), "parsed", boto3, steps=steps),
            Side("bare", partial(_by_bare, verb=verb), "bytes", boto3, steps=steps),
            Side("fs_connect", partial(_by_connect, verb=verb), "values", boto3, steps=steps),
        ),
        (
            _share("wall_us", "wall"),
            _share("cpu_us", "client's CPU"),
            ratio("boto3", "fs_connect", of="wall_us"),
            ratio("boto3", "fs_connect", of="server_cpu_us"),
        ),
        rounds=5,
    )


CASES = (
    _case("get", "GetRecord of 20 features, one after the other", "get_record"),
    _case("put", "PutRecord of 20 features, one after the other, each durable", "put_record"),
)
