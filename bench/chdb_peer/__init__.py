"""ClickHouse, run through chdb in a virtual environment of its own: ``--chdb-venv DIR``.

It is ClickHouse's engine as a library, without a server: what it is asked stands in
:func:`bench.asof.chdb`.  Figures are those of its process, as for all others.
"""

from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
