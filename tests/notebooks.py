"""Runs notebooks: their cells, in order, in one namespace; ``--write`` keeps what they show.

::

    python -m tests.notebooks notebooks/01_quickstart.ipynb          run, and say what failed
    python -m tests.notebooks --write notebooks/*.ipynb              and keep the outputs

A cell shows what it prints and the value of its last line, as Jupyter does; magics and widgets are
not known here, so the notebooks have none.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "notebooks"


def run(path: Path) -> dict[str, Any]:
    """Run a notebook; return it with its outputs."""
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    for number, cell in enumerate(cells, 1):
        cell["execution_count"] = number
        cell["outputs"] = _run_cell("".join(cell["source"]), f"{path.name}[{number}]", namespace)
    return notebook


def _run_cell(source: str, name: str, namespace: dict[str, Any]) -> list[dict[str, Any]]:
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, name, "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": text})
    if value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_html_") and (page := value._repr_html_()):
            data["text/html"] = page.splitlines(keepends=True)
        shown = {"data": data, "execution_count": None, "metadata": {}}
        outputs.append({"output_type": "execute_result", **shown})
    return outputs


def main() -> None:
    """Run those named, or all."""
    named = [Path(name) for name in sys.argv[1:] if name != "--write"]
    for path in named or sorted(FOLDER.glob("*.ipynb")):
        notebook = run(path)
        if "--write" in sys.argv:
            text = json.dumps(notebook, indent=1, ensure_ascii=False)
            path.write_text(text + "\n", encoding="utf-8")
        print(f"{path.name}: {len(notebook['cells'])} cells")  # noqa: T201


if __name__ == "__main__":
    main()
