"""A small world for stores and the model: three groups, a few keys, a few event times.

It is small on purpose: ties, late events, deletes of what was never there and expiry at the very
boundary are common in it, not rare.  The groups differ in what can go wrong:

============  ===============================  ====================================================
``plain``     one text key, no ttl             a key longer than LMDB takes; gains features
``brief``     key of two texts, ttl of 10 min  floats (nan, -0.0) and lists; keys that a careless
                                               joining of texts would mix up
``fleeting``  int key, max_future of 3 min     dropped, and created again under its own name
============  ===============================  ====================================================
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

import featurestore as fs
from tests.model import HOUR, MINUTE, SECOND, Delete, Group, Key, Put, Write

if TYPE_CHECKING:
    from collections.abc import Iterator

START = 1_357_016_400 * SECOND
"""2013-01-01T05:00:00Z"""

KEYS: dict[str, list[Key]] = {
    "plain": [("a",), ("b",), ("",), ("ключ\x00",), ("long" * 150,)],
    "brief": [("a", "b"), ("ab", ""), ("", "ab"), ("a\x00", "b")],
    "fleeting": [(0,), (-1,), (2**63 - 1,)],
}
VALUES: dict[str, list[Any]] = {
    "int64": [None, 0, 1, -1, 2**53 + 1, -(2**63)],
    "string": [None, "", "x", "naïve\n\x00'"],
    "float64": [None, 0.0, -0.0, 1.5, math.nan, -math.inf, 5e-324],
    "bool": [None, False, True],
    "list<int64>": [None, [], [None], [1, None, -1], [2**62]],
}


def new_groups() -> dict[str, Group]:
    """Return the definitions of the three groups."""
    at = {"at": "timestamp"}
    plain = {"k": "string", **at, "x": "int64", "s": "string"}
    brief = {"m": "string", "v": "float64", "k": "string", "l": "list<int64>", **at}
    return {
        "plain": Group("plain", ("k",), "at", plain),
        "brief": Group("brief", ("k", "m"), "at", brief, ttl_us=10 * MINUTE, max_future_us=None),
        "fleeting": new_fleeting(),
    }


def new_fleeting() -> Group:
    """Return the definition of the group that comes and goes."""
    features = {"k": "int64", "at": "timestamp", "b": "bool"}
    return Group("fleeting", ("k",), "at", features, max_future_us=3 * MINUTE)


# ── what is drawn ────────────────────────────────────────────────────────────────────────────

Shape = tuple[str, Key, int, dict[str, Any]]
"""What a write is about: group, key, event time, and a value of each type to choose from."""

group_names = st.sampled_from(["plain", "plain", "brief", "brief", "fleeting"])
event_times = st.integers(0, 7).map(lambda n: START + n * MINUTE)
aims = st.sampled_from([(True, True)] * 6 + [(True, False), (False, True)])
ttls = st.sampled_from([None] * 4 + [SECOND, 3 * MINUTE, HOUR])
label_times = st.lists(
    st.builds(
        lambda minute, off: START + minute * MINUTE + off,
        st.integers(-1, 20),
        st.sampled_from([-1, 0, 0, 1]),
    ),
    min_size=1,
    max_size=8,
)


@st.composite
def shapes(draw: st.DrawFn, names: st.SearchStrategy[str] = group_names) -> Shape:
    """Draw what a write is about."""
    name = draw(names)
    values = {dtype: draw(st.sampled_from(choices)) for dtype, choices in VALUES.items()}
    return name, draw(st.sampled_from(KEYS[name])), draw(event_times), values


def put_of(shape: Shape, group: Group, **how: Any) -> Put:
    """Return a put that fits the group as it is defined now."""
    name, key, event_time_us, by_type = shape
    values = {feature: by_type[group.features[feature]] for feature in group.payload}
    return Put(name, key, event_time_us, values, **how)


WRITTEN = ("plain", "brief")
"""The groups that `writes` go to."""


@st.composite
def writes(draw: st.DrawFn, *, deletes: bool = True) -> Write:
    """Draw a put or a soft delete in one of two groups, aimed at both stores."""
    shape = draw(shapes(st.sampled_from(WRITTEN)))
    if deletes and draw(st.integers(0, 4)) == 0:
        return Delete(*shape[:3])
    return put_of(shape, new_groups()[shape[0]], ttl_us=draw(ttls))


# ── stores for one example ───────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def fresh_folder(parent: str | None = None) -> Iterator[Path]:
    """Make a folder for one example, in memory where that is possible, and remove it after."""
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="featurestore-", dir=parent or in_memory))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def fresh_store(**options: Any) -> Iterator[fs.FeatureStore]:
    """Open a new store for one example; it must verify at the end.  No upkeep unless asked for."""
    options = {"upkeep": False, **options}
    with fresh_folder() as folder, fs.open(folder / "store", **options) as store:
        yield store
        assert store.verify() == []
