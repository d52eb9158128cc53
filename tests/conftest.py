"""What every test stands on: an odd time zone, the example budgets, and stores that verify.

The zone is set before anything else is imported.  Kathmandu is 5:45 ahead of UTC, so a slip into
local time is wrong by an amount that no test expects, on every machine.

A store a test opens through ``open_store`` is verified when the test is over: whatever the test
was about, it also says that what it did left a sound store behind.  A test that damages a store
on purpose closes it itself.

In the derandomised profiles the engine's random bytes are derived from the test's name, so that
the hashes of keys, and with them what lies in which file, are the same in every run.
"""

from __future__ import annotations

import os
import random
import time

os.environ["TZ"] = "Asia/Kathmandu"
os.environ["COLUMNS"] = "200"  # a console made at import is as wide as one made in a test
time.tzset()

from typing import TYPE_CHECKING, Any  # noqa: E402 - the zone comes first

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

import featurestore as fs  # noqa: E402
from featurestore.storage import seam  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

#: Run by tests/server/sdk.py where SageMaker's SDKs are, which is not here.
collect_ignore = ["server/sdk_v2.py", "server/sdk_v3.py"]

# No deadline: a first call compiles a kernel or opens an environment.  A state machine of 50
# steps is one example, so `nightly` is the thousand runs that a release is held to.
COMMON: dict[str, Any] = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
REPEATABLE: dict[str, Any] = {"derandomize": True, "database": None}
settings.register_profile("dev", max_examples=25, stateful_step_count=20, **COMMON)
settings.register_profile("quick", settings.get_profile("dev"), **REPEATABLE)
settings.register_profile("ci", max_examples=100, stateful_step_count=30, **REPEATABLE, **COMMON)
settings.register_profile("nightly", max_examples=1000, stateful_step_count=50, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


os.register_at_fork(after_in_child=lambda: setattr(seam, "random_bytes", os.urandom))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Give a test random bytes of its own, the same in every run of a derandomised profile."""
    if settings().derandomize:
        seam.random_bytes = random.Random(item.nodeid).randbytes
    try:
        return (yield)
    finally:
        seam.random_bytes = os.urandom


def pytest_report_header() -> str:
    """Say what this run differs in from others."""
    facts = {
        "time zone": "/".join(time.tzname),
        "hypothesis profile": settings.get_current_profile_name(),
        "key hash bits": os.environ.get("FEATURESTORE_KEY_HASH_BITS", "64"),
    }
    return ", ".join(f"{name}: {value}" for name, value in facts.items())


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[..., fs.FeatureStore]]:
    """Return a function that opens a store in this test's folder, as ``fs.open`` does.

    Its upkeep is off unless asked for: a test that counts files wants its own flushes only.
    """
    opened: list[fs.FeatureStore] = []

    def open_one(name: str = "store", **options: Any) -> fs.FeatureStore:
        store = fs.open(tmp_path / name, **{"upkeep": False, **options})
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        if not store.closed:
            faults = store.verify()
            store.close()
            assert faults == []


@pytest.fixture
def store(open_store: Callable[..., fs.FeatureStore]) -> fs.FeatureStore:
    """Return an empty store."""
    return open_store()
