"""Memory by address: what other libraries own, read by compiled loops where it lies.

LMDB answers a lookup with a pointer into its own pages.  These few functions follow it.  They are
for kernels to call, compile to one instruction or two, and check nothing: the caller has made sure
that the bytes are there and stay there.  Words may lie at any byte.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

_I64 = ir.IntType(64)
_I32 = ir.IntType(32)
_BYTE = ir.IntType(8)


def _loader(width: ir.Type, result: Any, plain: Any = None) -> Any:
    if config.DISABLE_JIT and plain is not None:  # slow, and the same
        return lambda address: plain.from_address(int(address)).value

    @intrinsic
    def load(_typing: Any, address: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            pointer = builder.inttoptr(arguments[0], width.as_pointer())
            return builder.load(pointer, align=1)

        return result(address), generate

    return load


load_i64 = _loader(_I64, types.int64)
load_u32 = _loader(_I32, types.uint32)
load_u8 = _loader(_BYTE, types.uint8)
# These work in plain Python as well, for kernels that have no other road there.
load_int64 = _loader(_I64, types.int64, ctypes.c_int64)
load_int32 = _loader(_I32, types.int32, ctypes.c_int32)
load_bits8 = _loader(_BYTE, types.uint8, ctypes.c_uint8)
load_float32 = _loader(ir.FloatType(), types.float32, ctypes.c_float)
load_float64 = _loader(ir.DoubleType(), types.float64, ctypes.c_double)


@intrinsic
def store_i32(_typing: Any, address: Any, value: Any) -> Any:
    """Store the low 32 bits of a number at an address."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], _I32.as_pointer())
        builder.store(builder.trunc(arguments[1], _I32), pointer, align=1)
        return cgutils.get_null_value(ir.LiteralStructType([]))

    return types.void(types.int64, types.int64), generate


@intrinsic
def store_big_endian(_typing: Any, address: Any, value: Any) -> Any:
    """Store 64 bits at an address, the highest byte first."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], _I64.as_pointer())
        builder.store(builder.bswap(arguments[1]), pointer, align=1)
        return cgutils.get_null_value(ir.LiteralStructType([]))

    return types.void(types.int64, types.uint64), generate


def _prefetcher(write: int) -> Any:
    @intrinsic
    def prefetch(_typing: Any, address: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            pointer = _BYTE.as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            how, keep, data = (ir.Constant(_I32, number) for number in (write, 3, 1))
            builder.call(function, [builder.inttoptr(arguments[0], pointer), how, keep, data])
            return cgutils.get_null_value(ir.LiteralStructType([]))

        return types.void(types.int64), generate

    return prefetch


# Ask for the cache line at an address, to read it or to write there, and do not wait for it.
prefetch = _prefetcher(0)
prefetch_write = _prefetcher(1)


@intrinsic
def copy_bytes(_typing: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy ``count`` bytes from one address to another; the two do not overlap."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        to, of, size = arguments
        pointer = _BYTE.as_pointer()
        cgutils.raw_memcpy(
            builder, builder.inttoptr(to, pointer), builder.inttoptr(of, pointer), size, 1
        )
        return cgutils.get_null_value(ir.LiteralStructType([]))

    return types.void(types.int64, types.int64, types.int64), generate


#: ``ssize_t pread(int file, void *target, size_t count, off_t offset)`` of the C library.
read_at = types.ExternalFunction(
    "pread", types.int64(types.int32, types.int64, types.int64, types.int64)
)


if config.DISABLE_JIT:

    def read_at(file: int, target: int, count: int, offset: int) -> int:
        """Read bytes of a file to an address; returns how many."""
        content = os.pread(int(file), int(count), int(offset))
        ctypes.memmove(int(target), content, len(content))
        return len(content)

    def copy_bytes(target: int, source: int, count: int) -> None:
        """Copy bytes from one address to another."""
        ctypes.memmove(int(target), int(source), int(count))

    def prefetch(_address: int) -> None:
        """Do nothing: a hint is no more than that."""

    prefetch_write = prefetch


@intrinsic
def call_get(_typing: Any, function: Any, txn: Any, database: Any, key: Any, value: Any) -> Any:
    """Call ``int mdb_get(MDB_txn *, MDB_dbi, MDB_val *key, MDB_val *data)`` by its address."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, txn, database, key, value = arguments
        kind = ir.FunctionType(_I32, [_I64, _I32, _I64, _I64])
        called = builder.inttoptr(address, kind.as_pointer())
        return builder.call(called, [txn, builder.trunc(database, _I32), key, value])

    word = types.int64
    return types.int32(word, word, word, word, word), generate


def _putter(flags: int) -> Any:
    @intrinsic
    def put(_typing: Any, function: Any, txn: Any, database: Any, key: Any, value: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            address, txn, database, key, value = arguments
            kind = ir.FunctionType(_I32, [_I64, _I32, _I64, _I64, _I32])
            called = builder.inttoptr(address, kind.as_pointer())
            how = ir.Constant(_I32, flags)
            return builder.call(called, [txn, builder.trunc(database, _I32), key, value, how])

        word = types.int64
        return types.int32(word, word, word, word, word), generate

    return put


# ``int mdb_put(MDB_txn *, MDB_dbi, MDB_val *key, MDB_val *data, unsigned flags)`` by its address.
call_put = _putter(0)
#: Leaves what is there, and gives its place in ``data``: one search where get and put are two.
call_put_new = _putter(0x10)  # MDB_NOOVERWRITE
