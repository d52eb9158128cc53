"""Makes ``logistic.onnx``: ``python make_onnx.py``, in an environment with skl2onnx.

The model is a logistic regression of scikit-learn; what it says of ten rows lies beside it, so that
the test needs ONNX Runtime alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).parent


def main() -> None:
    """Train, export, and note the scores."""
    from skl2onnx import to_onnx

    chance = np.random.default_rng(8)
    rows = chance.normal(size=(500, 4)).astype(np.float32)
    late = (rows[:, 0] + chance.normal(size=500) > 0).astype(np.int64)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, late)
    made = to_onnx(model, rows[:1], options={"zipmap": False}, target_opset=17)
    (HERE / "logistic.onnx").write_bytes(made.SerializeToString())
    expected = model.predict_proba(rows[:10])[:, 1]
    np.savetxt(HERE / "logistic.csv", np.column_stack([rows[:10], expected]), delimiter=",")


if __name__ == "__main__":
    main()
