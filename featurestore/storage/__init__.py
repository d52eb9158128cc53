"""Bytes on disk: one LMDB environment for everything transactional, immutable files for history.

::

    files          fsync, rename, locks: the only place that makes a file durable
    environment    the one LMDB environment of a store in this process
    commits        seq -> commit time; its last row is the store's counter and clock
    catalog        feature groups and views
    latest         the newest record of each key
    journal        accepted records not yet in a file
    manifest       which files are history, and the intents and leftovers around them
    requests       results kept for 24 h so that a retry counts once
    consumers      how far those who follow the changes have come
    parquet        history files: written sorted, read back in the history layout
    layout, pages  how their columns are encoded; which of them are arrays in the file

Every module but ``files`` and those of Parquet is a few functions over an LMDB transaction handed
to them: they neither begin nor commit, so a caller can change all of them at once or not at all.
"""
