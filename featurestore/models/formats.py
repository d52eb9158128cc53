"""Formats: how a model is written without code, and how its score is had from rows of float32.

Each format is one file with three functions, of ``featurestore.integrations`` but for the forest::

    dump(model, path)     write a model that lives in memory
    load(data, trusted)   bytes whose digest was compared -> the library's own object
    scorer(native)        that object -> function (rows, columns) float32 -> float64

A **score** is one number for each row where the model has one: the probability of the second class
of two, the value of a regression, the number of a cluster, how odd a row is.  Models of more
classes or components give a row of numbers for each row.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, cast

from featurestore.errors import InvalidInput, NotInstalled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from featurestore.models.artefacts import ArtefactFile
    from featurestore.models.registry import ModelVersion

    Scorer = Callable[[NDArray[np.float32]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Format:
    """A way to write a model.

    Attributes
    ----------
    name, suffix : str
        Of the format, and of its files.
    module : str
        Where its functions are.
    package : str
        The top-level package of the models it writes.
    extra : str
        What to install for it.
    """

    name: str
    suffix: str
    module: str
    package: str
    extra: str


_HERE = "featurestore.integrations"
FORMATS = {
    known.name: known
    for known in (
        Format("skops", ".skops", f"{_HERE}.sklearn", "sklearn", "training"),
        Format("xgboost", ".ubj", f"{_HERE}.xgboost", "xgboost", "xgboost"),
        Format("lightgbm", ".lgb", f"{_HERE}.lightgbm", "lightgbm", "lightgbm"),
        Format("onnx", ".onnx", f"{_HERE}.onnx", "onnx", "onnx"),
        Format("forest", ".forest", "featurestore.models.forest", "featurestore", ""),
    )
}


class Adapter(Protocol):
    """The functions of a format's file."""

    def dump(self, model: Any, path: Path) -> None:
        """Write a model."""

    def load(self, data: bytes, trusted: Sequence[str]) -> Any:
        """Return the library's own object."""

    def scorer(self, native: Any) -> Scorer:
        """Return the function that scores rows."""


@dataclass(frozen=True)
class Model:
    """A model in memory, loaded from the registry.

    Attributes
    ----------
    version : ModelVersion
        What it is.
    native : object
        The library's own model.
    score : callable
        ``(rows, columns) float32 -> (rows,) or (rows, outputs) float64``.
    """

    version: ModelVersion
    native: Any
    score: Scorer


def adapter(name: str) -> Adapter:
    """Return the functions of a format.

    Raises
    ------
    NotInstalled
        When its library is not there.
    """
    form = FORMATS[name]
    try:
        module = importlib.import_module(form.module)
    except ModuleNotFoundError as error:
        raise NotInstalled(f'A model in the format "{name}"', form.extra) from error
    return cast("Adapter", module)


def format_of(model: object) -> Format:
    """Return the format in which a model that lives in memory is written."""
    bases = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    # The wrappers of XGBoost and LightGBM are scikit-learn's estimators, too.
    for name in ("xgboost", "lightgbm", "onnx", "forest", "skops"):
        if FORMATS[name].package in bases:
            return FORMATS[name]
    packages = ", ".join(form.package for form in FORMATS.values())
    raise InvalidInput(
        f"A {type(model).__name__} cannot be registered as it is: models of {packages} can. Save "
        "it in one of their formats and give the path."
    )


def find(listed: Sequence[ArtefactFile]) -> tuple[Format, ArtefactFile]:
    """Return the one file of an artefact that is the model, and its format.

    Raises
    ------
    InvalidInput
        When there is none, or more than one.
    """
    suffixes = {form.suffix: form for form in FORMATS.values()}
    models = [file for file in listed if PurePosixPath(file.path).suffix in suffixes]
    if len(models) != 1:
        there = ", ".join(file.path for file in listed[:10])
        raise InvalidInput(
            f"Of the files {there}, {len(models)} are models; exactly one has to be. The suffixes "
            f"are {', '.join(f'{s} ({form.name})' for s, form in suffixes.items())}."
        )
    return suffixes[PurePosixPath(models[0].path).suffix], models[0]
