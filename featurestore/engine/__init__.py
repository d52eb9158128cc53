"""Operations of the database: what happens to records, files and questions about them.

::

    database        a store's folder: opens it, owns every resource, hands out snapshots
    snapshot        one moment of some groups: files pinned, journal tail decoded
    writer          the one thread that owns write transactions; group commit; put, delete, write
    ingest          tables and streams: validated whole, staged as sorted files, committed in slices
    reader          get, batch get, scan: the online store
    flusher         journal -> files, exactly once
    compactor       many files -> few disjoint cells
    cleaner         what crashes and finished readers leave behind
    point_in_time   the join operator over kernels.asof
    sql             DuckDB over files and journal tail at one moment
    changes         every accepted record in order
    verify          the store checks itself
"""
