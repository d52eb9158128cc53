"""``featurestore serve`` as a process: binding, workers, stopping, being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
import urllib3

import featurestore as fs
from featurestore_server.access import ANONYMOUS
from featurestore_server.jobs import Jobs
from featurestore_server.serve import Serving, check
from tests.server.serving import ROOT, Served, free_port

NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)
FEATURES = {"k": "int64", "at": "timestamp", "x": "float64"}


def make(folder: Path) -> Path:
    with fs.open(folder / "store") as store:
        store.create_feature_group("g", record_identifier="k", event_time="at", features=FEATURES)
    return folder / "store"


def key_for(store: Path, *roles: str) -> str:
    command = [sys.executable, "-m", "featurestore_server", "keys", "create", "test"]
    command += [word for role in roles for word in ("--role", role)]
    done = subprocess.run(
        [*command, "--store", str(store)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


# ── where it listens ─────────────────────────────────────────────────────────────────────────


def test_other_machines_are_served_only_with_tls_and_keys(tmp_path: Path) -> None:
    store = make(tmp_path)
    with pytest.raises(fs.InvalidInput, match="TLS"):
        check(Serving(store, host="0.0.0.0"))
    with pytest.raises(fs.InvalidInput, match="no API keys"):
        check(Serving(store, host="0.0.0.0", plain_http=True))
    assert check(Serving(store, host="0.0.0.0", port=0, plain_http=True, anonymous=True)).port
    key_for(store, "reader")
    assert check(Serving(store, host="0.0.0.0", port=0, plain_http=True)).port
    done = subprocess.run(
        [sys.executable, "-m", "featurestore", "serve", str(store), "--host", "0.0.0.0"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "TLS" in done.stderr


def test_a_port_that_is_taken_is_said_so(tmp_path: Path) -> None:
    with Served(make(tmp_path)) as served, pytest.raises(fs.CannotOpen, match=str(served.port)):
        check(Serving(tmp_path / "store", port=served.port))


def test_tls(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form

    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    key = form.load_pem_private_key(issued.private_key_pem.bytes(), None)
    pem = (form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    (tmp_path / "key.pem").write_bytes(key.private_bytes(*pem))
    store = make(tmp_path)
    api_key = key_for(store, "admin")
    port = free_port()
    command = [sys.executable, "-m", "featurestore_server", "serve", str(store)]
    command += ["--port", str(port), "--tls-cert", str(tmp_path / "cert.pem")]
    process = subprocess.Popen([*command, "--tls-key", str(tmp_path / "key.pem")])
    try:
        url = f"https://127.0.0.1:{port}"
        deadline = time.monotonic() + 30
        while True:
            try:
                remote = fs.connect(url, api_key, ca_file=str(tmp_path / "ca.pem"))
                break
            except fs.Unreachable:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        with remote:
            remote.put_record("g", {"k": 1, "at": NOON, "x": 1.0})
            assert remote.get_record("g", 1, ["x"]) == {"x": 1.0}
        with pytest.raises(fs.Unreachable):
            fs.connect(url, api_key)  # an authority nobody has vouched for
    finally:
        process.terminate()
        assert process.wait(30) == 0


# ── workers ──────────────────────────────────────────────────────────────────────────────────


def test_workers_share_the_store_its_jobs_and_its_metrics(tmp_path: Path) -> None:
    with Served(make(tmp_path), "--workers", "2") as served:
        assert len(served.workers()) == 2
        for number in range(20):
            # A connection each, so that both workers get some.
            with fs.connect(served.url) as remote:
                remote.put_record("g", {"k": number, "at": NOON, "x": float(number)})
                assert remote.get_record("g", number, ["x"]) == {"x": float(number)}
        http = urllib3.PoolManager(retries=False)
        begun = json.loads(
            http.request(
                "POST", f"{served.url}/v1/compact", headers={"prefer": "respond-async"}
            ).data
        )
        for _ in range(10):
            fresh = urllib3.PoolManager(retries=False)
            assert fresh.request("GET", served.url + begun["href"]).status == 200
        puts = 'featurestore_requests_total{status="200",verb="put_record"} 20.0'
        while puts not in fresh.request("GET", f"{served.url}/metrics").data.decode():
            time.sleep(0.1)  # each worker tells what it has counted twice a second
    with fs.open(tmp_path / "store") as store:
        assert store.snapshot() == 20
        assert store.verify() == []


def test_a_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    with Served(make(tmp_path)) as served:
        (worker,) = served.workers()
        os.kill(worker, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while True:
            try:
                with fs.connect(served.url) as remote:
                    remote.put_record("g", {"k": 1, "at": NOON})
                break
            except fs.Unavailable:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert served.workers() != [worker]


ENDLESS = """
import asyncio, sys, threading
from pathlib import Path
from featurestore_server.access import ANONYMOUS
from featurestore_server.guard import Lane
from featurestore_server.jobs import Job, Jobs

async def main():
    jobs = Jobs(Path(sys.argv[1]))
    job = Job("join", ANONYMOUS, lambda _: threading.Event().wait(), Lane("work", 1, 1))
    await jobs.start(job)
    print(job.id, flush=True)
    await jobs.drain()

asyncio.run(main())
"""


def test_nobody_waits_for_a_job_of_a_worker_that_died(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "server")])
    worker = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    )
    with worker:
        assert worker.stdout is not None
        job = worker.stdout.readline().strip()
        other = Jobs(tmp_path)
        try:
            assert other.find(job, ANONYMOUS)["state"] in ("waiting", "running")
            worker.kill()
            worker.wait()
            state = other.find(job, ANONYMOUS)
            assert (state["state"], state["problem"]["error"]) == ("failed", "Unavailable")
        finally:
            other.close()


def test_workers_end_with_their_supervisor(tmp_path: Path) -> None:
    served = Served(make(tmp_path))
    with served:
        workers = served.workers()
        os.kill(served.process.pid, signal.SIGKILL)
        served.process.wait()
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < deadline
            time.sleep(0.05)


# ── stopping ─────────────────────────────────────────────────────────────────────────────────


def hammer(url: str, acked: list[int], stop: threading.Event, first: int) -> None:
    """Put one record after the other until the server is gone; keeps what was acknowledged."""
    http = urllib3.PoolManager(retries=False)
    number = first
    while not stop.is_set():
        record = {"k": number, "at": (NOON + timedelta(seconds=number)).isoformat(), "x": 1.0}
        try:
            answer = http.request(
                "POST", f"{url}/v1/groups/g/records", body=json.dumps({"record": record})
            )
        except urllib3.exceptions.HTTPError:
            return
        if answer.status == 200:
            acked.append(number)
        number += 1


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_what_was_acknowledged_outlives_any_stop(how: str, tmp_path: Path) -> None:
    with Served(make(tmp_path), "--workers", "2") as served:
        acked: list[int] = []
        stop = threading.Event()
        threads = [
            threading.Thread(target=hammer, args=(served.url, acked, stop, i * 1_000_000))
            for i in range(4)
        ]
        for thread in threads:
            thread.start()
        while len(acked) < 100:
            time.sleep(0.01)
        if how == "SIGTERM":
            served.process.terminate()
            assert served.process.wait(30) == 0
        else:
            served.kill()
        stop.set()
        for thread in threads:
            thread.join()
    with fs.open(tmp_path / "store") as store:
        assert store.verify() == []
        kept = set(store.sql("SELECT k FROM g")["k"].to_pylist())
        assert set(acked) <= kept
        assert len(kept - set(acked)) <= 4  # one for each client whose answer was cut off


def test_a_stop_ends_streams_and_finishes_requests(tmp_path: Path) -> None:
    with Served(make(tmp_path)) as served, fs.connect(served.url) as remote:
        remote.put_record("g", {"k": 1, "at": NOON})
        stream = remote.changes(0, follow=True)
        assert next(stream)["seq"] == 1
        began = time.monotonic()
        served.process.terminate()
        assert list(stream) == []  # ended, not cut
        assert served.process.wait(30) == 0
        assert time.monotonic() - began < 10


def test_changes_are_followed_as_they_come(tmp_path: Path) -> None:
    with Served(make(tmp_path), "--workers", "2") as served, fs.connect(served.url) as remote:
        stream = remote.changes(0, follow=True)
        for number in range(3):
            remote.put_record("g", {"k": number, "at": NOON})
            change = next(stream)
            assert (change["seq"], change["record"]["k"]) == (number + 1, number)
        stream.close()
