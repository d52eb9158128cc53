"""Golden stores: what a version of the format has written is opened, and read the same, for ever.

::

    python -m tests.golden_stores      write tests/golden/stores/format-<n>.tar.xz, once a format

A store with one of everything, and the answers to all questions as they were when it was made.
It was closed in order; what a killed process leaves is the survival campaigns' subject.

**A change of a golden store is a change of the format**: then there is a new number, and a new
file beside the old ones.
"""

from __future__ import annotations

import datetime as dt
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

import featurestore as fs
from featurestore.engine import compactor, ingest
from featurestore.storage.environment import FORMAT

FOLDER = Path(__file__).parent / "golden" / "stores"
NOW = dt.datetime(2013, 6, 1, tzinfo=dt.UTC)

VALUES: dict[str, list[Any]] = {
    "bool": [True, None, False],
    "int8": [-128, None, 127],
    "int64": [-(2**63), None, 2**63 - 1],
    "float32": [0.5, None, float("-inf")],
    "float64": [-0.0, None, 5e-324],
    "string": ["", None, "naïve\0é"],
    "binary": [b"", None, b"\0\xff"],
    "timestamp": [NOW, None, dt.datetime(1, 1, 1, tzinfo=dt.UTC)],
    "date": [dt.date(1970, 1, 1), None, dt.date(9999, 12, 31)],
    "list<string>": [[], None, ["a", None]],
    "list<float64>": [[1.5, None], None, []],
    "vector<float32, 2>": [[1.0, -0.0], None, [2.5, 3.5]],
}


def write(path: Path) -> None:
    """Write a store with one of everything; the caller copies it while it is open."""
    features = {"k": "string", "part": "int32", "t": "timestamp"}
    features |= {f"f{number}": name for number, name in enumerate(VALUES)}
    store = fs.open(path, clock=lambda: NOW, upkeep=False)
    store.create_feature_group(
        "everything", record_identifier=["k", "part"], event_time="t", features=features,
        ttl="400d", description="one of everything", tags={"owner": "tests"},
    )  # fmt: skip
    store.create_feature_group(
        "numbers", record_identifier="n", event_time="t", retention="30d",
        features={"n": "int64", "t": "timestamp", "x": "float64"},
    )  # fmt: skip
    for round_ in range(3):
        for number in range(6):
            store.put_record("everything", everything(number, round_))
        store.flush()
        if round_ == 1:
            store.compact("everything")
    store.update_feature_group("everything", add_features={"late": "int16"})
    store.put_record("everything", {**everything(1, 9), "late": 7}, request_id="one")
    store.delete_record("everything", ("k2", 0), event_time=NOW)
    store.delete_record("everything", ("k" * 900, 1), event_time=NOW, hard=True)
    days = [NOW - dt.timedelta(days=n % 60) for n in range(200)]
    table = pa.table(
        {"n": [n % 9 for n in range(200)], "t": days, "x": [n / 7 for n in range(200)]}
    )
    ingest.JOURNAL_ROWS_MAX = 100  # so that it is staged
    store.ingest("numbers", table, id="table")
    store.flush()
    store.compact("numbers")
    compactor.WINDOW_ROWS = 50
    store.ingest("numbers", table.slice(0, 150), id="again")
    store.erase("numbers", 8)
    store.create_feature_view("view", ["numbers:x", "everything:f1"])
    store.create_consumer("replica", since=5, max_lag=None)
    store.write([("numbers", {"n": 1, "t": NOW, "x": 1.0}), ("everything", everything(3, 10))])


def everything(number: int, round_: int) -> dict[str, Any]:
    """Return a record of every type."""
    key = "k" * 900 if number == 5 else f"k{number}"
    at = NOW - dt.timedelta(days=20 - round_)
    values = {f"f{n}": v[(number + round_) % 3] for n, v in enumerate(VALUES.values())}
    return {"k": key, "part": number % 2, "t": at, **values}


def answers(store: fs.FeatureStore) -> dict[str, Any]:
    """Return what a store says, as text: the same for ever."""
    found: dict[str, Any] = {"seq": store.snapshot()}
    for group in store.list_feature_groups():
        name = group.name
        history = store.sql(f"SELECT * FROM history.{name} ORDER BY write_seq").to_pylist()
        found[name] = {
            "definition": repr(group.to_json()),
            "history": [_text(row) for row in history],
            "online": sorted(map(_text, store.scan(name))),
            "changes": [_text(change["record"]) for change in store.changes(0, [name])],
        }
    found["view"] = [lookup.to_json() for lookup in store.describe_feature_view("view").lookups]
    return found


def _text(row: dict[str, Any]) -> str:
    return repr({n: v.isoformat() if isinstance(v, dt.date) else v for n, v in row.items()})


def main() -> None:
    """Write the golden store of this format."""
    FOLDER.mkdir(exist_ok=True)
    target = FOLDER / f"format-{FORMAT}.tar.xz"
    with tempfile.TemporaryDirectory() as folder, tarfile.open(target, "w:xz") as tar:
        path = Path(folder) / "store"
        write(path)
        for name in (
            "engine/data.mdb",
            *sorted(p.relative_to(path) for p in path.glob("data/*/*")),
        ):
            tar.add(path / name, f"store/{name}")
        tar.addfile(_folder("store/locks"))
        said = json.dumps(answers(fs.open(path, clock=lambda: NOW)), indent=1).encode()
        note = tarfile.TarInfo("answers.json")
        note.size = len(said)
        tar.addfile(note, io.BytesIO(said))


def _folder(name: str) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.mode = tarfile.DIRTYPE, 0o755
    return found


if __name__ == "__main__":
    main()
