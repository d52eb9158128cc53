"""No kernel uses the address of an array that numba has freed by then.

An array made inside a kernel lives until the last statement that names it; its address is a number,
and keeps nothing alive::

    at = wanted.ctypes.data          numba lets go of `wanted` here, if no statement names it later
    for i in range(n):
        copy_bytes(at, …)            … and this writes into memory that is somebody else's

Whether that goes wrong depends on who asks for memory next, so no run of a kernel would show it.
But numba writes down in its intermediate code where it lets go of each variable.  That is read
here, with two questions at every statement: which addresses does it use, directly or through memory
that they were stored in, and is there a variable left that holds each of their arrays?
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numba.core import ir
from numba.core.analysis import compute_cfg_from_blocks
from numba.core.compiler import run_frontend

from featurestore import kernels
from featurestore.kernels.memory import copy_bytes, load_i64

#: What makes an address of an address.  A call gives something else: what lies there, a code.
_ARITHMETIC = {"binop", "inplace_binop", "unary", "cast", "build_tuple", "exhaust_iter"}
_ARITHMETIC |= {"static_getitem", "phi"}


class Addresses:
    """The addresses that a function takes of its own arrays, and the variables that hold these."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.code = run_frontend(function, emit_dels=True)
        self.holders: dict[str, str] = {}  # variable -> array
        self.points_to: dict[str, set[str]] = {}  # variable -> arrays whose address it has
        self.stored_in: dict[str, set[str]] = {}  # array -> arrays whose address lies in it
        self._ctypes: dict[str, str] = {}
        self._arguments: set[str] = set()  # these the caller holds
        before = -1
        while before != (before := self._size()):
            for block in self.code.blocks.values():
                for statement in block.body:
                    self._note(statement)

    def _size(self) -> int:
        sets = (*self.points_to.values(), *self.stored_in.values())
        return len(self.holders) + len(self._ctypes) + sum(map(len, sets))

    def _note(self, statement: Any) -> None:
        if isinstance(statement, (ir.SetItem, ir.StaticSetItem)):
            target = self.holders.get(statement.target.name, statement.target.name)
            arrays = self.points_to.get(statement.value.name, set())
            self.stored_in.setdefault(target, set()).update(arrays)
        if not isinstance(statement, ir.Assign):
            return
        name, value = statement.target.name, statement.value
        if isinstance(value, ir.Arg):
            self._arguments.add(name)
        elif isinstance(value, ir.Var):
            self._alias(name, value.name)
        elif isinstance(value, ir.Expr):
            self._compute(name, value)

    def _compute(self, name: str, value: Any) -> None:
        if value.op == "getattr" and value.attr == "ctypes":
            source = value.value.name
            self._ctypes[name] = source
            if source not in self._arguments:
                self.holders.setdefault(source, source)
        elif value.op == "getattr" and value.attr == "data":
            source = self._ctypes.get(value.value.name, "")
            if source in self.holders:
                self.points_to.setdefault(name, set()).add(self.holders[source])
        elif value.op in _ARITHMETIC:
            for used in value.list_vars():
                self.points_to.setdefault(name, set()).update(self.points_to.get(used.name, ()))

    def _alias(self, name: str, source: str) -> None:
        self.points_to.setdefault(name, set()).update(self.points_to.get(source, ()))
        if source in self._arguments:
            self._arguments.add(name)
        for one, other in ((name, source), (source, name)):
            if one in self.holders and other not in self._arguments:
                self.holders.setdefault(other, self.holders[one])

    # ── which variables are there ────────────────────────────────────────────────────────────

    def dangling(self) -> Iterator[str]:
        """Yield what is used after it was let go of, and where."""
        blocks = self.code.blocks
        graph = compute_cfg_from_blocks(blocks)
        everything = set(self.holders)
        at_end = dict.fromkeys(blocks, everything)
        before = None
        while before != at_end:  # what is held on every road to a block
            before = dict(at_end)
            for label, block in blocks.items():
                held = self._at_start(graph, label, at_end)
                for statement in block.body:
                    held = self._after(statement, held)
                at_end[label] = held
        for label, block in blocks.items():
            held = self._at_start(graph, label, at_end)
            for statement in block.body:
                for array in self._used(statement) - {self.holders[name] for name in held}:
                    yield f"line {statement.loc.line}: the address of {array}, which is freed"
                held = self._after(statement, held)

    def _at_start(self, graph: Any, label: int, at_end: dict[int, set[str]]) -> set[str]:
        ends = [at_end[other] for other, _ in graph.predecessors(label)]
        return set.intersection(*ends) if ends else set()

    def _after(self, statement: Any, held: set[str]) -> set[str]:
        if isinstance(statement, ir.Del):
            return held - {statement.value}
        if isinstance(statement, ir.Assign) and statement.target.name in self.holders:
            return held | {statement.target.name}
        return held

    def _used(self, statement: Any) -> set[str]:
        """Return the arrays whose memory a statement may touch by address."""
        if isinstance(statement, ir.Del):
            return set()
        used = statement.value if isinstance(statement, ir.Assign) else statement
        names = [used] if isinstance(used, ir.Var) else getattr(used, "list_vars", list)()
        found: set[str] = set()
        more = {array for name in names for array in self.points_to.get(name.name, ())}
        while more - found:
            found |= more
            more = {array for inner in more for array in self.stored_in.get(inner, ())}
        return found


def dangling(function: Callable[..., Any]) -> list[str]:
    """Return the uses of freed arrays in a function that numba compiles, or has compiled."""
    return list(Addresses(getattr(function, "py_func", function)).dangling())


def functions_of(module: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, value in vars(module).items():
        plain = getattr(value, "py_func", value)
        if inspect.isfunction(plain) and plain.__module__ == module.__name__:
            yield name, plain


MODULES = [f"featurestore.kernels.{m.name}" for m in pkgutil.iter_modules(kernels.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_no_kernel_outlives_its_arrays(name: str) -> None:
    module = importlib.import_module(name)
    found = {
        function: dangling(plain)
        for function, plain in functions_of(module)
        if ".ctypes" in inspect.getsource(plain)
    }
    assert not {function: lines for function, lines in found.items() if lines}


# ── the question itself ──────────────────────────────────────────────────────────────────────


def named_again(n: int) -> int:
    total, words = 0, np.ones(4, np.int64)
    for i in range(n):
        total += load_i64(words.ctypes.data + 8 * i)
    return total


def taken_once(n: int) -> int:
    total, words = 0, np.ones(4, np.int64)
    at = words.ctypes.data
    for i in range(n):
        total += load_i64(at + 8 * i)
    return total


def kept_by_a_last_word(n: int) -> int:
    total, words = 0, np.ones(4, np.int64)
    at = words.ctypes.data
    for i in range(n):
        total += load_i64(at + 8 * i)
    return total + 0 * words.size


def through_another_array(n: int) -> int:
    words, addresses = np.ones(4, np.int64), np.zeros(1, np.int64)
    addresses[0] = words.ctypes.data
    target = np.zeros(4, np.int64)
    copy_bytes(target.ctypes.data, addresses[0], 8 * n)
    copy_bytes(target.ctypes.data, addresses.ctypes.data, 8)
    return int(target[0])


def on_one_road_only(n: int) -> int:
    words = np.ones(4, np.int64)
    at = words.ctypes.data
    if n > 1:
        return load_i64(at) + words.size
    return int(load_i64(at))


def of_an_argument(words: Any, n: int) -> int:
    at, total = words.ctypes.data, 0
    for i in range(n):
        total += load_i64(at + 8 * i)
    return total


@pytest.mark.parametrize("function", [named_again, kept_by_a_last_word])
def test_an_array_that_is_named_later_is_there(function: Callable[[int], int]) -> None:
    assert not dangling(function)


def test_the_caller_holds_what_it_gives() -> None:
    assert not dangling(of_an_argument)


@pytest.mark.parametrize("function", [taken_once, through_another_array, on_one_road_only])
def test_an_array_that_is_not_named_any_more_is_gone(function: Callable[[int], int]) -> None:
    assert dangling(function)
