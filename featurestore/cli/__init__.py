"""The command line: the front door of a store, from a shell.

Each command opens the store, asks the front door one thing and shows the answer.  Nothing is
computed here, so whatever a command can do, three lines of Python can::

    featurestore ingest weather w.parquet    store.ingest("weather", "w.parquet")
    featurestore get weather JFK             store.get_record("weather", "JFK")
    featurestore sql "SELECT ..."            store.sql("SELECT ...")
    featurestore verify                      store.verify()

============  =================================================================
``inputs``    text of the shell and files into values
``commands``  what can be asked; ``monitoring``, all of ``featurestore monitor``
``outputs``   answers as tables for people, as JSON and CSV for programs
============  =================================================================

Answers go to stdout, progress and errors to stderr; an error of the store is one sentence, never a
traceback.  A command that only looks opens the store read-only, so that a mistyped path does not
leave an empty store behind.
"""

from __future__ import annotations

from featurestore.cli.commands import ExitCode, app

__all__ = ["ExitCode", "app"]
