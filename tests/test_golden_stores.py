"""Stores of every released format are opened, say what they said, and go on."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING

import pytest

import featurestore as fs
from featurestore.storage.environment import FORMAT
from tests.golden_stores import FOLDER, NOW, answers, everything

if TYPE_CHECKING:
    from pathlib import Path

FORMATS = sorted(FOLDER.glob("*.tar.xz"))


def test_the_format_of_now_has_a_golden_store() -> None:
    assert FOLDER / f"format-{FORMAT}.tar.xz" in FORMATS


@pytest.mark.parametrize("archive", FORMATS, ids=lambda path: path.name.split(".")[0])
def test_a_store_of_any_format_says_what_it_said(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    expected = json.loads((tmp_path / "answers.json").read_bytes())
    for read_only in (True, False):
        with fs.open(
            tmp_path / "store", clock=lambda: NOW, read_only=read_only, upkeep=False
        ) as store:
            assert json.loads(json.dumps(answers(store))) == expected
            assert store.verify() == store.scrub() == []
    with fs.open(tmp_path / "store", clock=lambda: NOW, upkeep=False) as store:
        assert store.put_record(
            "everything", {**everything(1, 9), "late": 7}, request_id="one"
        ).replayed
        store.put_record("everything", everything(0, 11))
        store.flush()
        store.compact()
        assert store.verify() == []
        store.backup(tmp_path / "copy")
    fs.restore(tmp_path / "copy", tmp_path / "again")
