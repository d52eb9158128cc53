"""Writing a training set: record batches in, Parquet whose columns are arrays in the file out.

Nothing of when or where it is written enters the bytes: rows are cut into row groups by their
number, categories are numbered as they first appear, and every option of the format is said here.
So the same rows give the same files, whatever batches they came in.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.arrays import one_chunk, plain_array
from featurestore.errors import FeatureStoreError, InvalidInput
from featurestore.kernels.rows import BITS, FLOAT32, FLOAT64, INT32, INT64S, STRIPE_ROWS
from featurestore.storage import files, layout, seam
from featurestore.storage.pages import Pages
from featurestore.training.layout import (
    NULLS_FILE,
    PART_ROW_GROUPS,
    ROW_GROUP_ROWS,
    SET_FILE,
    Column,
    Layout,
    Part,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

#: Codes are loaded as float32, which tells whole numbers apart up to here.
CATEGORIES_MAX = 1 << 24

_BITS_OF_KIND = {FLOAT32: 32, FLOAT64: 64, INT32: 32, INT64S: 64, BITS: 1}


def kind_of(arrow_type: pa.DataType) -> int | None:
    """Return how a loader reads a type; None for one that is no number."""
    types = pa.types
    if types.is_boolean(arrow_type):
        return BITS
    if types.is_float32(arrow_type):
        return FLOAT32
    if types.is_float64(arrow_type):
        return FLOAT64
    if types.is_int64(arrow_type):
        return INT64S
    if types.is_integer(arrow_type):
        return INT32
    # Days since 1970, and the codes of categories.
    return INT32 if types.is_date32(arrow_type) or types.is_string(arrow_type) else None


class Categories:
    """Texts numbered as they first appear, after those that have a number already."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self.codes: dict[str, int] = {text: code for code, text in enumerate(known)}

    def encode(self, texts: pa.Array, name: str) -> pa.Array:
        """Return the codes of texts as int32, null for null."""
        local = texts.dictionary_encode()
        codes = self.codes
        table = [codes.setdefault(text, len(codes)) for text in local.dictionary.to_pylist()]
        if len(codes) > CATEGORIES_MAX:
            raise InvalidInput(
                f'The texts of "{name}" are more than {CATEGORIES_MAX:,} different ones; a model '
                "is given a category's number as float32, which tells no more apart. Leave it out."
            )
        return pa.array(table, pa.int32()).take(local.indices)


class SetWriter:
    """Writes the row groups of one set into a folder.

    Parameters
    ----------
    folder : Path
        An empty folder.
    roles : mapping of str to str
        ``"label"`` or ``"feature"`` by column; others are ``"other"``.
    time : str
        The column of label times, ascending.
    fills : mapping of str to float or None
        What stands for null, by feature; None is NaN.
    categories : mapping of str to sequence of str
        Texts that have a number already, by column.
    """

    def __init__(
        self,
        folder: Path,
        roles: Mapping[str, str],
        time: str,
        fills: Mapping[str, float | None],
        categories: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._folder = folder
        self._roles = roles
        self._time = time
        self._fills = fills
        self._columns: list[Column] = []
        self._categories = {n: Categories(known) for n, known in (categories or {}).items()}
        self._parts: list[Part] = []
        self._pages: list[tuple[tuple[int, int, int], ...]] = []
        self._nulls = bytearray()
        self._null_places: list[list[int]] = []

    def write(self, pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Write row groups as they are asked for; yields what was written, features as numbers."""
        pieces = iter(pieces)
        piece = next(pieces, None)
        while piece is not None:
            with _PartWriter(self._folder, len(self._parts)) as part:
                while piece is not None and len(part.rows) < PART_ROW_GROUPS:
                    table = self._numbers(piece)
                    part.write(table, self.matrix(), one_chunk(table.column(self._time)))
                    self._note_nulls(table)
                    yield table
                    piece = next(pieces, None)
            done, pages = part.finish(self.matrix())
            self._parts.append(done)
            self._pages += pages

    def finish(self, plan: dict[str, Any], profile: dict[str, Any]) -> Layout:
        """Write what goes beside the rows; returns the layout."""
        nulls = None
        if self._nulls:
            _write(self._folder / NULLS_FILE, bytes(self._nulls))
            nulls = len(self._nulls), hashlib.sha256(self._nulls).hexdigest()[:32]
        pages = self._with_nulls()
        columns = tuple(self._with_categories(column) for column in self._columns)
        done = Layout(plan, columns, tuple(self._parts), nulls, pages, profile)
        _write(self._folder / SET_FILE, done.to_bytes())
        return done

    @property
    def matrix_names(self) -> list[str]:
        """The names of the features, then of the label."""
        return [column.name for column in self.matrix()]

    # ── columns ──────────────────────────────────────────────────────────────────────────────

    def _numbers(self, table: pa.Table) -> pa.Table:
        """Return a piece as it is written: vectors taken apart, categories as codes."""
        first = not self._columns
        arrays, names = [], []
        for name in table.column_names:
            array = plain_type(plain_array(table.column(name)))
            role = self._roles.get(name, "other")
            for part_name, part in _components(name, array, role):
                kind = kind_of(part.type) if role != "other" else None
                if first:
                    self._columns.append(self._column(part_name, name, part.type, role, kind))
                if kind is not None and pa.types.is_string(part.type):
                    known = self._categories.setdefault(part_name, Categories())
                    arrays.append(known.encode(part, part_name))
                else:
                    arrays.append(part)
                names.append(part_name)
        return pa.Table.from_arrays(arrays, names=names)

    def _column(
        self, name: str, asked: str, kind_given: pa.DataType, role: str, kind: int | None
    ) -> Column:
        if kind is None:
            if role == "label":
                raise InvalidInput(
                    f'The label "{asked}" is a {kind_given}; a label is a number, a flag or a text.'
                )
            role = "other"
        return Column(name, str(kind_given), role, kind, None, self._fills.get(asked))

    def matrix(self) -> list[Column]:
        """Return the features, then the label, as far as columns are known."""
        features = [column for column in self._columns if column.role == "feature"]
        return features + [column for column in self._columns if column.role == "label"]

    def _with_categories(self, column: Column) -> Column:
        known = self._categories.get(column.name)
        if known is None:
            return column
        return Column(
            column.name, column.type, column.role, column.kind, tuple(known.codes), column.fill
        )

    # ── nulls ────────────────────────────────────────────────────────────────────────────────

    def _note_nulls(self, table: pa.Table) -> None:
        """Add the validity of a row group's columns, and remember where that of each begins."""
        places = []
        for column in self.matrix():
            array = one_chunk(table.column(column.name))
            if not array.null_count:
                places.append(-1)
                continue
            valid = array.is_valid().to_numpy(zero_copy_only=False)
            before = np.concatenate([[0], np.cumsum(valid)])[:-1:STRIPE_ROWS]
            places.append(len(self._nulls))
            self._nulls += before.astype("<i4").tobytes()
            self._nulls += np.packbits(valid, bitorder="little").tobytes()
        self._null_places.append(places)

    def _with_nulls(self) -> tuple[tuple[tuple[int, int, int], ...], ...]:
        return tuple(
            tuple((at, count, place) for (at, count, _), place in zip(page, places, strict=True))
            for page, places in zip(self._pages, self._null_places, strict=True)
        )


def _write(path: Path, content: bytes) -> None:
    seam.call("write", path, path.write_bytes, content)


def plain_type(array: pa.Array) -> pa.Array:
    """Return a column in one of the types that sets are made of, if it is of that kind at all."""
    types, kind = pa.types, array.type
    if types.is_large_string(kind) or types.is_string_view(kind):
        return array.cast(pa.string())
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return array.cast(pa.binary())
    if types.is_unsigned_integer(kind) and kind.bit_width >= 32:
        return array.cast(pa.int64())
    if types.is_float16(kind):
        return array.cast(pa.float32())
    return array.cast(pa.float64()) if types.is_decimal(kind) else array


def _components(name: str, array: pa.Array, role: str) -> Iterator[tuple[str, pa.Array]]:
    """Yield a column, or the components of a vector, which is null as a whole or not at all."""
    if role != "feature" or not pa.types.is_fixed_size_list(array.type):
        yield name, array
        return
    size = array.type.list_size
    # A null list has elements too, whatever they are.
    flat = array.values.slice(array.offset * size, len(array) * size)
    missing = array.is_null().to_numpy(zero_copy_only=False)
    values = flat.to_numpy(zero_copy_only=False).reshape(len(array), size)
    for i in range(size):
        yield f"{name}_{i}", pa.array(values[:, i], array.type.value_type, mask=missing)


class _PartWriter:
    """One Parquet file."""

    def __init__(self, folder: Path, number: int) -> None:
        self.rows: list[int] = []
        self._times_us: list[tuple[int, int]] = []
        self._path = folder / f"part-{number:05}.parquet"
        self._sink: Any = None
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._writer is not None:
            self._writer.close()
            self._sink.__exit__(*exc)

    def write(self, table: pa.Table, matrix: Sequence[Column], times: pa.Array) -> None:
        """Write a row group."""
        if self._writer is None:
            self._sink = seam.sink(self._path)
            plain = {column.name for column in matrix}
            others = [name for name in table.column_names if name not in plain]
            self._writer = pq.ParquetWriter(
                self._sink.__enter__(),
                table.schema,
                compression={n: "NONE" if n in plain else "ZSTD" for n in table.column_names},
                use_dictionary=others,
                data_page_size=ROW_GROUP_ROWS * 64,  # one page for a column of a row group
                write_page_checksum=True,
                **layout.one_page(ROW_GROUP_ROWS),
            )
        files.require_room(self._path.parent, table.nbytes)
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))
        self.rows.append(table.num_rows)
        us = times.view(pa.int64())
        self._times_us.append((us[0].as_py(), us[-1].as_py()))

    def finish(
        self, matrix: Sequence[Column]
    ) -> tuple[Part, list[tuple[tuple[int, int, int], ...]]]:
        """Return the part, and where the values of its columns lie in it."""
        opened = Pages(self._path)
        pages = [
            tuple(self._page(opened, g, column) for column in matrix)
            for g in range(len(opened.group_rows))
        ]
        digest = hashlib.sha256(opened.memory.data).hexdigest()[:32]
        size = opened.memory.size
        part = Part(self._path.name, size, digest, tuple(self.rows), tuple(self._times_us))
        return part, pages

    @staticmethod
    def _page(opened: Pages, group: int, column: Column) -> tuple[int, int, int]:
        rows, nulls = int(opened.group_rows[group]), opened.null_count(column.name, group)
        at, end = opened.values(column.name, group)
        count = rows - nulls
        if nulls < 0 or end - at != (count * _BITS_OF_KIND[column.kind or 0] + 7) // 8:
            at = -1
        if at < 0:
            raise FeatureStoreError(
                f'The column "{column.name}" was not written as one plain page. This version of '
                "pyarrow writes pages that the loader does not know; please report it."
            )
        return at, count, -1
