"""Records and keys as bytes: the on-disk contract, and nothing that touches a disk.

::

    keys.py         a record identifier  <->  bytes whose order is the order of the values
    values.py       one record           <->  bytes, with struct          (put, get)
    key_columns.py  many keys            <->  Arrow columns, with numpy   (ingest, flush, joins)
    columns.py      many records         <->  Arrow tables, with numpy
    runs.py buffers.py                        byte strings and Arrow's buffers as arrays

``values`` and ``columns`` are two roads to the same bytes: what one writes the other reads, and
for equal input they write equal bytes.  A property test holds them to it, and golden files under
``tests/golden`` hold both to yesterday.  **A change of a golden file is a change of the format.**

Everything here is little endian except keys, whose bytes must sort.  Bytes read back are never
trusted: whatever they hold, the answer is a value or :class:`~featurestore.errors.CorruptStore`.

This floor imports the vocabulary (``dtypes``, ``schema``, ``record``, ``event_time``) and
``errors``.  Only the last four import numpy and pyarrow: a single put or get loads neither.
"""
