"""What a training script finds: SageMaker's folders and environment, under the job's own folder.

::

    <store>/jobs/train/<name>/
      lock                     held by whoever runs the job
      logs/attempt-1.log       what it printed
      home/                    HOME: empty
      ml/                      /opt/ml
        code/                  the entry script, as it was when the job was made
        input/config/          hyperparameters.json inputdataconfig.json resourceconfig.json
        input/data/<channel>/  File: a copy; FastFile: links to the files themselves
        input/data/<channel>_0 Pipe: a named pipe for each epoch, of a training set
        model/                 what it leaves here is the model
        checkpoints/           what it leaves here is there again when it is started again
        output/failure         why it failed, in its own words
        output/data/           other results

==========================  =====================================================================
``SM_CHANNELS``             names of the channels, a JSON list
``SM_CHANNEL_TRAIN``        the folder of the channel ``train``; so for each
``SM_HPS``, ``SM_HP_LR``    all hyperparameters as JSON; one of them
``SM_USER_ARGS``            the same as arguments, with which the script is called: ``--lr 0.1``
``SM_MODEL_DIR``            ``ml/model``
``SM_OUTPUT_DATA_DIR``      ``ml/output/data``
``SM_CHECKPOINT_DIR``       ``ml/checkpoints`` (this one is not SageMaker's)
``TRAINING_JOB_NAME``       its name; and the rest of SageMaker's toolkit's list
==========================  =====================================================================
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidInput
from featurestore.models.artefacts import ArtefactFile, digest_of, sha256
from featurestore.training.training_set import TrainingSet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

INPUT_MODES = ("File", "FastFile", "Pipe")
#: SageMaker's limit.
PARAMS_MAX = 100

Record = dict[str, Any]


class Folders:
    """The folders of one job."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ml = root / "ml"
        self.code = self.ml / "code"
        self.config = self.ml / "input" / "config"
        self.data = self.ml / "input" / "data"
        self.model = self.ml / "model"
        self.checkpoints = self.ml / "checkpoints"
        self.output = self.ml / "output"
        self.logs = root / "logs"
        self.home = root / "home"

    def make(self) -> None:
        """Create all of them."""
        for folder in (
            self.code, self.config, self.data, self.model, self.checkpoints, self.output / "data",
            self.logs, self.home,
        ):  # fmt: skip
            folder.mkdir(parents=True, exist_ok=True)


# ── channels ─────────────────────────────────────────────────────────────────────────────────


def fill_channel(folders: Folders, name: str, given: Any, mode: str) -> Record:
    """Put a channel's data where the script finds it; returns what the record says of it."""
    if mode not in INPUT_MODES:
        raise InvalidInput(f"input_mode= is {mode!r}; give one of {', '.join(INPUT_MODES)}.")
    target = folders.data / name
    if isinstance(given, TrainingSet):
        return _fill_with_set(target, given, mode)
    if mode == "Pipe":
        raise InvalidInput(
            f'The channel "{name}" is a {type(given).__name__}; a training set can be piped.'
        )
    facts: Record = {"mode": mode}
    if isinstance(given, (str, os.PathLike)):
        source = Path(given).expanduser().absolute()
        if not source.exists():
            raise InvalidInput(f'The channel "{name}" is {source}, which is not there.')
        facts |= {"path": str(source)}
        if mode == "FastFile" and source.is_dir():
            target.symlink_to(source, target_is_directory=True)
        elif source.is_dir():
            shutil.copytree(source, target)
        else:
            _take([source], target, mode)
    else:
        target.mkdir(parents=True)
        _write_table(given, target / "part-0.parquet", name)
    return {**facts, "sha256": _digest(target)}


def _fill_with_set(target: Path, given: TrainingSet, mode: str) -> Record:
    """Put a training set's own files in place; those of its parts stay where they are."""
    if mode != "Pipe":
        _take([path for path in given.path.iterdir() if path.is_file()], target, mode)
    return {
        "mode": mode,
        "source": str(given.path),
        "training_set": {"name": given.name, "hash": given.hash},
        "label": given.label,
        "features": list(given.features),
        "lookups": [lookup.to_json() for lookup in given.lookups],
        "categories": {name: list(texts) for name, texts in given.categories.items()},
        "fills": {c.name: c.fill for c in given.layout.features if c.fill is not None},
    }


def _take(paths: Sequence[Path], target: Path, mode: str) -> None:
    """Copy files, or show them as they are; nobody is to write there then."""
    target.mkdir(parents=True)
    for path in paths:
        if mode == "FastFile":
            (target / path.name).symlink_to(path)
        else:
            shutil.copy2(path, target / path.name)


def _digest(folder: Path) -> str:
    # A channel may be a link to a folder, into which rglob does not go by itself.
    base = folder.resolve()
    found = sorted(path for path in base.rglob("*") if path.is_file())
    return digest_of(
        [ArtefactFile(p.relative_to(base).as_posix(), sha256(p), p.stat().st_size) for p in found]
    )


def _write_table(given: Any, path: Path, name: str) -> None:
    import pyarrow.parquet as pq

    pq.write_table(_as_table(given, name), path)


def _as_table(given: Any, name: str) -> pa.Table:
    import pyarrow as pa

    if hasattr(given, "__arrow_c_stream__"):
        return pa.table(given)
    raise InvalidInput(
        f'The channel "{name}" is a {type(given).__name__}; give a training set, a path, or a '
        "table of Arrow, pandas or Polars."
    )


# ── parameters and environment ───────────────────────────────────────────────────────────────


def write_config(
    folders: Folders, params: Mapping[str, Any], channels: Mapping[str, Record]
) -> None:
    """Write the three files of ``input/config``."""
    if len(params) > PARAMS_MAX:
        raise InvalidInput(f"{len(params)} hyperparameters are given; at most {PARAMS_MAX} may be.")
    inputs = {
        name: {
            "TrainingInputMode": facts["mode"],
            "S3DistributionType": "FullyReplicated",
            "RecordWrapperType": "None",
        }
        for name, facts in channels.items()
    }
    content = {
        "hyperparameters": {name: as_text(value) for name, value in params.items()},
        "inputdataconfig": inputs,
        "resourceconfig": {
            "current_host": "algo-1",
            "hosts": ["algo-1"],
            "network_interface_name": "lo",
        },
        # Not SageMaker's: what the algorithms by name know of their columns.
        "channels": dict(channels),
    }
    for name, value in content.items():
        (folders.config / f"{name}.json").write_text(_json(value), "utf-8")


def as_text(value: Any) -> str:
    """Return a hyperparameter as text, as SageMaker keeps it.

    Examples
    --------
    >>> as_text("gbtree"), as_text(0.1), as_text(True), as_text([1, 2])
    ('gbtree', '0.1', 'true', '[1, 2]')
    """
    return value if isinstance(value, str) else _json(value)


def variables(
    folders: Folders,
    job: str,
    params: Mapping[str, Any],
    channels: Mapping[str, Record],
    entry: str,
) -> dict[str, str]:
    """Return the environment of the contract."""
    hosts = ["algo-1"]
    text: dict[str, Any] = {
        "SM_CHANNELS": sorted(channels),
        "SM_CURRENT_HOST": "algo-1",
        "SM_HOSTS": hosts,
        "SM_HPS": dict(params),
        "SM_INPUT_CONFIG_DIR": str(folders.config),
        "SM_INPUT_DATA_CONFIG": {name: facts["mode"] for name, facts in channels.items()},
        "SM_INPUT_DIR": str(folders.ml / "input"),
        "SM_LOG_LEVEL": 20,
        "SM_MODEL_DIR": str(folders.model),
        "SM_MODULE_DIR": str(folders.code),
        "SM_MODULE_NAME": Path(entry).stem,
        "SM_NETWORK_INTERFACE_NAME": "lo",
        "SM_NUM_CPUS": os.cpu_count() or 1,
        "SM_NUM_GPUS": 0,
        "SM_OUTPUT_DATA_DIR": str(folders.output / "data"),
        "SM_OUTPUT_DIR": str(folders.output),
        "SM_RESOURCE_CONFIG": {"current_host": "algo-1", "hosts": hosts},
        "SM_USER_ARGS": arguments(params),
        "SM_CHECKPOINT_DIR": str(folders.checkpoints),
        "SM_USER_ENTRY_POINT": entry,
        "TRAINING_JOB_NAME": job,
        "TRAINING_JOB_ARN": f"arn:local:featurestore:training-job/{job}",
    }
    text |= {f"SM_CHANNEL_{name.upper()}": str(folders.data / name) for name in channels}
    text |= {f"SM_HP_{name.upper()}": value for name, value in params.items()}
    flat = {name: as_text(value) for name, value in text.items()}
    return {**flat, "SM_TRAINING_ENV": _json({n[3:].lower(): v for n, v in text.items()})}


def arguments(params: Mapping[str, Any]) -> list[str]:
    """Return hyperparameters as a script's arguments, as SageMaker's toolkit does.

    Examples
    --------
    >>> arguments({"depth": 6, "C": 0.5, "kind": "a"})
    ['--depth', '6', '-C', '0.5', '--kind', 'a']
    """
    flags = ((f"-{n}" if len(n) == 1 else f"--{n}", as_text(v)) for n, v in params.items())
    return [word for flag in flags for word in flag]


def _json(value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"Hyperparameters are numbers, texts and lists of them: {error}."
        ) from error
