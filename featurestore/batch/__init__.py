"""Batch inference on the store: many rows at once, each scored exactly once.

=====================  ==========================================================================
:func:`.score`         the block path: labels, a table, SQL or Parquet in; Arrow blocks to the
                       model; predictions as Parquet, and back into the store as a feature group
:func:`.transform`     the files path: SageMaker Batch Transform's contract, a file in, a file out
=====================  ==========================================================================

Both are jobs (:mod:`featurestore.jobs.records`): killed at any moment and called again with the
same name, they go on, to byte-identical output.  The two are for two cases: what is in the store,
or beside it as columns, goes without text; what comes as text from elsewhere keeps its form.
"""

from featurestore.batch.file_transform import transform
from featurestore.batch.job import BatchJob, get, jobs, stop
from featurestore.batch.scoring import score

__all__ = ["BatchJob", "get", "jobs", "score", "stop", "transform"]
