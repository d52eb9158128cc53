"""Operations of the database: what happens to records, files and questions about them.

::

    database        a store's folder: opens it, owns every resource, hands out snapshots
    plan            a group's definition, compiled for requests
    snapshot        one moment of some groups: files pinned, journal tail decoded
    writer          the one thread that owns write transactions; group commit; put, delete, write
    records, rows   single records and whole tables, checked and brought to their exact types
    ingest          tables and streams (sources), committed through the journal or staged (staging)
    reader          get, batch get, scan: the online store; features reads whole views
    flusher         journal -> files, exactly once
    compactor       many files -> few disjoint cells
    filing          a history file under an intent, and giving one up
    cleaner         what crashes and finished readers leave behind
    point_in_time/  the join operator over kernels.asof (key_index: keys to codes)
    frames          pandas, Polars or Arrow in, the same out
    sql/            DuckDB over files and journal tail at one moment
    upkeep          the thread that flushes, compacts and cleans while a process writes
    changes         every accepted record in order, and who has seen how many of them
    groups          definitions of groups and views
    backup, stat    a consistent copy; sizes and counts
    verify/         the store checks itself
"""
