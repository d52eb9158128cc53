"""A feature store database engine: one directory, any number of processes, nothing to run.

Records go in once and come out three ways that can never disagree: the latest record of a key in
microseconds (LMDB), the whole history through SQL (Parquet, DuckDB), and what was known at each
training label's moment (a point-in-time join in numba).

**The one law.**  There is one function, ``resolve(history of a key, upto, clock)``: the newest
record with ``event_time <= upto``, seen by a clock that decides expiry.  ``get_record`` is
``resolve(history, +inf, now)``; a point-in-time join is ``resolve(history, label, label)`` for
every label.  Whatever path answers, it answers so, after any crash, late event, delete, expiry,
retry, backfill, flush or compaction.

::

    store                          the front door: FeatureStore
    engine │ feature_view          put, get, ingest, flush, compact, join, sql, verify
    storage │ kernels              bytes on disk │ loops over arrays
    encoding                       record <-> bytes
    record                         ┐
    schema                         │ the vocabulary: no I/O
    dtypes │ event_time            │
    errors                         ┘

Imports go down only.  Importing this package loads nothing heavy.

Examples
--------
>>> import tempfile, featurestore as fs
>>> store = fs.open(tempfile.mkdtemp())
>>> group = store.create_feature_group("weather", record_identifier="origin", event_time="hour",
...     features={"origin": "string", "hour": "timestamp", "temp": "float64"})
>>> store.put_record("weather", {"origin": "JFK", "hour": "2013-01-01T05:00Z", "temp": 39.0}).moved
True
>>> store.get_record("weather", "JFK", ["temp"])
{'temp': 39.0}
>>> store.close()
"""

from featurestore.errors import (
    AccessDenied,
    CannotOpen,
    ColumnClash,
    ConsumerDropped,
    ConsumerExists,
    CorruptStore,
    FeatureGroupExists,
    FeatureStoreError,
    FeatureViewExists,
    IncompatibleStore,
    InvalidEventTime,
    InvalidInput,
    InvalidName,
    InvalidQuery,
    InvalidRecord,
    InvalidSchema,
    LeakFound,
    NotAStore,
    NotInstalled,
    OutcomeUnknown,
    ReadOnlyStore,
    RecordErased,
    RecordNotFound,
    RequestMismatch,
    SchemaMismatch,
    StaleDelete,
    StaleUpdate,
    StoreBusy,
    StoreClosed,
    StoreFull,
    TooLarge,
    Unavailable,
    UnknownConsumer,
    UnknownFeature,
    UnknownFeatureGroup,
    UnknownFeatureView,
    UnknownJob,
    UnknownModel,
    UnknownTrainingSet,
    Unreachable,
)
from featurestore.feature_view import FeatureLookup, FeatureView
from featurestore.record import Status
from featurestore.remote import RemoteStore, connect
from featurestore.results import ErasureReceipt, IngestResult, PutResult, RecordResult
from featurestore.schema import Feature, FeatureGroup
from featurestore.store import FeatureStore, Scan, open, restore  # noqa: A004  fs.open is the verb

__all__ = [
    "AccessDenied",
    "CannotOpen",
    "ColumnClash",
    "ConsumerDropped",
    "ConsumerExists",
    "CorruptStore",
    "ErasureReceipt",
    "Feature",
    "FeatureGroup",
    "FeatureGroupExists",
    "FeatureLookup",
    "FeatureStore",
    "FeatureStoreError",
    "FeatureView",
    "FeatureViewExists",
    "IncompatibleStore",
    "IngestResult",
    "InvalidEventTime",
    "InvalidInput",
    "InvalidName",
    "InvalidQuery",
    "InvalidRecord",
    "InvalidSchema",
    "LeakFound",
    "NotAStore",
    "NotInstalled",
    "OutcomeUnknown",
    "PutResult",
    "ReadOnlyStore",
    "RecordErased",
    "RecordNotFound",
    "RecordResult",
    "RemoteStore",
    "RequestMismatch",
    "Scan",
    "SchemaMismatch",
    "StaleDelete",
    "StaleUpdate",
    "Status",
    "StoreBusy",
    "StoreClosed",
    "StoreFull",
    "TooLarge",
    "Unavailable",
    "UnknownConsumer",
    "UnknownFeature",
    "UnknownFeatureGroup",
    "UnknownFeatureView",
    "UnknownJob",
    "UnknownModel",
    "UnknownTrainingSet",
    "Unreachable",
    "connect",
    "open",
    "restore",
]
