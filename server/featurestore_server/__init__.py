"""HTTP in front of a store: requests in, the library's verbs, answers out.

::

    serve ── starts and watches N worker processes, which share the store's LMDB directory
      │
    worker ─ granian (HTTP, TLS, header timeouts) ─► Application
                                                        │
         guard      limits on concurrency, stalled bodies and readers; draining
                                                        │
            ┌───────────────────────────────────────────┴──────────┐
         lookup     raw ASGI: get, batch get, features           FastAPI: all the rest
         sagemaker  raw ASGI: the API that boto3 speaks            │  records   groups and views
            │                                                      │  bulk      ingest, join
            │                                                      │  history   sql, changes
            │                                                      │  documents models, runs, jobs
            │                                                      │  upkeep    jobs, health, keys
            └───────────────► access ◄─────────────────────────────┘
                                │   who asks, and may they?  The only way to the store
                  ┌─────────────┴──────────────┐
            FeatureStore                  confined: a process for each task of a stranger,
            (threads; the writer thread     forked from a template, killed by the clock
             commits in groups)             │ sql_process      DuckDB locked onto pinned files
                                            │ parquet_process  an upload, decoded

================  ===========================================================================
``access``        the door: no route can reach the store but through ``Door.enter(caller, verb,
                  groups)``, which refuses what no role allows.  boto3's surface stands on the
                  same door.  ``roles``: who may do what; ``keys``: API keys
``audit``         one row for each change, written by the transaction of the change itself, each
                  holding the hash of the one before; reads and refusals by their number
``bodies``        what comes in: strict JSON, Arrow and Parquet measured before they are decoded;
                  ``spooling``: whole before a thread is taken; ``uploads``: rows and labels by
                  what they say they are
``answers``       what goes out: JSON for people, Arrow streams for volume, by ``Accept``; of any
                  size in the memory of a few pieces (``Spool``).  ``copying``: a backup as tar
``problems``      the errors of the library as RFC 9457 problem details; the table of status codes
``jobs``          long work, answered with 202 and a place to ask for its progress
================  ===========================================================================

**Measured** (two cores shared with the client, one worker, 20 features, CPU µs per request at 32
connections; ratios count): bare ASGI with the same LMDB get takes 57 on uvicorn 0.54 and 47 on
granian 2.8, which answers 25,000 requests a second to uvicorn's 12,000, since its HTTP runs
beside Python.  granian also drops a client that never ends its headers; uvicorn keeps it for
ever.  So: granian.  It is run embedded, one in each worker process, because then the process's
signals are ours, and a stop can say "not ready" before it closes anything.  orjson and msgspec
write a record in 1.1 µs both, 100 records of 50 floats in 139 and 184 µs: orjson.

Three rules, whatever framework answers the socket:

- the mapping from :mod:`featurestore.errors` to status codes is a table in this package, and the
  errors themselves know nothing of HTTP;
- no route holds a read transaction across an await or a response being sent;
- no route opens a path or a URL that a client has named.

It is installed by ``pip install 'featurestore[server]'``.
"""

from __future__ import annotations
