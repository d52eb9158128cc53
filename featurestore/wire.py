"""Values as JSON over HTTP: the rules, stated once, in both directions.

What people and programs in any language read and write:

=================  ======================================================================
type               JSON
=================  ======================================================================
bool, string       as they are
int8 … int64       a number; beyond ±(2**53 - 1) a string of digits, since half the JSON
                   readers of the world would round it
float32, float64   a number, the shortest that reads back the same; ``"NaN"``,
                   ``"Infinity"``, ``"-Infinity"``
timestamp          ``"2013-01-01T05:00:00Z"``, UTC, a fraction of six digits if there is one
date               ``"2013-01-01"``
binary             base64
list, vector       an array
null               ``null``; on the way in a name left out is null too
=================  ======================================================================

On the way in both spellings of a number are taken.  What a string means is decided by the type
of the feature: ``"7"`` is a string to a string feature and 7 to an int64.  A name given twice,
the bare words NaN and Infinity, and lone surrogates are refused.

**Exactly.**  :func:`featurestore.connect` must raise what ``fs.open`` raises, so it may not let
the server guess: ``float("nan")`` for a string feature is an error, and the text ``"NaN"`` is
not.  With ``exact=true`` a string is a string, and what JSON has no word for is an object with one
name that begins with ``$``, in requests and in answers::

    {"$float": "NaN"}   {"$time": "2013-01-01T05:00:00+01:00"}   {"$date": "2013-01-01"}
    {"$bytes": "AAE="}  {"$decimal": "1.50"}  {"$duration": "1500000"}   (microseconds)

No feature is an object, so the two forms cannot be mistaken for one another.

Tables go as Arrow IPC streams, where nothing has to be said about types.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from featurestore.dtypes import SAFE_INTEGER_MAX, DType, is_null
from featurestore.errors import InvalidInput, InvalidRecord
from featurestore.event_time import to_datetime, to_us
from featurestore.results import ErasureReceipt, PutResult, RecordResult

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.schema import Feature, FeatureGroup

ARROW = "application/vnd.apache.arrow.stream"
JSON_LINES = "application/x-ndjson"
PARQUET = "application/vnd.apache.parquet"
PROBLEM = "application/problem+json"

_INTEGER = re.compile(r"-?\d{1,39}", re.ASCII)
_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

Writer = Callable[[Any], Any]


# ── text ─────────────────────────────────────────────────────────────────────────────────────


def loads(data: bytes | str) -> Any:
    """Read JSON strictly: UTF-8, no name twice, no NaN, not too deep.

    Raises
    ------
    InvalidInput
        With what is wrong with it.

    Examples
    --------
    >>> loads('{"a": 1, "a": 2}')
    Traceback (most recent call last):
        ...
    featurestore.errors.InvalidInput: The JSON has the name "a" twice in one object.
    """
    try:
        text = data if isinstance(data, str) else str(data, "utf-8")
        return json.loads(text, object_pairs_hook=_once_each, parse_constant=_no_constant)
    except InvalidInput:
        raise
    except RecursionError:
        raise InvalidInput("The JSON is nested too deeply.") from None
    except ValueError as error:
        raise InvalidInput(f"The body is not JSON: {error}.") from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(f"The JSON has the name {json.dumps(twice)} twice in one object.")
    return found


def _no_constant(word: str) -> Any:
    raise InvalidInput(f'{word} is not JSON; a float is written "{word}", in quotes.')


# ── exactly: what a client sends ─────────────────────────────────────────────────────────────


def exact(value: Any) -> Any:  # noqa: PLR0911  one for each kind of value
    """Return a Python value as JSON that :func:`from_exact` reads back as the same value.

    Examples
    --------
    >>> exact({"at": datetime(2013, 1, 1, 5, tzinfo=UTC), "x": [math.inf, 1]})
    {'at': {'$time': '2013-01-01T05:00:00+00:00'}, 'x': [{'$float': 'Infinity'}, 1]}
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": _float_word(value)}
    if isinstance(value, datetime):
        return None if is_null(value) else {"$time": value.isoformat()}
    if isinstance(value, date):
        return {"$date": value.isoformat()}
    if isinstance(value, timedelta):
        return {"$duration": str(microseconds(value))}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {name: exact(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [exact(part) for part in value]
    return _exact_foreign(value)


def _exact_foreign(value: Any) -> Any:
    """Return a number of another library, or a subclass of Python's own, as JSON."""
    if is_null(value):
        return None
    if isinstance(value, Decimal):
        return {"$decimal": str(value)}
    if isinstance(value, str):
        return str(value)
    if type(value).__module__ == "numpy":
        if getattr(value, "dtype", None) is not None and value.dtype.kind == "M":
            times = [{"$time": str(part)} for part in value.reshape(-1)]
            return times if value.ndim else times[0]
        if hasattr(value, "tolist"):
            return exact(value.tolist())
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return exact(kind(value))
    raise InvalidRecord(f"{value!r:.100} is a {type(value).__name__}, which no feature can hold.")


def from_exact(value: Any) -> Any:
    r"""Return JSON with ``$`` objects as the Python values they stand for.

    Examples
    --------
    >>> from_exact([{"$bytes": "AAE="}, {"$float": "-Infinity"}])
    [b'\x00\x01', -inf]
    """
    if isinstance(value, list):
        return [from_exact(part) for part in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, word),) = value.items()
        read = _EXACT.get(name)
        if read is not None and isinstance(word, str):
            try:
                return read(word)
            except (ValueError, ArithmeticError, KeyError):
                raise InvalidRecord(f'{{"{name}": {word!r:.100}}} cannot be read.') from None
    return {name: from_exact(part) for name, part in value.items()}


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


_EXACT: dict[str, Callable[[str], Any]] = {
    "$float": _FLOATS.__getitem__,
    "$time": datetime.fromisoformat,
    "$date": date.fromisoformat,
    "$bytes": _from_base64,
    "$decimal": Decimal,
    "$duration": lambda word: timedelta(microseconds=int(word)),
}


# ── by type: what people send ────────────────────────────────────────────────────────────────


def read_value(dtype: DType, value: Any) -> Any:
    r"""Return what a JSON value means to a feature of this type; the engine checks it after that.

    Examples
    --------
    >>> from featurestore.dtypes import parse_dtype
    >>> read_value(parse_dtype("int64"), "9007199254740993")
    9007199254740993
    >>> read_value(parse_dtype("string"), "7"), read_value(parse_dtype("binary"), "AAE=")
    ('7', b'\x00\x01')
    """
    kind = dtype.kind
    if isinstance(value, str):
        if kind in ("int", "float") and _INTEGER.fullmatch(value):
            return int(value)
        if kind == "float":
            return _FLOATS.get(value, value)
        if kind == "binary":
            try:
                return _from_base64(value)
            except (binascii.Error, ValueError):
                raise InvalidRecord(f"{value!r:.60} is not base64, which binary is.") from None
    if isinstance(value, list) and dtype.element is not None:
        element = dtype.element
        return [read_value(element, part) for part in value]
    return from_exact(value) if isinstance(value, dict) else value


def read_record(group: FeatureGroup, record: Any, *, exactly: bool = False) -> Any:
    """Return a record from JSON; names that are no features are left for the engine to refuse."""
    if exactly or not isinstance(record, dict):
        return from_exact(record)
    types = {feature.name: feature.dtype for feature in group.features}
    return {
        name: read_value(types[name], value) if name in types else from_exact(value)
        for name, value in record.items()
    }


def read_key(group: FeatureGroup, key: Any, *, exactly: bool = False) -> Any:
    """Return a key from JSON: a scalar, an array in declared order, or an object by name."""
    if exactly:
        return tuple(from_exact(key)) if isinstance(key, list) else from_exact(key)
    if isinstance(key, dict):
        named = {feature.name: feature.dtype for feature in group.key_features}
        if named.keys() & key.keys():
            return {n: read_value(named[n], v) if n in named else v for n, v in key.items()}
        return from_exact(key)
    dtypes = [feature.dtype for feature in group.key_features]
    if isinstance(key, list) and len(key) == len(dtypes):
        parts = [read_value(dtype, part) for dtype, part in zip(dtypes, key, strict=True)]
        return tuple(parts) if len(parts) > 1 else parts[0]
    return read_value(dtypes[0], key) if len(dtypes) == 1 else from_exact(key)


def read_keys(group: FeatureGroup, keys: list[Any], *, exactly: bool = False) -> list[Any]:
    """Return keys from JSON; plain integers and strings are what they are."""
    kinds = [feature.dtype.kind for feature in group.key_features]
    plain_type: type | None = {"int": int, "string": str}.get(kinds[0]) if len(kinds) == 1 else None
    if plain_type is not None and all(type(key) is plain_type for key in keys):
        return keys
    return [read_key(group, key, exactly=exactly) for key in keys]


def read_key_words(group: FeatureGroup, words: Sequence[str]) -> Any:
    """Return the key that words of a query string give, one for each part in declared order.

    Examples
    --------
    >>> from featurestore.schema import define
    >>> seats = define("seats", record_identifier=["row", "window"], event_time="at", id=1,
    ...     features={"row": "int8", "window": "bool", "at": "timestamp"})
    >>> read_key_words(seats, ["12", "true"])
    (12, True)
    """
    if len(words) != len(group.key_features):
        raise InvalidRecord(
            f'The key of "{group.name}" has {len(group.key_features)} parts, '
            f"({', '.join(group.record_identifier)}); {len(words)} were given. Write one key= for "
            "each, in that order."
        )
    if len(words) == 1:
        return _read_word(group.key_features[0].dtype, words[0])
    return tuple(
        _read_word(feature.dtype, word)
        for feature, word in zip(group.key_features, words, strict=True)
    )


def _read_word(dtype: DType, word: str) -> Any:
    if dtype.kind == "bool":
        return {"true": True, "false": False}.get(word, word)
    return read_value(dtype, word)


# ── what a server answers ────────────────────────────────────────────────────────────────────


class RecordWriter:
    """Makes a decoded record fit for a JSON encoder that knows dates and times (orjson).

    Compiled once for the features of a group, so that a record of plain values costs one look at
    each float.

    Parameters
    ----------
    features : iterable of Feature
        Of the records; those of other names are left as they are.
    exactly : bool
        Write the form with ``$`` objects.
    """

    def __init__(self, features: Iterable[Feature], *, exactly: bool = False) -> None:
        features = list(features)
        self._floats = [f.name for f in features if f.dtype.kind == "float"]
        # One C call for all of them; of a single name itemgetter gives no tuple.
        self._all_floats = itemgetter(*self._floats, *self._floats[:1]) if self._floats else None
        writers = ((f.name, writer_of(f.dtype, exactly=exactly)) for f in features)
        self._others = [
            (name, writer)
            for name, writer in writers
            if writer is not None and name not in self._floats
        ]
        self._exactly = exactly
        #: Whether all but odd floats and large integers are as JSON takes them.
        self.is_plain = not exactly and all(w is _integer_out for _, w in self._others)

    def may_have_odd_floats(self, record: dict[str, Any]) -> bool:
        """Return whether some float may be NaN or infinite: of nearly all records, no."""
        if self._all_floats is None:
            return False
        try:
            # What is left out are nulls and zeros; anything odd makes the sum odd.
            return not math.isfinite(sum(filter(None, self._all_floats(record))))
        except KeyError:  # only some features were asked for
            return True

    def write(self, record: dict[str, Any]) -> dict[str, Any]:
        """Change the values of a record in place where JSON needs another; returns it."""
        for name in self._floats if self.may_have_odd_floats(record) else ():
            value = record.get(name)
            # NaN and both infinities give NaN here, which is no zero.
            if value is not None and value - value != 0.0:
                word = _float_word(value)
                record[name] = {"$float": word} if self._exactly else word
        for name, writer in self._others:
            value = record.get(name)
            if value is not None:
                record[name] = writer(value)
        return record


def writer_of(dtype: DType, *, exactly: bool = False) -> Writer | None:
    """Return what a value of this type goes through; None if JSON takes it as it is."""
    if dtype.element is not None:
        element = writer_of(dtype.element, exactly=exactly)
        if element is None:
            return None
        return lambda values: [None if value is None else element(value) for value in values]
    if exactly:
        return None if dtype.kind in ("bool", "int", "string") else _exact_out
    if dtype.kind == "int":
        return _integer_out if dtype.bits == 64 else None
    writers: dict[str, Writer] = {"float": _float_out, "binary": _base64_out}
    return writers.get(dtype.kind)


def _exact_out(value: Any) -> Any:
    return exact(value)


def _integer_out(value: int) -> int | str:
    return value if -SAFE_INTEGER_MAX <= value <= SAFE_INTEGER_MAX else str(value)


def _float_out(value: float) -> float | str:
    return value if value - value == 0.0 else _float_word(value)


def _float_word(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _base64_out(value: bytes) -> str:
    return base64.b64encode(value).decode()


def plain(value: Any) -> Any:
    """Return any value of an answer in the form for people; times as text.

    Examples
    --------
    >>> plain([2**60, math.nan, b"ab", datetime(2013, 1, 1, tzinfo=UTC), timedelta(seconds=1)])
    ['1152921504606846976', 'NaN', 'YWI=', '2013-01-01T00:00:00Z', 1000000]
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    for kind, writer in _PLAIN:
        if isinstance(value, kind):
            return writer(value)
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return str(value)


def _time_out(value: datetime) -> str:
    zone = "" if value.tzinfo is None else "Z"
    moment = value if value.tzinfo is None else value.astimezone(UTC)
    return moment.replace(tzinfo=None).isoformat() + zone


def microseconds(value: timedelta) -> int:
    """Return a duration as a whole number of microseconds."""
    return value // timedelta(microseconds=1)


_PLAIN: tuple[tuple[type, Writer], ...] = (
    (int, _integer_out),
    (float, _float_out),
    (bytes, _base64_out),
    (datetime, _time_out),
    (date, date.isoformat),
    (timedelta, microseconds),
    (Decimal, str),
)


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return an Arrow table as JSON rows, in the form for people."""
    return [plain(row) for row in table.to_pylist()]


# ── results of verbs ─────────────────────────────────────────────────────────────────────────


def put_result(result: PutResult) -> dict[str, Any]:
    """Return what became of a record as JSON."""
    return {
        "seq": result.seq,
        "outcome": result.outcome,
        "replayed": result.replayed,
        "write_time": None if result.write_time is None else _time_out(result.write_time),
        "expires_at": None if result.expires_at is None else _time_out(result.expires_at),
    }


def read_put_result(found: Mapping[str, Any]) -> PutResult:
    """Return what :func:`put_result` wrote."""
    return PutResult(
        found["seq"],
        found["outcome"],
        found["replayed"],
        read_time(found["write_time"]),
        read_time(found["expires_at"]),
    )


def erasure_receipt(receipt: ErasureReceipt) -> dict[str, Any]:
    """Return what an erasure has done as JSON; the hash in digits, for it has 64 bits."""
    found = {name: getattr(receipt, name) for name in ErasureReceipt.__dataclass_fields__}
    return found | {"at": _time_out(receipt.at), "key_hash": str(receipt.key_hash)}


def read_erasure_receipt(found: Mapping[str, Any]) -> ErasureReceipt:
    """Return what :func:`erasure_receipt` wrote."""
    key_hash = int(found["key_hash"])
    if not -(2**63) <= key_hash < 2**63:
        raise InvalidInput(f"{key_hash} is no key_hash of an erasure: it has 64 bits and a sign.")
    at = to_datetime(to_us(found["at"], what="at"))
    facts = {"at": at, "key_hash": key_hash, "waiting": tuple(found["waiting"])}
    return ErasureReceipt(**{**found, **facts})


def read_record_result(found: Mapping[str, Any]) -> RecordResult:
    """Return the answer of a look-up, asked for in the exact form."""
    from featurestore.record import Status

    age = found["age_us"]
    return RecordResult(
        status=Status(found["status"]),
        record=from_exact(found["record"]),
        event_time=read_time(found["event_time"]),
        age=None if age is None else timedelta(microseconds=age),
        write_seq=found["write_seq"],
        expires_at=read_time(found["expires_at"]),
    )


def read_time(text: str | None) -> datetime | None:
    """Return a time of an answer; aware, UTC."""
    if text is None:
        return None
    return datetime.fromisoformat(text).astimezone(UTC)
