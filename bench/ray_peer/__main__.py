"""The program that runs in Ray's environment; see :mod:`bench.ray_peer`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

BLOCK_ROWS = 131_072


class Scorer:
    """The model, in an actor."""

    def __init__(self, model: str, inputs: Sequence[str]) -> None:
        self._inputs = list(inputs)
        if model.endswith(".ubj"):
            import xgboost as xgb

            booster = xgb.Booster(model_file=model)
            booster.set_param("nthread", 1)
            self._score = lambda rows: booster.inplace_predict(rows, validate_features=False)
        else:
            import skops.io as skops

            estimator = skops.load(model, trusted=skops.get_untrusted_types(file=model))
            self._score = lambda rows: estimator.predict_proba(rows)[:, 1]

    def __call__(self, block: Any) -> Any:
        """Return the ids of a block with their scores."""
        import numpy as np
        import pyarrow as pa

        rows = np.column_stack([block[name].to_numpy() for name in self._inputs])
        return pa.table({"id": block["id"], "score": np.asarray(self._score(rows), np.float64)})


def main(rows: str, model: str, inputs: str, output: str) -> None:
    """Score, and print the figures."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    cpu, wall = cpu_seconds(), time.perf_counter()
    ray.data.read_parquet(rows).map_batches(
        Scorer,
        fn_constructor_args=(model, inputs.split(",")),
        batch_format="pyarrow",
        batch_size=BLOCK_ROWS,
        compute=ray.data.ActorPoolStrategy(size=1),
    ).write_parquet(output)
    figures = {"cpu_s": cpu_seconds() - cpu, "wall_s": time.perf_counter() - wall}
    print(json.dumps(figures | {"versions": {"ray": ray.__version__}}))
    ray.shutdown()


def cpu_seconds() -> float:
    """Return what this process, all below it, and those of them that have ended have used."""
    import psutil

    this = psutil.Process()
    total = 0.0
    for process in [this, *this.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    main(*sys.argv[1:])
