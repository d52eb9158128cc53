"""What every child of a campaign needs: loaded once in the fork server, that a life costs 10 ms.

Nothing is opened here: an environment, a connection or a thread must not be forked.
"""

from __future__ import annotations

import importlib

for name in (
    "duckdb",
    "featurestore.engine.backup",
    "featurestore.engine.cleaner",
    "featurestore.engine.compactor",
    "featurestore.engine.flusher",
    "featurestore.engine.ingest",
    "featurestore.engine.lookup",
    "featurestore.engine.point_in_time",
    "featurestore.engine.sql.query",
    "featurestore.engine.verify.store",
    "featurestore.kernels.asof",
    "featurestore.kernels.gather",
    "featurestore.kernels.hashing",
    "featurestore.kernels.ingest",
    "featurestore.kernels.keys",
    "featurestore.kernels.latest",
    "featurestore.kernels.lookup",
    "tests.processes",
    "tests.survival.plants",
):
    importlib.import_module(name)
