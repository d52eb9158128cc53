"""Writes ``recordio.json``: what the SageMaker SDK writes for some arrays, to be compared with.

In an environment of its own, since the SDK holds other libraries back::

    python -m venv sdk && sdk/bin/pip install 'sagemaker<3'
    sdk/bin/python tests/golden/recordio.py
"""

from __future__ import annotations

import hashlib
import io
import json
from importlib import metadata
from pathlib import Path

import numpy as np

SHAPES = [(3, 1), (2, 2), (5, 20), (1, 31), (1, 32), (2, 100), (1, 4100)]
SHOWN_BYTES = 500


def arrays(rows: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features with a NaN and a negative zero among them, and labels."""
    random = np.random.default_rng(rows * 10_007 + features)
    x = random.normal(size=(rows, features)).astype(np.float32)
    x[0, 0], x[-1, -1] = np.nan, -0.0
    return x, random.integers(0, 2, rows).astype(np.float32)


def main() -> None:
    """Write the file."""
    from sagemaker.amazon.common import write_numpy_to_dense_tensor

    found = []
    for rows, features in SHAPES:
        x, y = arrays(rows, features)
        for labels in (y, None):
            file = io.BytesIO()
            write_numpy_to_dense_tensor(file, x, labels)
            shape = {"rows": rows, "features": features, "has_label": labels is not None}
            data = file.getvalue()
            if len(data) > SHOWN_BYTES:
                found.append({**shape, "sha256": hashlib.sha256(data).hexdigest()})
            else:
                found.append({**shape, "hex": data.hex()})
    content = {"sagemaker": metadata.version("sagemaker"), "cases": found}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
