"""The demo's feature groups: what is known of planes and airports, and *from when* it is known.

=====================  =================  ===================  ====================================
group                  record identifier  event time           known from
=====================  =================  ===================  ====================================
``plane_state``        tailnum            departed_at          the moment the plane has left
``origin_weather``     origin             time_hour            an hour later, when published
``plane_info``         tailnum            known_since          always: an entry in a register
``origin_delays``      origin             measured_at          the departure that ends its window
``carrier_delays``     (origin, carrier)  measured_at          likewise
``plane_state_leaky``  tailnum            scheduled_departure  **wrong**: before it has happened
=====================  =================  ===================  ====================================

An event time is a promise: *from here on, anybody could have known this*.  Every point-in-time join
keeps it, and none can mend one that was false when it was written.

* ``plane_state`` is stamped with the **actual** departure, so it may hold what is known when the
  wheels leave New York: the delay of that departure, where it goes.  It must not hold ``arr_delay``
  or ``air_time``, which are known hours later; they would need a group stamped at the arrival.
* A rolling mean at a moment counts flights that **had departed** by then.  It is computed by SQL
  over the history of ``plane_state``, whose event times say just that; a flight scheduled into the
  window that is still at its gate is not in it.
* ``plane_state_leaky`` holds the same delays stamped with the **scheduled** departure: the
  commonest way to wreck a training set, since that is the one time a table of flights is sure to
  have.  Joined at the time of a flight's schedule, it hands each flight its own delay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

import featurestore as fs
from featurestore.demo.flights import MOMENT, PUBLISHED_AFTER, Year

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

REGISTERED = datetime(2012, 1, 1, tzinfo=UTC)  # any moment before the first flight


@dataclass(frozen=True)
class Group:
    """One feature group: its keys, its time, what it is for."""

    name: str
    record_identifier: str | tuple[str, ...]
    event_time: str
    description: str
    tags: dict[str, str] = field(default_factory=lambda: {"demo": "flights"})

    def create(self, store: FeatureStore, like: pa.Table) -> None:
        """Create the group with the columns of ``like``, unless it is there already."""
        store.create_feature_group(
            self.name,
            record_identifier=self.record_identifier,
            event_time=self.event_time,
            like=like,
            description=self.description,
            tags=self.tags,
            exist_ok=True,
        )


PLANE_STATE = Group(
    "plane_state", "tailnum", "departed_at", "A plane's last departure from New York"
)
PLANE_STATE_LEAKY = Group(
    "plane_state_leaky",
    "tailnum",
    "scheduled_departure",
    "WRONG on purpose: delays stamped with the scheduled departure, before they have happened",
)
ORIGIN_WEATHER = Group("origin_weather", "origin", "time_hour", "Hourly weather at the airport")
PLANE_INFO = Group("plane_info", "tailnum", "known_since", "The plane's entry in the register")
ORIGIN_DELAYS = Group(
    "origin_delays", "origin", "measured_at", "Departures of the last 3 hours from the airport"
)
CARRIER_DELAYS = Group(
    "carrier_delays",
    ("origin", "carrier"),
    "measured_at",
    "Departures of the last 6 hours of a carrier from the airport",
)


# ── what the source tables give ──────────────────────────────────────────────────────────────


def source_tables(year: Year) -> list[tuple[Group, pa.Table]]:
    """Return the groups that are columns of the data, with their records."""
    departed = year.flights.filter(year.flights["departed_at"].is_valid())
    state = ["tailnum", "departed_at", "dep_delay", "origin", "dest", "carrier", "flight"]
    leaky = ["tailnum", "scheduled_departure", "dep_delay"]
    registered = pa.repeat(pa.scalar(REGISTERED, MOMENT), year.planes.num_rows)
    return [
        (PLANE_STATE, departed.select(state)),
        (PLANE_STATE_LEAKY, departed.select(leaky)),
        (ORIGIN_WEATHER, year.weather),
        (PLANE_INFO, year.planes.append_column("known_since", registered)),
    ]


# ── what the store derives from its own history ──────────────────────────────────────────────

ROLLING = """
    SELECT DISTINCT {key}, departed_at AS measured_at,
           avg(dep_delay) OVER recent AS mean_delay_{hours}h,
           count(*) OVER recent AS departures_{hours}h
    FROM plane_state
    WINDOW recent AS (
        PARTITION BY {key} ORDER BY epoch_us(departed_at)
        RANGE BETWEEN {hours} * 3_600_000_000 PRECEDING AND CURRENT ROW)
    ORDER BY ALL
"""
"""Departures that had happened by ``measured_at``; those of one minute see each other."""

DERIVED = [
    (ORIGIN_DELAYS, ROLLING.format(key="origin", hours=3)),
    (CARRIER_DELAYS, ROLLING.format(key="origin, carrier", hours=6)),
]


# ── what the model asks for ──────────────────────────────────────────────────────────────────

VIEW = "late_flights"
"""The feature view: read at the labels' times for training, and now for serving."""

LOOKUPS = [
    fs.FeatureLookup("plane_state", ["dep_delay"], prefix="plane_", max_age="12h"),
    fs.FeatureLookup("plane_info", ["built", "seats"]),
    fs.FeatureLookup("origin_weather", delay=PUBLISHED_AFTER, max_age="3h"),
    fs.FeatureLookup("origin_delays", max_age="3h"),
    fs.FeatureLookup("carrier_delays", max_age="6h"),
]
LEAKY = fs.FeatureLookup("plane_state_leaky", ["dep_delay"], prefix="plane_", max_age="12h")
"""The same column as the first lookup of the view; only the stamp of its records differs."""
