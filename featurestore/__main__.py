"""``python -m featurestore`` and the console script ``featurestore``.

The command line stands on an optional library, so this module, which is all that the script
imports, first sees whether it is there: a missing extra is one sentence, not a traceback.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import NoReturn

from featurestore.errors import NotInstalled

EXIT_USAGE = 2


def main() -> NoReturn:
    """Run the command line, or say which extra it needs, and exit."""
    if any(importlib.util.find_spec(library) is None for library in ("typer", "rich")):
        sys.stderr.write(f"Error: {NotInstalled('The command line', 'cli')}\n")
        sys.exit(EXIT_USAGE)
    from featurestore.cli import app

    app(prog_name="featurestore")
    sys.exit(0)


if __name__ == "__main__":
    main()
