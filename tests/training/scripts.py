"""Training scripts that the tests run as jobs, and the functions that write them to disk."""

from __future__ import annotations

import textwrap
from pathlib import Path

SGD = '''
"""Logistic regression by gradient descent, one batch a step, with a checkpoint after every step."""
import os, sys, time
import numpy as np
from featurestore.training.checkpoint import Checkpoints

rows = np.load(os.path.join(os.environ["SM_CHANNEL_TRAIN"], "rows.npy"))
steps = int(sys.argv[sys.argv.index("--steps") + 1])
checkpoints = Checkpoints(keep=2)
weights, momentum, start = np.zeros(rows.shape[1] - 1), np.zeros(rows.shape[1] - 1), 0
chance = np.random.Generator(np.random.Philox(7))
found = checkpoints.latest()
if found:
    with np.load(found.path / "state.npz") as state:
        weights, momentum, start = state["weights"], state["momentum"], found.step
    import json
    chance.bit_generator.state = json.loads((found.path / "chance.json").read_text(),
                                            object_hook=lambda d: {k: np.array(v, np.uint64)
                                            if isinstance(v, list) else v for k, v in d.items()})
for step in range(start + 1, steps + 1):
    batch = rows[chance.integers(0, len(rows), 32)]
    p = 1 / (1 + np.exp(-batch[:, 1:] @ weights))
    momentum = 0.9 * momentum + batch[:, 1:].T @ (p - batch[:, 0]) / len(batch)
    weights = weights - 0.1 * momentum
    print(f"step={step} loss={float(np.abs(weights).sum()):.6f}", flush=True)
    import json
    with checkpoints.save(step) as folder:
        np.savez(folder / "state.npz", weights=weights, momentum=momentum)
        (folder / "chance.json").write_text(json.dumps(chance.bit_generator.state,
                                            default=lambda a: a.tolist()))
    time.sleep(0.01)
np.save(os.path.join(os.environ["SM_MODEL_DIR"], "weights.npy"), weights)
'''

LOOK = '''
"""Writes down all that it can see."""
import json, os, pathlib, sys
home = pathlib.Path.home()
json.dump({
    "env": dict(os.environ), "argv": sys.argv[1:], "home": sorted(map(str, home.iterdir())),
    "fds": sorted(int(n) for n in os.listdir("/proc/self/fd")),
    "config": {p.name: json.loads(p.read_text())
               for p in pathlib.Path(os.environ["SM_INPUT_CONFIG_DIR"]).iterdir()},
    "data": {str(p.relative_to(os.environ["SM_INPUT_DIR"])): p.is_symlink()
             for p in pathlib.Path(os.environ["SM_INPUT_DIR"], "data").rglob("*")},
}, open(os.path.join(os.environ["SM_OUTPUT_DATA_DIR"], "seen.json"), "w"))
open(os.path.join(os.environ["SM_MODEL_DIR"], "weights.txt"), "w").write("1.0")
'''


def script(folder: Path, name: str, text: str) -> Path:
    """Write a script and return its path."""
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path
