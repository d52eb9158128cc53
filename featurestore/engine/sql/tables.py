"""Which tables a query reads, and that reading is all it does.

DuckDB parses; nothing is bound or run.  Its tree is walked with the names in scope, because a name
that a ``WITH`` defines is no table::

    WITH w AS (FROM weather)      "weather" is a table: nothing defines it
    FROM w JOIN planes …          "w" is none; "planes" is one

The tree is also the only check that SQL here only reads.  To DuckDB ``WITH x AS (COPY … TO …)
SELECT …`` is a SELECT, and it writes the file.  So query nodes, kinds of table and table functions
are allow-lists: what is not known is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidQuery

if TYPE_CHECKING:
    from collections.abc import Iterator

_QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_TABLE_KINDS = frozenset({"BASE_TABLE", "SUBQUERY", "JOIN", "PIVOT", "EXPRESSION_LIST", "EMPTY"})
_TABLE_FUNCTIONS = frozenset({"generate_series", "range", "unnest", "json_each", "json_tree"})
_SCHEMAS = (None, "main", "history", "latest")

Scope = frozenset[str]  # names that WITH clauses around a node define, in lower case


def tables_named(statement: dict[str, Any]) -> set[tuple[str | None, str]]:
    """Return the tables of a statement as ``(schema in lower case or None, table)``.

    Parameters
    ----------
    statement : dict
        As ``json_serialize_sql`` gives it.

    Raises
    ------
    InvalidQuery
        It would do more than read, or reads something else than feature groups.
    """
    found: set[tuple[str | None, str]] = set()
    # A stack instead of recursion: a long chain of `+` is a deep tree.
    stack: list[tuple[Any, Scope]] = [(statement, frozenset())]
    while stack:
        node, scope = stack.pop()
        if isinstance(node, list):
            stack.extend((item, scope) for item in node)
        elif isinstance(node, dict):
            _require_reading(node)
            if node.get("type") == "BASE_TABLE":
                name = _table_name(node, scope)
                if name is not None:
                    found.add(name)
            stack.extend(_children(node, scope))
    return found


def _children(node: dict[str, Any], scope: Scope) -> Iterator[tuple[Any, Scope]]:
    """Yield what hangs below a node with the names defined there.

    A WITH sees the names before it in its list, and itself only in the recursive half.
    """
    for entry in node.get("cte_map", {}).get("map", ()):
        name, definition = entry["key"].lower(), entry["value"]
        body = definition["query_node"]
        if body["type"] == "RECURSIVE_CTE_NODE":
            yield body["left"], scope
            body = {**body, "left": None}
            yield body, scope | {name}
        else:
            yield body, scope
        yield {**definition, "query_node": None}, scope
        scope |= {name}
    for key, value in node.items():
        if key != "cte_map" and isinstance(value, (dict, list)):
            yield value, scope


def _require_reading(node: dict[str, Any]) -> None:
    """Refuse a node that does more than read feature groups: what is not known is refused."""
    kind = node.get("type")
    if not isinstance(kind, str):
        return
    if kind.endswith("_NODE"):
        if kind not in _QUERY_NODES:
            what = kind.split("_", 1)[0]
            raise InvalidQuery(f"{what} inside a SELECT is refused: SQL here only reads.")
    elif kind == "TABLE_FUNCTION":
        function = node["function"]["qualified_name"]["path"][-1]
        if function.lower() not in _TABLE_FUNCTIONS:
            raise InvalidQuery(
                f"The table function {function}() is refused: SQL here reads feature groups and "
                "the tables given as tables=. Read a file with pyarrow, pandas or Polars, and "
                "give it as tables={...}."
            )
    elif kind == "SHOW_REF":
        if node["query"] is None:
            raise InvalidQuery("SHOW is refused here; list_feature_groups() lists the groups.")
    elif "sample" in node and "class" not in node and kind not in _TABLE_KINDS:
        raise InvalidQuery(f"A table of the kind {kind} is refused here.")


def _table_name(node: dict[str, Any], scope: Scope) -> tuple[str | None, str] | None:
    """Return schema and name of a table node; None if a WITH defines it."""
    path = node["qualified_name"]["path"]
    schema = path[0].lower() if len(path) > 1 else None
    name = path[-1]
    if name.lower() in scope and schema in (None, "recurring"):
        return None
    if len(path) > 2 or schema not in _SCHEMAS:
        raise InvalidQuery(
            f'There is no table "{".".join(path)}": a group is read as weather, history.weather '
            "or latest.weather."
        )
    return schema, name
