"""What the process of a job by name runs: ``python -m featurestore.training.algorithms NAME``.

It keeps the same contract as anybody's script: channels, parameters, checkpoints and the place of
the model come from the environment, and a failure is told in ``output/failure``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

from featurestore.errors import FeatureStoreError, NotInstalled
from featurestore.models.formats import FORMATS, adapter, format_of
from featurestore.training.algorithms import ALGORITHMS, data
from featurestore.training.algorithms.progress import Progress

_EXTRAS = {form.module: form.extra for form in FORMATS.values()}


def main(name: str) -> None:
    """Train an algorithm on the job's channels and leave the model."""
    algorithm = ALGORITHMS[name]
    params = json.loads(os.environ["SM_HPS"])
    try:
        train = getattr(importlib.import_module(algorithm.module), algorithm.function)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(algorithm.module, "training")
        raise NotInstalled(f'The algorithm "{name}"', extra) from error
    label = params.pop("label", None)
    channels = data.read_channels(label, is_supervised=algorithm.is_supervised)
    rounds = int(params.pop("checkpoint_rounds", 10))
    progress = Progress(channels, rounds)
    model = train(channels["train"], params, progress)
    form = format_of(model)
    adapter(form.name).dump(model, Path(os.environ["SM_MODEL_DIR"]) / f"model{form.suffix}")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except (FeatureStoreError, ValueError, TypeError, KeyError) as failed:
        told = f"{type(failed).__name__}: {failed}"
        (Path(os.environ["SM_OUTPUT_DIR"]) / "failure").write_text(told, "utf-8")
        sys.exit(told)
