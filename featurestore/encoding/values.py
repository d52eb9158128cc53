"""One record as bytes: THE layout, of the online store, the journal and the bulk loader alike.

Little endian; every record's length is a multiple of 8, so that records laid end to end can be
read as one array of 64-bit words (which is what ``columns`` does).

::

    byte   type   field
    ────   ────   ─────────────────────────────────────────────────────────────────────────────
       0   u32    crc32 of the key bytes, then of this record from byte 4 to its length
       4   u32    length in bytes; what the storage layer appends after it is not the record's
       8   u16    schema version the record was written with, from 1
      10   u8     flags: 1 deleted, 2 hard, 4 fence; the other bits are zero
      11   u8     stores aimed at: 1 online, 2 offline, 3 both
      12   u32    encryption key id; 0 = not encrypted
      16   u64    seq: place of the record in the commit order of the store
      24   i64    event time    ┐
      32   i64    write time    │ microseconds since the epoch, UTC
      40   i64    expires at    ┘ NO_EXPIRY = never
      48   u64 x ceil(n / 64)   null bitmap: bit i of word i // 64 set = slot i is null
       …   8 bytes x n          slots, one for each value feature of that schema version,
                                in the order of feature ids; a null's slot is zero
       …   bytes                heap, then zeros up to the next multiple of 8

A tombstone or a fence (flags are not zero) is the 48 bytes of header only.

::

    type                        slot
    ─────────────────────────   ─────────────────────────────────────────────────────────────
    bool, int8..64              i64, sign extended
    timestamp, date             i64: microseconds, days since the epoch
    float64                     its bits
    float32                     its bits in the low 4 bytes, zeros above
    string, binary,             u32 offset from the start of the record, u32 length in bytes
    list, vector                of the heap value

    type                        heap value
    ─────────────────────────   ─────────────────────────────────────────────────────────────
    string, binary              UTF-8, or the bytes; not aligned
    vector<T, n>                n raw floats; begins at a multiple of 8
    list<T>                     begins at a multiple of 8, then
                                  u32 count | u32 1 if any element is null, else 0
                                  u64 x ceil(count / 64): null bitmap, only if any is null
                                  fixed T: the elements at their own width (bool 1, date 4,
                                    timestamp 8); a null's are zeros
                                  string, binary: u32 end of each element, counted from the end
                                    of these numbers, then the bytes; a null is empty

Heap values follow each other in the order of their slots.  Text is packed tight, because short
codes are what feature stores are full of; floats are aligned, so that a reader may use them
where they lie.  Bytes above the width of a narrow slot are not read, only checksummed.

**Evolution.** Features are only ever added, each with the schema version that brought it.  A
record is decoded through the version written in it, and features younger than that are null.
Nothing is ever rewritten because a schema changed.

**Speed.** A :class:`RecordCodec` compiles one `struct.Struct` for each schema version and
selection of features: a record of fixed-width features is then one ``unpack_from`` and one
``dict(zip(...))``.  Only nulls, dates, timestamps and heap values are touched one by one.
"""

from __future__ import annotations

import struct
from datetime import date
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from zlib import crc32

from featurestore.dtypes import EPOCH_ORDINAL
from featurestore.errors import CorruptStore, InvalidRecord, UnknownFeature, did_you_mean
from featurestore.event_time import NO_EXPIRY, to_datetime
from featurestore.record import FLAG_DELETED, FLAG_FENCE, FLAG_HARD, RECORD_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from featurestore.dtypes import DType, Physical
    from featurestore.schema import FeatureGroup

    Buffer = bytes | bytearray | memoryview
    HeapReader = Callable[[Buffer, int, int], object]

HEADER = struct.Struct("<IIHBBIQqqq")
FLAGS_KNOWN = FLAG_DELETED | FLAG_HARD | FLAG_FENCE

#: Kinds whose slot points into the heap.
HEAP_KINDS = frozenset({"string", "binary", "list", "vector"})
#: Of those, the kinds whose heap values begin at a multiple of 8.
ALIGNED_KINDS = frozenset({"list", "vector"})

_PREAMBLE = struct.Struct("<IHBBI")  # length, version, flags, stores, encryption key id: at byte 4
_INT_FORMAT = {8: "b", 16: "h", 32: "i", 64: "q"}
_FLOAT_FORMAT = {32: "f", 64: "d"}

# A server is asked for few selections of features; one that is asked for ever new ones must not
# grow for ever.  Compiling a selection costs some tens of microseconds.
_PLANS_MAX = 1000


class Header(NamedTuple):
    """The fixed fields of a record; times in microseconds since the epoch, UTC."""

    crc: int
    length: int
    schema_version: int
    flags: int
    stores: int
    encryption_key_id: int
    seq: int
    event_time_us: int
    write_time_us: int
    expires_at_us: int


class Layout(NamedTuple):
    """Where the parts of a record of ``n`` slots begin."""

    bitmap_words: int
    slots: int
    heap: int


def layout(slot_count: int) -> Layout:
    """Return where bitmap, slots and heap lie in a record with that many slots.

    Examples
    --------
    >>> layout(20)
    Layout(bitmap_words=1, slots=56, heap=216)
    """
    words = -(-slot_count // 64)
    slots = HEADER.size + 8 * words
    return Layout(words, slots, slots + 8 * slot_count)


# ── header ───────────────────────────────────────────────────────────────────────────────────


def read_header(data: Buffer) -> Header:
    """Return the header of a record; neither checksum nor values are looked at.

    Raises
    ------
    CorruptStore
        When the bytes are shorter than a header or than the length written in it.
    """
    if len(data) < HEADER.size:
        raise CorruptStore(
            f"A record has {len(data)} bytes, fewer than the {HEADER.size} of a header."
        )
    header = Header._make(HEADER.unpack_from(data))
    if not HEADER.size <= header.length <= len(data) or header.length % 8:
        raise CorruptStore(f"A record says it has {header.length} bytes; {len(data)} are stored.")
    return header


def sound_fields(data: bytes, key: bytes) -> tuple[int, ...]:
    """Return the fields of :class:`Header`, unnamed, after the checks of :func:`verify_record`.

    For single lookups, where naming them would be a tenth of the whole.
    """
    if len(data) >= HEADER.size:
        fields: tuple[int, ...] = HEADER.unpack_from(data)
        if fields[1] == len(data) and crc32(data[4:], crc32(key)) == fields[0]:
            return fields
    # A long key follows the record, or something is wrong.
    return verify_record(data, key)


def verify_record(data: Buffer, key: bytes) -> Header:
    """Return the header of a record after checking its length and its checksum.

    The checksum covers the key as well, so a sound record under a wrong key does not pass.

    Raises
    ------
    CorruptStore
        When either is wrong.
    """
    header = read_header(data)
    # A slice of bytes is a copy, and for records of the usual size cheaper than a view.
    if crc32(data[4 : header.length], crc32(key)) != header.crc:
        raise CorruptStore(
            f"A record of seq {header.seq} fails its checksum (key bytes: {key[:32].hex(' ')})."
        )
    return header


def tombstone(*, schema_version: int, event_time_us: int, stores: int, flags: int) -> bytearray:
    """Return a record without values: a deletion or a fence, ready for `stamp`.

    Parameters
    ----------
    schema_version : int
        Of the group at the time.
    event_time_us : int
        From this event time on there is no record.
    stores : int
        ``STORE_ONLINE | STORE_OFFLINE``.
    flags : int
        ``FLAG_DELETED``, with ``FLAG_HARD`` or not; or ``FLAG_FENCE``.

    Examples
    --------
    >>> len(tombstone(schema_version=1, event_time_us=0, stores=3, flags=1))
    48
    """
    size = HEADER.size
    return bytearray(
        HEADER.pack(0, size, schema_version, flags, stores, 0, 0, event_time_us, 0, NO_EXPIRY)
    )


_pack_u32 = struct.Struct("<I").pack_into
_pack_u64 = struct.Struct("<Q").pack_into
_pack_i64 = struct.Struct("<q").pack_into


def stamp(record: bytearray, key: bytes, seq: int, write_time_us: int) -> bytes:
    """Fill in what only the commit knows, then the checksum, and return the finished bytes.

    Parameters
    ----------
    record : bytearray
        From `RecordCodec.encode`, `tombstone` or `columns.encode_records`; changed in place.
    key : bytes
        The encoded record identifier.
    seq, write_time_us : int
        Place in the commit order, and the commit's clock in microseconds.
    """
    _pack_u64(record, 16, seq)
    _pack_i64(record, 32, write_time_us)
    _pack_u32(record, 0, crc32(memoryview(record)[4:], crc32(key)))
    return bytes(record)


def same_payload(a: Buffer, b: Buffer) -> bool:
    """Tell whether two records differ in nothing but seq, write time and checksum.

    Bytes are compared, so 0.0 and -0.0 differ, and so do equal values under two schema versions.
    What the storage layer appended after either record is not looked at.
    """
    length = int.from_bytes(a[4:8], "little")
    return a[4:16] == b[4:16] and a[24:32] == b[24:32] and a[40:length] == b[40:length]


# ── heap values ──────────────────────────────────────────────────────────────────────────────


def element_format(dtype: DType) -> str:
    """Return the struct character of a fixed-width list or vector element.

    Examples
    --------
    >>> from featurestore.dtypes import parse_dtype
    >>> [element_format(parse_dtype(t)) for t in ("bool", "int16", "float32", "date")]
    ['?', 'h', 'f', 'i']
    """
    if dtype.kind in {"float", "vector"}:
        return _FLOAT_FORMAT[dtype.bits]
    if dtype.kind == "int":
        return _INT_FORMAT[dtype.bits]
    return {"bool": "?", "timestamp": "q", "date": "i"}[dtype.kind]


def pack_list(element: DType, values: Sequence[Physical | None]) -> bytes:
    """Return a list as its heap value.

    Parameters
    ----------
    element : DType
        Type of the elements, a scalar.
    values : sequence of physical values
        Null elements are None.
    """
    count = len(values)
    bitmap = b""
    if None in values:
        digits = "".join(["1" if value is None else "0" for value in reversed(values)])
        bitmap = int(digits, 2).to_bytes(8 * -(-count // 64), "little")
    head = struct.pack("<II", count, bool(bitmap)) + bitmap
    if element.kind in {"string", "binary"}:
        parts = _as_bytes(values)
        ends = accumulate(map(len, parts))
        return head + struct.pack(f"<{count}I", *ends) + b"".join(parts)
    zero_filled = [0 if value is None else value for value in values] if bitmap else values
    return head + struct.pack(f"<{count}{element_format(element)}", *zero_filled)


def _as_bytes(values: Sequence[Any]) -> list[bytes]:
    """Return texts as UTF-8 and bytes as they are; a null is empty."""
    return [v.encode() if isinstance(v, str) else v or b"" for v in values]


def unpack_list(element: DType, data: Buffer, start: int, stop: int) -> list[Any]:
    """Return the physical elements of the list in ``data[start:stop]``: `pack_list` backwards.

    Raises
    ------
    ValueError
        When the bytes are not a list of that type.  (The callers know which record it is, and
        make it a `CorruptStore`.)
    """
    if stop - start < 8:
        raise ValueError("a list is cut short")
    count, has_nulls = struct.unpack_from("<II", data, start)
    if has_nulls > 1:
        raise ValueError("a list has a malformed head")
    bitmap = start + 8
    elements = bitmap + (8 * -(-count // 64) if has_nulls else 0)
    if element.kind in {"string", "binary"}:
        values = _unpack_texts(element, data, elements, stop, count)
    else:
        form = f"<{count}{element_format(element)}"
        # Compared before unpacking: a hostile count must not allocate.
        if elements + count * struct.calcsize("<" + element_format(element)) != stop:
            raise ValueError("a list is not as long as its elements")
        values = list(struct.unpack_from(form, data, elements))
    if has_nulls:
        bits = int.from_bytes(data[bitmap:elements], "little")
        for index, digit in enumerate(reversed(f"{bits:0{count}b}"[-count:] if count else "")):
            if digit == "1":
                values[index] = None
    return values


def _unpack_texts(element: DType, data: Buffer, position: int, stop: int, count: int) -> list[Any]:
    """Return the strings or byte strings of a list whose end offsets begin at ``position``."""
    base = position + 4 * count
    if base > stop:
        raise ValueError("a list is cut short")
    ends = struct.unpack_from(f"<{count}I", data, position)
    begins = (0, *ends[:-1])
    if any(map(int.__gt__, begins, ends)) or base + (ends[-1] if ends else 0) != stop:
        raise ValueError("a list has disordered elements")
    pieces = [data[base + begin : base + end] for begin, end in zip(begins, ends, strict=False)]
    if element.kind == "string":
        return [str(piece, "utf-8") for piece in pieces]
    return [bytes(piece) for piece in pieces]


def _heap_packer(dtype: DType) -> Callable[[Any], bytes]:
    """Return the function that makes a heap value of a physical value."""
    if dtype.kind == "string":
        return str.encode
    if dtype.kind == "binary":
        return bytes
    if dtype.kind == "vector":
        pack = struct.Struct(f"<{dtype.length}{element_format(dtype)}").pack
        return lambda values: pack(*values)
    return partial(pack_list, cast("DType", dtype.element))


def _heap_reader(dtype: DType) -> HeapReader:
    """Return the function that makes a Python value of ``data[start:stop]``."""
    if dtype.kind == "string":
        return lambda data, start, stop: str(data[start:stop], "utf-8")
    if dtype.kind == "binary":
        return lambda data, start, stop: bytes(data[start:stop])
    if dtype.kind == "vector":
        return _vector_reader(struct.Struct(f"<{dtype.length}{element_format(dtype)}"))
    return _list_reader(dtype)


def _vector_reader(form: struct.Struct) -> HeapReader:
    def read(data: Buffer, start: int, stop: int) -> list[float]:
        if stop - start != form.size:
            raise ValueError(f"a vector has {stop - start} bytes instead of {form.size}")
        return list(form.unpack_from(data, start))

    return read


def _list_reader(dtype: DType) -> HeapReader:
    element = cast("DType", dtype.element)
    if element.kind not in {"timestamp", "date"}:
        return partial(unpack_list, element)
    # Only these two have a Python form other than the physical one.
    return lambda data, start, stop: dtype.to_python(unpack_list(element, data, start, stop))


# ── one record ───────────────────────────────────────────────────────────────────────────────


def _to_date(days: int) -> date:
    return date.fromordinal(days + EPOCH_ORDINAL)


#: Kinds whose slot, unpacked, is not yet the Python value.
_CONVERTERS: dict[str, Callable[[int], object]] = {"timestamp": to_datetime, "date": _to_date}


def _slot_packed(dtype: DType) -> str:
    """Return the struct format that writes a slot: always 8 bytes, always one argument."""
    if dtype.kind in HEAP_KINDS:
        return "Q"
    if dtype.kind == "float":
        return "d" if dtype.bits == 64 else "f4x"
    return "q"


def _slot_unpacked(dtype: DType) -> str:
    """Return the struct format that reads a slot: at its own width, so never out of range."""
    if dtype.kind == "bool":
        return "?7x"
    if dtype.kind == "int" and dtype.bits < 64:
        return f"{_INT_FORMAT[dtype.bits]}{8 - dtype.bits // 8}x"
    return _slot_packed(dtype)


class _Plan(NamedTuple):
    """How to decode one selection of features from records of one schema version."""

    slots: int  # first byte of the first slot
    heap: int  # first byte after the last slot
    unpack_from: Callable[[Buffer, int], tuple[Any, ...]]
    names: tuple[str, ...]  # of the slots unpacked, in slot order
    mask: int  # their bits in the null bitmap
    null_bits: tuple[tuple[str, int], ...]
    converters: tuple[tuple[str, int, Callable[[int], object]], ...]
    heaped: tuple[tuple[str, int, HeapReader], ...]
    asked: tuple[str, ...]  # keys of the answer, in order
    in_order: bool  # names == asked


class RecordCodec:
    """Records of one group to bytes and back, compiled once for a definition.

    Writes the group's newest schema version and reads every version up to it.  Safe to use from
    several threads.

    Parameters
    ----------
    group : FeatureGroup
        The definition as it is now.

    Examples
    --------
    >>> from featurestore.schema import define
    >>> group = define("weather", record_identifier="origin", event_time="at", id=1, features={
    ...     "origin": "string", "at": "timestamp", "temp": "float64", "sky": "string"})
    >>> codec = RecordCodec(group)
    >>> record = codec.encode({"temp": 39.0, "sky": "clear"}, event_time_us=0,
    ...     expires_at_us=NO_EXPIRY, stores=3)
    >>> codec.decode(stamp(record, b"key", seq=1, write_time_us=0))
    {'temp': 39.0, 'sky': 'clear'}
    """

    def __init__(self, group: FeatureGroup) -> None:
        self.group = group
        features = group.value_features
        self._names = tuple(feature.name for feature in features)
        self._layout = layout(len(features))
        self._no_nulls = (0,) * self._layout.bitmap_words
        self._heaped = tuple(
            (slot, _heap_packer(feature.dtype), 8 if feature.dtype.kind in ALIGNED_KINDS else 1)
            for slot, feature in enumerate(features)
            if feature.dtype.kind in HEAP_KINDS
        )
        self._pack_into = struct.Struct(
            HEADER.format
            + "Q" * self._layout.bitmap_words
            + "".join(_slot_packed(feature.dtype) for feature in features)
        ).pack_into
        # Keyed by version, or by (version, *names) where features were asked for by name.
        self._plans: dict[int | tuple[int | str, ...], _Plan] = {}

    # ── encode ──

    def encode(
        self,
        values: Mapping[str, Physical | None],
        *,
        event_time_us: int,
        expires_at_us: int,
        stores: int,
    ) -> bytearray:
        """Return a record but for seq, write time and checksum, which `stamp` fills in.

        Parameters
        ----------
        values : mapping of str to physical value
            Checked values of the value features.  Absent is null, like None; other names are
            not looked at.
        event_time_us, expires_at_us : int
            Microseconds since the epoch, UTC; ``NO_EXPIRY`` for never.
        stores : int
            ``STORE_ONLINE | STORE_OFFLINE``.

        Raises
        ------
        InvalidRecord
            When the record is longer than ``RECORD_BYTES_MAX``.
        """
        return self.encode_slots(
            list(map(values.get, self._names)),
            event_time_us=event_time_us,
            expires_at_us=expires_at_us,
            stores=stores,
        )

    def encode_slots(
        self,
        slots: list[Physical | None],
        *,
        event_time_us: int,
        expires_at_us: int,
        stores: int,
    ) -> bytearray:
        """Return a record as `encode` does, from the values in the order of their slots.

        Parameters
        ----------
        slots : list of physical values
            One for each value feature, in the order of ids; taken over, and not the caller's to
            use again.

        Raises
        ------
        struct.error, UnicodeEncodeError
            For integers and texts that have not been checked.
        """
        length = self._layout.heap
        pieces: list[tuple[int, bytes]] = []
        if self._heaped:
            length = self._fill_heap(slots, pieces)
        bitmap = self._null_words(slots) if None in slots else self._no_nulls
        record = bytearray(length)
        self._pack_into(
            record, 0,
            0, length, self.group.version, 0, stores, 0, 0, event_time_us, 0, expires_at_us,
            *bitmap, *slots,
        )  # fmt: skip
        for offset, piece in pieces:
            record[offset : offset + len(piece)] = piece
        return record

    def _null_words(self, slots: list[Any]) -> list[int]:
        """Return the null bitmap of these slots, and zero the slots that are null."""
        bits = 0
        for slot, value in enumerate(slots):
            if value is None:
                bits |= 1 << slot
                slots[slot] = 0
        return [(bits >> shift) & (1 << 64) - 1 for shift in range(0, len(slots), 64)]

    def _fill_heap(self, slots: list[Any], pieces: list[tuple[int, bytes]]) -> int:
        """Point slots at their heap values, collect those, and return the record's length."""
        offset = self._layout.heap
        for slot, pack, align in self._heaped:
            if slots[slot] is None:
                continue
            piece = pack(slots[slot])
            offset = -(-offset // align) * align
            slots[slot] = offset | len(piece) << 32
            pieces.append((offset, piece))
            offset += len(piece)
        length = -(-offset // 8) * 8
        if length > RECORD_BYTES_MAX:
            raise InvalidRecord(self._too_long(length, slots))
        return length

    def _too_long(self, length: int, slots: list[Any]) -> str:
        sizes = {self._names[slot]: (slots[slot] or 0) >> 32 for slot, _, _ in self._heaped}
        largest = max(sizes, key=lambda name: sizes[name])
        return record_too_long(self.group.name, length, largest, sizes[largest])

    # ── decode ──

    def decode(self, data: Buffer, features: Sequence[str] | None = None) -> dict[str, object]:
        """Return the values of a record as Python objects.

        The checksum is the storage layer's business (`verify_record`) and not looked at here.

        Parameters
        ----------
        data : bytes
            A record; bytes after its length are ignored.
        features : sequence of str, optional
            Value features to return, in this order.  All, in declared order, when not given.

        Returns
        -------
        dict
            By feature name.  Null, younger than the record, or of a tombstone: None.

        Raises
        ------
        UnknownFeature
            When a name asked for is no value feature of the group.
        CorruptStore
            When the bytes are not a record of this group, or of a schema version that this
            definition of it does not know yet.
        """
        try:
            length, version, flags, _stores, key_id = _PREAMBLE.unpack_from(data, 4)
        except struct.error as error:
            raise self._corrupt(f"it has {len(data)} bytes only") from error
        plan = self._plans.get(version if features is None else (version, *features))
        if plan is None:
            plan = self._compile(version, features)
        if flags or key_id or length < plan.heap or length > len(data) or length & 7:
            return self._without_values(data, plan)
        try:
            return self._unpack(data, length, plan)
        except (ValueError, OverflowError) as error:
            raise self._corrupt(str(error)) from error

    def _unpack(self, data: Buffer, length: int, plan: _Plan) -> dict[str, object]:
        """Return the values of a record whose slots are known to be there."""
        slots = plan.unpack_from(data, plan.slots)
        values = dict(zip(plan.names, slots))  # noqa: B905 - strict= would cost 0.15 of its 0.8 us
        nulls = int.from_bytes(data[HEADER.size : plan.slots], "little") & plan.mask
        for name, bit, convert in plan.converters:
            if not nulls & bit:
                values[name] = convert(values[name])
        for name, bit, read in plan.heaped:
            if not nulls & bit:
                start = values[name] & 0xFFFF_FFFF
                stop = start + (values[name] >> 32)
                if start < plan.heap or stop > length:
                    raise ValueError(f'feature "{name}" points outside the record')
                values[name] = read(data, start, stop)
        if nulls:
            for name, bit in plan.null_bits:
                if nulls & bit:
                    values[name] = None
        return values if plan.in_order else {name: values.get(name) for name in plan.asked}

    def _without_values(self, data: Buffer, plan: _Plan) -> dict[str, object]:
        """Return nulls for a tombstone or fence; anything else that came here is corrupt."""
        header = read_header(data)
        if header.encryption_key_id:
            raise self._corrupt(f"it is encrypted with key {header.encryption_key_id}")
        if header.flags & ~FLAGS_KNOWN:
            raise self._corrupt(f"its flags {header.flags:#04x} are not known")
        if not header.flags or header.length != HEADER.size:
            raise self._corrupt(f"it has {header.length} bytes, not the {plan.heap} of its slots")
        return dict.fromkeys(plan.asked)

    def _compile(self, version: int, features: Sequence[str] | None) -> _Plan:
        """Return, and remember, the plan for a schema version and selection of features."""
        asked = self._check_names(features)
        problem = version_problem(self.group, version)
        if problem:
            raise self._corrupt(problem)
        stored = self.group.values_at(version)
        wanted = frozenset(asked)
        taken = [(slot, f.name, f.dtype) for slot, f in enumerate(stored) if f.name in wanted]
        place = layout(len(stored))
        names = tuple(name for _, name, _ in taken)
        plan = _Plan(
            slots=place.slots,
            heap=place.heap,
            unpack_from=struct.Struct(_selection_format(taken)).unpack_from,
            names=names,
            mask=sum(1 << slot for slot, _, _ in taken),
            null_bits=tuple((name, 1 << slot) for slot, name, _ in taken),
            converters=tuple(
                (name, 1 << slot, _CONVERTERS[dtype.kind])
                for slot, name, dtype in taken
                if dtype.kind in _CONVERTERS
            ),
            heaped=tuple(
                (name, 1 << slot, _heap_reader(dtype))
                for slot, name, dtype in taken
                if dtype.kind in HEAP_KINDS
            ),
            asked=asked,
            in_order=names == asked,
        )
        if len(self._plans) >= _PLANS_MAX:
            self._plans.clear()
        self._plans[version if features is None else (version, *features)] = plan
        return plan

    def _check_names(self, features: Sequence[str] | None) -> tuple[str, ...]:
        """Return the names asked for, each once; all value features as declared by default."""
        known = declared_value_names(self.group)
        for name in features or ():
            if name not in known:
                raise UnknownFeature(
                    f'Feature group "{self.group.name}" has no value feature "{name}".'
                    + did_you_mean(name, known)
                )
        return known if features is None else tuple(dict.fromkeys(features))

    def _corrupt(self, reason: str) -> CorruptStore:
        return CorruptStore(f'A record of feature group "{self.group.name}" is corrupt: {reason}.')


def _selection_format(taken: Sequence[tuple[int, str, DType]]) -> str:
    """Return the struct format that reads these slots, in order, and skips all others."""
    form, position = "<", 0
    for slot, _, dtype in taken:
        form += f"{8 * (slot - position)}x" + _slot_unpacked(dtype)
        position = slot + 1
    return form


def declared_value_names(group: FeatureGroup) -> tuple[str, ...]:
    """Return the names of the value features in declared order (slots are in order of ids)."""
    values = {feature.name for feature in group.value_features}
    return tuple(feature.name for feature in group.features if feature.name in values)


def version_problem(group: FeatureGroup, version: int) -> str | None:
    """Say why records of a schema version cannot be decoded by this definition, or None."""
    if version > group.version:
        return (
            f"it has schema version {version}, newer than the {group.version} known here; if "
            "features were added just now, read the definition again"
        )
    return None if version >= 1 else "it has schema version 0"


def record_too_long(group: str, length: int, feature: str, feature_length: int) -> str:
    """Say that a record is over the limit, in the words every path uses."""
    return (
        f'A record of feature group "{group}" takes {length:,} bytes; the limit is '
        f'{RECORD_BYTES_MAX:,}. Its largest feature is "{feature}" with {feature_length:,} bytes: '
        "store a reference to large things, not the thing."
    )
