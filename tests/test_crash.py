"""A store killed, or let down by its disk, at every single step of its life.

After each the store must verify clean; and when its life is lived again from the start, by request
ids, the end must be the same to the last seq, as if nothing had happened: nothing acknowledged is
lost, and nothing counts twice, whoever dies when.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import featurestore as fs
from featurestore.storage import seam
from tests.crashing import DIED, SIZES, Steps, live, live_until, opened
from tests.small_world import fresh_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

# Every how many steps: 1 is the long form, which kills at each of them.
STRIDE = int(os.environ.get("FEATURESTORE_CRASH_STRIDE", "3"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, size in SIZES:
        monkeypatch.setattr(module, name, size)


def remains(store: fs.FeatureStore) -> dict[object, Any]:
    """Return everything a store answers; what was in the table of the life has x of 100 and more.

    Its slices follow the order of key hashes, which each store seeds anew: those rows are compared
    without their seqs, and the seqs among themselves.
    """
    found: dict[object, Any] = {"seq": store.snapshot()}
    for name in [group.name for group in store.list_feature_groups()]:
        rows = store.sql(f"SELECT * FROM history.{name} ORDER BY write_seq").to_pylist()
        found[name, "seqs"] = [row["write_seq"] for row in rows]
        for row in rows:
            row["write_seq"] = None if (row["x"] or 0) >= 100 else row["write_seq"]
        found[name] = sorted(rows, key=repr)
        found[name, "latest"] = sorted((r["k"], r["t"], r["x"]) for r in store.scan(name))
    return found


def files_of(path: Path) -> set[str]:
    """Return what lies in a store's folders; locks of the living are not counted."""
    return {str(p.relative_to(path)) for p in (path / "data").rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def undisturbed() -> Iterator[tuple[list[str], dict[object, Any]]]:
    """Live once without trouble: the names of the steps, and what remains."""
    with pytest.MonkeyPatch.context() as patch, fresh_folder() as folder:
        for module, name, size in SIZES:
            patch.setattr(module, name, size)
        with Steps(None, lambda _: None) as steps, opened(folder / "store") as store:
            live(store)
        with opened(folder / "store") as store:
            assert store.verify() == []
            yield steps.seen, remains(store)


def lives_again(path: Path, expected: dict[object, Any]) -> None:
    """Fail unless the store is sound, and comes to the same end when its life is lived again."""
    with opened(path) as store:
        assert store.verify() == []
        live(store)
        assert remains(store) == expected
        store.flush()
        store.compact()
        assert store.verify() == []
        listed = {entry["path"] for entry in listed_files(store)}
        assert files_of(path) == listed  # no orphan is left


def listed_files(store: fs.FeatureStore) -> list[dict[str, Any]]:
    """Return the files in the manifest."""
    database = store._database
    names = [group.name for group in store.list_feature_groups()]
    with database.snapshot(names) as snapshots:
        return [{"path": e.path} for s in snapshots.values() for e in s.files]


def test_there_are_steps_of_every_kind(undisturbed: tuple[list[str], dict[object, Any]]) -> None:
    steps, end = undisturbed
    assert {"commit", "write", "fsync", "rename", "fsync_folder", "unlink"} <= set(steps)
    assert len(steps) > 80
    assert end["seq"] == len(end["left"]) + len(end["right"])


def test_killed_at_any_step_it_comes_to_the_same_end(
    undisturbed: tuple[list[str], dict[object, Any]],
) -> None:
    steps, end = undisturbed
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.crashing"])
    for at in range(0, len(steps), STRIDE):
        with fresh_folder() as folder:
            victim = processes.Process(target=live_until, args=(folder / "store", at))
            victim.start()
            victim.join(120)
            assert victim.exitcode == DIED, f"step {at}, {steps[at]}"
            lives_again(folder / "store", end)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["no space", "I/O error"])
def test_a_call_that_fails_at_any_step_harms_nothing(
    undisturbed: tuple[list[str], dict[object, Any]], code: int
) -> None:
    steps, end = undisturbed

    mode = "enospc" if code == errno.ENOSPC else "eio"

    def fail(name: str) -> None:
        if seam.suits(mode, name):
            raise OSError(code, os.strerror(code))

    for at in range(1 % STRIDE, len(steps), STRIDE):
        with fresh_folder() as folder:
            path = folder / "store"
            try:
                with Steps(at, fail), opened(path) as store:
                    live(store)
            except fs.StoreFull:
                assert code == errno.ENOSPC, f"step {at}, {steps[at]}"
            except (OSError, fs.FeatureStoreError):
                assert code == errno.EIO, f"step {at}, {steps[at]}"
            lives_again(path, end)
