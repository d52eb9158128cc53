"""LMDB's own C functions, for compiled loops: one call from Python for a thousand gets.

py-lmdb calls LMDB for one key at a time, and each call makes Python objects.  Its extension module
also exports the functions themselves (``mdb09_get``, ``mdb09_put``), which a compiled loop can
call by address, within a transaction that py-lmdb began and will end::

    with env.read() as txn:                       py-lmdb: begins, ends, checks, translates errors
        find(native.get, native.transaction(txn), native.latest, keys, …)        one call, n gets

What py-lmdb does not export is where its transaction object keeps the ``MDB_txn*``.  We look next
to the engine's function table, to which every such object points, and believe what we find only
if LMDB, asked about it, names the same transaction and the same file.  Anything else — another
build, another engine, another interpreter — gives no seam at all, and the callers take the plain
path, which answers the same (the tests run both).

Whoever uses an address keeps two rules.  The GIL stays held during the call, so that no other
thread can close the environment under it; and calls are short (`CALL_ROWS_MAX` keys), so that
other threads get their turn.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import lmdb

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Keys of one call: about a millisecond.
CALL_ROWS_MAX = 2048
#: Set to 0, every lookup takes the plain path.
SWITCH = "FEATURESTORE_NATIVE"

_MAP_FULL = -30792
_WORD = ctypes.sizeof(ctypes.c_size_t)


class Native(NamedTuple):
    """Addresses of C functions, and handles of databases, in one environment.

    Attributes
    ----------
    get, put : int
        ``mdb_get`` and ``mdb_put``.
    databases : dict of str to int
        ``MDB_dbi`` by name.
    transaction_at : int
        Byte of py-lmdb's transaction object that holds the ``MDB_txn*``.
    """

    get: int
    put: int
    databases: dict[str, int]
    transaction_at: int

    def transaction(self, txn: Any) -> int:
        """Return the address of the ``MDB_txn`` of a transaction that is not ended."""
        return ctypes.c_size_t.from_address(id(txn) + self.transaction_at).value


def error(code: int) -> lmdb.Error:
    """Return what py-lmdb would have raised for a code."""
    if code == _MAP_FULL:
        return lmdb.MapFullError("mdb_put: Environment mapsize limit reached")
    return lmdb.Error(f"LMDB: {os.strerror(code) if code > 0 else code}")


def is_switched_off() -> bool:
    """Return whether lookups take the plain path on somebody's wish, or for want of a compiler."""
    return os.environ.get(SWITCH) == "0" or os.environ.get("NUMBA_DISABLE_JIT") == "1"


def find(txn: Any, names: tuple[str, ...], data_file: tuple[int, int]) -> Native | None:
    """Return the seam of an environment, or None where it cannot be trusted.

    Parameters
    ----------
    txn : lmdb.Transaction
        Any transaction of the environment, not ended.
    names : tuple of str
        Databases to give handles of; open in the environment.
    data_file : (int, int)
        Device and inode of the environment's data file.
    """
    if is_switched_off():
        return None
    try:
        extension = importlib.import_module("lmdb.cpython")
        library = ctypes.CDLL(extension.__file__)
        functions = _Functions(library)
        for at in _candidates(txn, library):
            pointer = ctypes.c_size_t.from_address(id(txn) + at).value
            if pointer and functions.is_transaction(pointer, txn, data_file):
                databases = {name: functions.database(pointer, name) for name in names}
                return Native(functions.get, functions.put, databases, at)
    except (AttributeError, ImportError, OSError, ValueError):
        # No such module or symbol, or another interpreter's objects.
        return None
    return None


def _candidates(txn: Any, library: ctypes.CDLL) -> Iterator[int]:
    """Yield the bytes of the object that may hold the pointer: those after the function table."""
    table = ctypes.addressof(ctypes.c_int.in_dll(library, "lmdb_api_v09"))
    words = txn.__sizeof__() // _WORD
    held = (ctypes.c_size_t * words).from_address(id(txn))
    for place in range(words - 1):
        if held[place] == table:
            yield (place + 1) * _WORD


class _Functions:
    """The few functions of LMDB 0.9 that are needed, with their C types."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, number = ctypes.c_void_p, ctypes.c_size_t
        self._txn_id = library.mdb09_txn_id
        self._txn_id.argtypes, self._txn_id.restype = [pointer], number
        self._txn_env = library.mdb09_txn_env
        self._txn_env.argtypes, self._txn_env.restype = [pointer], pointer
        self._env_get_fd = library.mdb09_env_get_fd
        self._env_get_fd.argtypes = [pointer, ctypes.POINTER(ctypes.c_int)]
        self._dbi_open = library.mdb09_dbi_open
        self._dbi_open.argtypes = [
            pointer, ctypes.c_char_p, ctypes.c_uint, ctypes.POINTER(ctypes.c_uint),
        ]  # fmt: skip
        self.get = _address(library.mdb09_get)
        self.put = _address(library.mdb09_put)

    def is_transaction(self, pointer: int, txn: Any, data_file: tuple[int, int]) -> bool:
        """Tell whether LMDB takes an address for this very transaction on this very file."""
        if self._txn_id(pointer) != txn.id():
            return False
        descriptor = ctypes.c_int(-1)
        if self._env_get_fd(self._txn_env(pointer), ctypes.byref(descriptor)):
            return False
        found = os.fstat(descriptor.value)
        return (found.st_dev, found.st_ino) == data_file

    def database(self, pointer: int, name: str) -> int:
        """Return the handle of a database that is open already."""
        handle = ctypes.c_uint()
        if self._dbi_open(pointer, name.encode(), 0, ctypes.byref(handle)):
            raise ValueError(name)
        return handle.value


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0
