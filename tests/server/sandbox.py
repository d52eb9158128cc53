"""What hostile SQL is let loose on: a served store, a canary file outside, a listener."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import featurestore as fs
from tests.server.serving import serving

CANARY = "the canary sings of the year 2099"
NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)


class World:
    """A served store, a canary, a listener."""

    def __init__(self, folder: Path, remote: Any, store: fs.FeatureStore, port: int) -> None:
        self.remote, self.store, self.port = remote, store, port
        self.canary = folder / "canary.csv"
        self.calls: list[object] = []
        self.files = sorted((store.path / "data").rglob("*.parquet"))

    def texts(self, template: str) -> str:
        names = {"CANARY": self.canary, "FILE": self.files[0], "DATA": self.files[0].parent}
        names |= {"PORT": self.port, "LINK": self.canary.with_name("link.csv")}
        for name, value in names.items():
            template = template.replace(name, str(value))
        return template

    def state(self) -> dict[Path, bytes]:
        return {
            path: path.read_bytes()
            for path in sorted(self.store.path.joinpath("data").rglob("*"))
            if path.is_file()
        }


@contextlib.contextmanager
def sandbox(folder: Path) -> Iterator[World]:
    """Serve a store in a folder with a canary beside it, and listen."""
    (folder / "canary.csv").write_text(f"line\n{CANARY}\n")
    (folder / "link.csv").symlink_to(folder / "canary.csv")
    listener = socket.create_server(("127.0.0.1", 0))
    with fs.open(folder / "store") as store:
        store.create_feature_group(
            "weather",
            record_identifier="origin",
            event_time="hour",
            features={"origin": "string", "hour": "timestamp", "temp": "float64"},
        )
        store.ingest("weather", [{"origin": f"K{i}", "hour": NOON, "temp": i} for i in range(100)])
        store.flush()
        store.put_record("weather", {"origin": "JFK", "hour": NOON, "temp": 1.0})
        with serving(store) as url, fs.connect(url) as remote:
            made = World(folder, remote, store, listener.getsockname()[1])

            def listen() -> None:
                while True:
                    try:
                        made.calls.append(listener.accept())
                    except OSError:
                        return

            threading.Thread(target=listen, daemon=True).start()
            yield made
    listener.close()
