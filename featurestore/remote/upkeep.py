"""Upkeep over HTTP: flush, compact, verify, sizes, backup."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from featurestore import wire
from featurestore.errors import InvalidInput, Unreachable
from featurestore.remote.connection import Connection, once, one

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from featurestore.engine.verify.findings import Fault
    from featurestore.results import ErasureReceipt


class Upkeep(Connection):
    """The verbs of upkeep; what takes long is a job of the server."""

    def flush(self, name: str | None = None) -> int:
        """Move the journal of one group, or of all, into history files; returns rows moved."""
        self._require_writable()
        return int(self._job("/v1/flush", one(name), headers=once())[0]["rows"])

    def compact(
        self, name: str | None = None, *, progress: Callable[[int], object] | None = None
    ) -> int:
        """Merge history files into disjoint cells; returns rows written again."""
        self._require_writable()
        return int(self._job("/v1/compact", one(name), progress, headers=once())[0]["rows"])

    def verify(self, *, erasures: Iterable[ErasureReceipt] = ()) -> list[Fault]:
        """Check the whole store against itself; returns the faults, none when it is sound.

        The keys of ``erasures``, which the store may not know of, are looked for as well.
        """
        from featurestore.engine.verify.findings import Fault

        asked = {"erasures": [wire.erasure_receipt(receipt) for receipt in erasures]}
        return [Fault(**fault) for fault in self._job("/v1/verify", given=asked)[0]["faults"]]

    def stat(self) -> dict[str, Any]:
        """Return sizes and counts: what is where, and how fresh."""
        facts = dict(self._json("GET", "/v1/stat"))
        for name in ("last_commit", "last_flush", "last_compaction"):
            if isinstance(facts.get(name), str):
                facts[name] = wire.read_time(facts[name])
        return facts

    def erase(self, name: str, key: Any) -> ErasureReceipt:
        """Erase a key with all its records, past and present; there is no way back."""
        path = f"/v1/groups/{quote(name, safe='')}/erase"
        found = self._write("POST", path, {"key": wire.exact(key)}, query=[("exact", "true")])
        return wire.read_erasure_receipt(found)

    def scrub(self, *, progress: Callable[[int, int], object] | None = None) -> list[Any]:
        """Refuse: every byte is read where it lies."""
        del progress
        raise InvalidInput("Run `featurestore scrub` on the machine of the store.")

    def backup(self, path: str | os.PathLike[str]) -> int:
        """Write a consistent copy of the store into a new directory here; returns its file count.

        The server makes the copy of one moment and sends it as it reads it.
        """
        import tarfile

        import urllib3

        target = Path(path).expanduser().absolute()
        if target.exists() and any(target.iterdir()):
            raise InvalidInput(f"{target} is not empty. Give the path of a new directory.")
        target.mkdir(parents=True, exist_ok=True)
        answer = self._request("GET", "/v1/backup", stream=True)
        try:
            with tarfile.open(fileobj=answer, mode="r|") as copy:
                copy.extractall(target, filter="data")
            answer.read()
        except (tarfile.TarError, urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(
                f"The copy of {self._url} ended too early ({error}); {target} is not whole."
            ) from error
        finally:
            answer.close()
        _make_durable(target)
        return sum(1 for _ in target.joinpath("data").rglob("*.parquet"))


def _make_durable(target: Path) -> None:
    from featurestore.storage import files

    for found in [*target.rglob("*"), target]:
        if found.is_dir():
            files.sync_folder(found)
        else:
            files.sync_file(found)
