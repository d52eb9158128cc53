"""What does a look-up cost over HTTP, and what of that is HTTP?

The rows are those of :func:`bench.datasets.entities`, 20 features each; ``wide`` has 50 floats.  A
server runs in processes of its own; ``wrk`` asks it over loopback from the same machine, with
random keys, 32 connections.  CPU is the servers', all their processes together; the client's is
not in it.

==============  ==================================================================================
case            what is asked
==============  ==================================================================================
one             one record as JSON, of one worker.  ``bare`` is ASGI on the same server with the
                same LMDB get, answering bytes; ``fastapi`` a plain route that gives a dict;
                ``nginx`` a static file of that length
hundred         100 keys x 50 features in one request, as JSON and as Arrow
workers         one record, of one worker and of two
beside          one record while a bulk ingest and a SQL scan run, and while nothing does
==============  ==================================================================================

**A surprise would be** ``ours`` below ``bare``: it does all that ``bare`` does, and asks who is
calling, checks the record, decodes it and writes JSON.

**The bound.**  nginx is the floor for anything that speaks HTTP over a socket; Python's share
begins with the call of an ASGI application, which is ``bare``.

**Reached** (full size, medians of the rounds; ``python -m bench server_get --size full``): not yet
measured on a quiet machine.

What is to the peers' advantage: ``bare`` hands out bytes, not decoded, to anybody; Feast answers of
a tenth of the rows, and its figures are of SQLite on the same disk.
"""  # noqa: D400  a benchmark asks a question

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import datasets, feast_peer, online_world, peers
from bench.harness import ROOT, BenchmarkFailed, Case, Options, Run, Side, Step, ratio
from bench.online_world import GROUP

WIDE = "wide"
WIDE_FEATURES = tuple(f"w{i:02}" for i in range(50))
CONNECTIONS = 32
KEYS = 100
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Size(online_world.Size):
    """The numbers of one size.

    Attributes
    ----------
    wide_keys : int
        Records of 50 features.
    seconds : int
        How long wrk asks; once more to warm up.
    """

    wide_keys: int = 0
    seconds: int = 1


def _size(name: str, **more: int) -> Size:
    return Size(**{**asdict(online_world.SIZES[name]), **more})


SIZES = {
    "tiny": _size("tiny", wide_keys=200, seconds=1),
    "small": _size("small", wide_keys=5_000, seconds=4),
    "full": _size("full", wide_keys=100_000, seconds=10),
}


# ── what is needed ───────────────────────────────────────────────────────────────────────────


def wrk(_options: Options) -> str | None:
    """Need wrk, and a machine that says what a process has used."""
    if shutil.which("wrk") is None:
        return "needs wrk"
    return None if Path("/proc/self/stat").exists() else "needs /proc"


def nginx(options: Options) -> str | None:
    """Need nginx as well."""
    return wrk(options) or (None if shutil.which("nginx") else "needs nginx")


def feast_and_wrk(options: Options) -> str | None:
    """Need an environment for Feast as well."""
    return wrk(options) or peers.feast(options)


# ── making ───────────────────────────────────────────────────────────────────────────────────


def _wide_table(run: Run) -> Any:
    import numpy as np
    import pyarrow as pa

    rows = run.size.wide_keys
    chance = np.random.default_rng((run.seed, 50))
    times = np.full(rows, datasets.START_US)
    columns = {
        datasets.ENTITY: np.arange(rows),
        datasets.EVENT_TIME: pa.array(times, pa.timestamp("us", tz="UTC")),
    }
    return pa.table(columns | {name: chance.normal(size=rows) for name in WIDE_FEATURES})


def _make_wide(run: Run, folder: Path) -> None:
    import featurestore as fs

    table = _wide_table(run)
    with fs.open(folder / "store") as store:
        store.create_feature_group(
            WIDE,
            record_identifier=datasets.ENTITY,
            event_time=datasets.EVENT_TIME,
            features=table.schema,
        )
        store.ingest(WIDE, table)


def _make_feast_wide(run: Run, folder: Path) -> None:
    table = _wide_table(run)
    with feast_peer.repository(folder, "sqlite", keep=True) as store:
        feast_peer.register(store, folder, WIDE, table)
        store.write_to_online_store(WIDE, feast_peer.frame(table))


WIDE_STORE = Step("store-wide", _make_wide)
FEAST_WIDE = Step("feast-wide", _make_feast_wide, peers.feast, venv="feast")


# ── servers ──────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def server(command: Sequence[str], url: str) -> Iterator[int]:
    """Start a server and wait until it answers; gives the id of its process group."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "server"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 90
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkFailed(f"{' '.join(command)} does not answer at {url}")
            time.sleep(0.05)
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def cpu_seconds(group: int) -> float:
    """Return what all processes of a group have used, ended children included."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()
            if int(fields[2]) == group:
                ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS


def ours(store: Path, port: int, workers: int = 1) -> list[str]:
    """Return the command that serves a store."""
    serve = ["serve", str(store), "--port", str(port), "--workers", str(workers)]
    return [sys.executable, "-m", "featurestore_server", *serve]


def _app(kind: str, store: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "bench.server_apps", kind, str(port), str(store)]


# ── asking ───────────────────────────────────────────────────────────────────────────────────

_GET = """
request = function()
  return wrk.format("GET", "%s" .. math.random(0, %d))
end
"""
_POST = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "%s"
request = function()
  local keys = {}
  for i = 1, %d do keys[i] = math.random(0, %d) end
  return wrk.format(nil, "%s", nil, '%s' .. table.concat(keys, ",") .. '%s')
end
"""


def _ask(
    run: Run, group: int, url: str, script: str, folder: Path, at_least_seconds: int = 0
) -> None:
    """Let wrk ask; takes in the servers' CPU and the latencies wrk saw."""
    path = folder / "ask.lua"
    path.write_text(script, encoding="ascii")
    with run.warming_up():
        _wrk(url, path, 1)
    before, began = cpu_seconds(group), time.perf_counter()
    said = _wrk(url, path, max(run.size.seconds, at_least_seconds))
    wall, used = time.perf_counter() - began, cpu_seconds(group) - before
    requests = int(_found(r"(\d+) requests in", said))
    if "Non-2xx" in said or "Socket errors" in said:
        raise BenchmarkFailed(said)
    run.note(
        units=requests,
        cpu_s=used,
        wall_s=wall,
        requests_per_s=float(_found(r"Requests/sec:\s+([\d.]+)", said)),
        p50_us=_microseconds(_found(r"50%\s+([\d.]+\w+)", said)),
        p99_us=_microseconds(_found(r"99%\s+([\d.]+\w+)", said)),
    )


def _wrk(url: str, script: Path, seconds: int) -> str:
    command = [
        "wrk",
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds}s",
        "--latency",
        "--timeout",
        "60s",
        "-s",
        str(script),
    ]
    done = subprocess.run([*command, url], capture_output=True, text=True, check=True)
    return done.stdout


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise BenchmarkFailed(f"wrk said nothing of {pattern}: {text}")
    return match[1]


def _microseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\D+)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 1.0, "ms": 1e3, "s": 1e6}[unit]


def _json(url: str, body: Any = None, accept: str = "application/json") -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", "accept": accept}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
        return json.loads(answer.read())


# ── one record ───────────────────────────────────────────────────────────────────────────────


def _one_ours(run: Run, workers: int = 1, beside: Callable[..., Any] | None = None) -> None:
    with run.fresh(run.path(online_world.STORE)) as folder:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        with server(ours(folder / "store", port, workers), f"{url}/ready") as group:
            script = _GET % (f"/v1/groups/{GROUP}/record?key=", run.size.keys - 1)
            with contextlib.ExitStack() as stack:
                if beside is not None:
                    stack.enter_context(beside(run, url))
                _ask(run, group, url, script, folder)
            where = f"{url}/v1/groups/{GROUP}/record?key="
            found = [_json(f"{where}{e}")["record"] for e in online_world.numbers(run, "checked")]
            if beside is None:
                run.answers(online_world.comparable(found), online_world.stored(run))


def _one_app(run: Run, kind: str) -> None:
    with run.fresh(run.path(online_world.STORE)) as folder:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        with server(_app(kind, folder / "store", port), f"{url}/?key=0") as group:
            _ask(run, group, url, _GET % ("/?key=", run.size.keys - 1), folder)
            if kind == "fastapi":
                found = [_json(f"{url}/?key={e}") for e in online_world.numbers(run, "checked")]
                run.answers(online_world.comparable(found), online_world.stored(run))


_NGINX = """
%(user)s daemon off; worker_processes 1; pid %(folder)s/pid; error_log /dev/null;
events { worker_connections 1024; }
http { access_log off; client_body_temp_path %(folder)s/b; proxy_temp_path %(folder)s/p;
  fastcgi_temp_path %(folder)s/f; uwsgi_temp_path %(folder)s/u; scgi_temp_path %(folder)s/s;
  server { listen 127.0.0.1:%(port)d; root %(folder)s/www; keepalive_requests 1000000000; } }
"""


def _one_nginx(run: Run) -> None:
    with run.fresh() as folder:
        (folder / "www").mkdir()
        (folder / "www" / "index.html").write_bytes(b"x" * 640)
        port = free_port()
        # Started by root, it would give up the right to read the folder.
        user = "user root;" if os.geteuid() == 0 else ""
        text = _NGINX % {"folder": folder, "port": port, "user": user}
        (folder / "nginx.conf").write_text(text, encoding="ascii")
        url = f"http://127.0.0.1:{port}"
        command = ["nginx", "-c", str(folder / "nginx.conf"), "-e", "/dev/null"]
        with server(command, url) as group:
            _ask(run, group, url, _GET % ("/?key=", 9), folder)


_FEAST_SERVER = """
import sys
from pathlib import Path
from bench import feast_peer
with feast_peer.repository(Path(sys.argv[1]), "sqlite") as store:
    store.serve("127.0.0.1", int(sys.argv[2]), "http", True, workers=1, metrics=False,
                keep_alive_timeout=30, registry_ttl_sec=3600)
"""


def _by_feast(run: Run, step: Step, view: str, features: Sequence[str], keys: int, of: int) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", _FEAST_SERVER, str(run.path(step)), str(port)]
    listed = json.dumps(feast_peer.references(view, features))
    head = f'{{"features": {listed}, "entities": {{"{datasets.ENTITY}": ['
    script = _POST % ("application/json", keys, of - 1, "/get-online-features", head, "]}}")
    with run.fresh() as folder, server(command, f"{url}/health") as group:
        # At 32 connections its first answers to a hundred keys come after some seconds.
        _ask(run, group, url, script, folder, at_least_seconds=10)


# ── a hundred records ────────────────────────────────────────────────────────────────────────


def _hundred_ours(run: Run, accept: str) -> None:
    from featurestore.wire import ARROW

    with run.fresh(run.path(WIDE_STORE)) as folder:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        kind = ARROW if accept == "arrow" else "application/json"
        features = json.dumps(WIDE_FEATURES)
        ends = (f'{{"keys": {{"{WIDE}": [', f']}}, "features": {features}}}')
        script = _POST % (kind, KEYS, run.size.wide_keys - 1, "/v1/batch-get", *ends)
        with server(ours(folder / "store", port), f"{url}/ready") as group:
            _ask(run, group, url, script, folder)
            asked = list(range(KEYS))
            body = {"keys": {WIDE: asked}, "features": WIDE_FEATURES}
            if accept == "json":
                found = [row["record"] for row in _json(f"{url}/v1/batch-get", body)[WIDE]]
            else:
                import featurestore as fs

                with fs.connect(url) as store:
                    table = store.batch_get_record({WIDE: asked}, list(WIDE_FEATURES))[WIDE]
                found = table.select(WIDE_FEATURES).to_pylist()
            expected = _wide_table(run).slice(0, KEYS).select(WIDE_FEATURES).to_pylist()
            run.answers(found, expected)


# ── beside other work ────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _busy(run: Run, url: str) -> Iterator[None]:
    """Ingest tables and scan the history, over and over, until the end of the block."""
    import featurestore as fs

    rows = online_world.table(run, "updates").slice(0, run.size.background_rows)
    stop = threading.Event()
    done = {"ingests": 0, "scans": 0}

    def ingest() -> None:
        with fs.connect(url, timeout=600) as store:
            while not stop.is_set():
                store.ingest(GROUP, rows, id=f"{os.getpid()}-{done['ingests']}")
                done["ingests"] += 1

    def scan() -> None:
        with fs.connect(url, timeout=600) as store:
            while not stop.is_set():
                store.sql(f"SELECT label, avg(f00), max(f01) FROM {GROUP} GROUP BY 1")
                done["scans"] += 1

    threads = [threading.Thread(target=work) for work in (ingest, scan)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        run.note(**done)


# ── cases ────────────────────────────────────────────────────────────────────────────────────


def _feast_one(run: Run) -> None:
    step = online_world.FEAST["sqlite"]
    _by_feast(run, step, GROUP, datasets.FEATURES, 1, run.size.feast_rows)


def _feast_hundred(run: Run) -> None:
    _by_feast(run, FEAST_WIDE, WIDE, WIDE_FEATURES, KEYS, run.size.wide_keys)


_store = (online_world.STORE,)
_wide = (WIDE_STORE,)
CASES = (
    Case(
        "one",
        "one record of 20 features as JSON, one worker",
        "request",
        (
            Side("ours", _one_ours, "JSON, checked and allowed", wrk, steps=_store),
            Side("bare", partial(_one_app, kind="bare"), "bytes", wrk, steps=_store),
            Side("fastapi", partial(_one_app, kind="fastapi"), "JSON", wrk, steps=_store),
            Side("nginx", _one_nginx, "a file", nginx),
            Side(
                "feast", _feast_one, "JSON", feast_and_wrk, venv="feast",
                steps=(online_world.FEAST["sqlite"],),
            ),
        ),
        (
            ratio("ours", "bare", at_most=1.6),
            ratio("ours", "feast", of="requests_per_s", at_least=20),
            ratio("fastapi", "ours"),
            ratio("ours", "nginx"),
        ),
    ),
    Case(
        "hundred",
        "100 keys x 50 features in one request",
        "request",
        (
            Side("json", partial(_hundred_ours, accept="json"), "JSON", wrk, steps=_wide),
            Side("arrow", partial(_hundred_ours, accept="arrow"), "Arrow", wrk, steps=_wide),
            Side("feast", _feast_hundred, "JSON", feast_and_wrk, venv="feast", steps=(FEAST_WIDE,)),
        ),
        (ratio("feast", "json", at_least=30), ratio("feast", "arrow", at_least=100)),
    ),
    Case(
        "workers",
        "one record, of one worker process and of two",
        "request",
        (
            Side("one_worker", _one_ours, "JSON", wrk, steps=_store),
            Side("two_workers", partial(_one_ours, workers=2), "JSON", wrk, steps=_store),
        ),
        (ratio("two_workers", "one_worker", at_most=1.15),),
    ),
    Case(
        "beside",
        "one record while a bulk ingest and a SQL scan run, and while nothing does",
        "request",
        (
            Side("quiet", _one_ours, "JSON", wrk, steps=_store),
            Side("busy", partial(_one_ours, beside=_busy), "JSON", wrk, steps=_store),
        ),
        (ratio("busy", "quiet", of="p99_us", at_most=5),),
        rounds=5,
    ),
)  # fmt: skip
