"""Golden bytes: what was once written must be read, and written, for ever.

A golden file is text: blocks of hexadecimal digits, each under a line that says what it holds,

::

    # "JFK"
    024a464b0000

**A change of a golden file is a change of the format.**  New cases are appended.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent.parent / "golden"


def golden(name: str) -> dict[str, bytes]:
    """Return the blocks of ``tests/golden/<name>.hex`` by their titles."""
    blocks: dict[str, bytes] = {}
    title = ""
    for line in (FOLDER / f"{name}.hex").read_text("utf-8").splitlines():
        if line.startswith("#"):
            title = line[1:].strip()
            blocks[title] = b""
        else:
            blocks[title] += bytes.fromhex(line)
    return blocks
