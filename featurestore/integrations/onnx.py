"""ONNX: models of any library that were exported, run by ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def dump(model: Any, path: Path) -> None:
    """Write an ``onnx.ModelProto``."""
    path.write_bytes(model.SerializeToString())


def load(data: bytes, trusted: Sequence[str]) -> Any:  # noqa: ARG001  no types in it
    """Return a session, one thread of which works."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def scorer(native: Any) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """Return the model's probabilities where it has some, else its first output."""
    [rows_in] = native.get_inputs()
    outputs = [output.name for output in native.get_outputs()]
    chosen = next((name for name in outputs if "prob" in name.lower()), outputs[0])

    def score(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        [found] = native.run([chosen], {rows_in.name: np.ascontiguousarray(rows, np.float32)})
        scores = np.asarray(found, dtype=np.float64)
        if scores.ndim == 2 and scores.shape[1] <= 2:
            return scores[:, -1]
        return scores

    return score
