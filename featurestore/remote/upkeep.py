"""Upkeep over HTTP: flush, compact, verify, scrub, sizes, backup."""

from __future__ import annotations

import tarfile
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


TAR = "application/x-tar"


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

    def scrub(self, *, progress: Callable[[int, int], object] | None = None) -> list[Fault]:
        """Read every byte of the store and hold it to its checksum; returns the faults."""
        from featurestore.engine.verify.findings import Fault

        def tell(state: dict[str, Any]) -> None:
            if progress is not None and "bytes_total" in state:
                progress(state["bytes"], state["bytes_total"])

        found, _ = self._job("/v1/scrub", state=None if progress is None else tell)
        return [Fault(**fault) for fault in found["faults"]]

    def backup(
        self, path: str | os.PathLike[str], *, since: str | os.PathLike[str] | None = None
    ) -> int:
        """Write a consistent, verified copy of the store into a new directory here.

        The server makes the copy of one moment and sends it as it reads it.

        Parameters
        ----------
        path : path
            The directory, new or empty.
        since : path, optional
            An earlier backup, on the disk of the new one: files that it has are not sent again,
            but linked.

        Returns
        -------
        int
            The number of history files in it.

        Raises
        ------
        Unreachable
            The server went away in the middle: what is there is no backup.
        CorruptStore
            What came is not what was sent.
        """
        import urllib3

        from featurestore.engine import backup

        target = Path(path).expanduser().absolute()
        if target.exists() and any(target.iterdir()):
            raise InvalidInput(f"{target} is not empty. Give the path of a new directory.")
        earlier = None if since is None else Path(since).expanduser().absolute()
        known = None if earlier is None else _known(earlier)
        target.mkdir(parents=True, exist_ok=True)
        how: dict[str, Any] = {"stream": True, "accept": TAR}
        if known is None:
            answer = self._request("GET", "/v1/backup", **how)
        else:
            answer = self._request("POST", "/v1/backup", known, **how)
        try:
            note = _unpack(answer, target)
        except (tarfile.TarError, urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(
                f"The copy of {self._url} ended too early ({error}); {target} is not whole."
            ) from error
        finally:
            answer.close()
        return backup.finish(target, earlier, note)


def _known(earlier: Path) -> dict[str, Any]:
    """Return what an earlier backup has, so that it is not sent again."""
    from featurestore.engine.backup import note_of

    note = note_of(earlier)
    found = earlier.joinpath("data").rglob("*.parquet")
    held = {path.relative_to(earlier).as_posix(): path.stat().st_size for path in found}
    return {"store_id": note["store_id"], "named": str(earlier), "files": held}


def _unpack(answer: Any, target: Path) -> bytes:
    """Unpack an archive as it comes, but for the note that makes it a backup; returns that."""
    from featurestore.engine.database import BACKUP_NOTE

    note = None
    with tarfile.open(fileobj=answer, mode="r|") as copy:
        for member in copy:
            file = copy.extractfile(member) if member.name == BACKUP_NOTE else None
            if file is None:
                copy.extract(member, target, filter="data")
            else:
                note = file.read()
    answer.read()
    if note is None:
        raise tarfile.ReadError("it has no note")
    return note
