"""Ray Data, run in a virtual environment of its own: ``python -m bench score --ray-venv DIR``.

The model is loaded once by one actor, which is given Arrow blocks as large as our units; rows are
read from Parquet and predictions written to it by Ray.  The clock starts when Ray's own processes
run and stops when the last file is there.  What all of those processes have used counts, as far as
it was used in between: workers are started as the work begins.

Nothing of the store is imported there, and of it only the model's file read.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def score(venv: Path, rows: Path, model: Path, inputs: Sequence[str], output: Path) -> Any:
    """Score a Parquet file in Ray's environment; returns the figures, as a side notes them."""
    command = [str(venv / "bin" / "python"), "-m", "bench.ray_peer"]
    command += [str(rows), str(model), ",".join(inputs), str(output)]
    done = subprocess.run(
        command, cwd=REQUIREMENTS.parents[2], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError("\n".join(done.stderr.splitlines()[-30:]))
    return json.loads(done.stdout.splitlines()[-1])
