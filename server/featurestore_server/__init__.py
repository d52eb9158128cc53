"""HTTP in front of a store: requests in, the library's verbs, answers out.

Nothing else lives here.  The server is its own package so that the library can never import it
(a layer contract in ``pyproject.toml`` says so): everything it can do, a program that imports
``featurestore`` can do in process.  Two rules follow, whatever framework answers the socket:

- the mapping from :mod:`featurestore.errors` to status codes is a table in this package, and the
  errors themselves know nothing of HTTP;
- no route holds a read transaction across an await or a response being sent.

It is installed by ``pip install 'featurestore[server]'``.  It has no routes yet.
"""

from __future__ import annotations
