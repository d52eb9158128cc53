"""Plans: what a request on a group needs, compiled once per version of its definition.

A request meets no catalog, no parsing and no schema: the plan knows how to make key bytes of what
a user gives, and how to make a record of what the store holds, with the order and the positions
of everything worked out beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from featurestore.dtypes import is_null
from featurestore.encoding.keys import ENCODERS, decode_key, encode_key
from featurestore.encoding.values import RecordCodec
from featurestore.errors import InvalidRecord, UnknownFeature, did_you_mean
from featurestore.event_time import to_datetime
from featurestore.record import KEY_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import tzinfo

    import pyarrow as pa

    from featurestore.dtypes import Physical
    from featurestore.encoding.keys import KeyHash
    from featurestore.engine.lookup import Selection
    from featurestore.engine.reader import AnswerShape
    from featurestore.schema import FeatureGroup

#: Types of which every Python value will do, or is refused when it is packed.
_PLAIN_TYPES = {"float64": float, "int64": int, "bool": bool, "string": str, "binary": bytes}

#: Kinds of keys that are encoded as they are given, once their range is checked.
_PLAIN_KEYS: dict[str, type] = {"int": int, "string": str}

#: Ever new selections of features must not grow a server for ever.
_SELECTIONS_MAX = 1000


class Plan:
    """A compiled group definition.

    Attributes
    ----------
    group : FeatureGroup
        The definition.
    key_hash : KeyHash
        The store's.
    codec : RecordCodec
        Values to bytes and back.
    key_dtypes : tuple of DType
        Of the identifier, in declared order.
    """

    def __init__(self, group: FeatureGroup, key_hash: KeyHash) -> None:
        self.group = group
        self.key_hash = key_hash
        self._prefix = group.id.to_bytes(4, "big")
        self.codec = RecordCodec(group)
        self.key_dtypes = tuple(feature.dtype for feature in group.key_features)
        self.names = tuple(feature.name for feature in group.features)
        kind = self.key_dtypes[0].kind
        self._only_type = _PLAIN_KEYS.get(kind) if len(self.key_dtypes) == 1 else None
        self._encode_only = ENCODERS[kind]
        outside = (*group.record_identifier, group.event_time)
        self._outside = frozenset(outside)
        # Mostly the identifier and then the event time are declared first, and no dict need be
        # put in order again.
        self._in_order = self.names[: len(outside)] == outside
        self.known_names = frozenset(self.names)
        self._value_names = [feature.name for feature in group.value_features]
        self._value_types = [_PLAIN_TYPES.get(str(f.dtype)) for f in group.value_features]
        self._selections: dict[tuple[str, ...], Selection] = {}
        self._shapes: dict[tuple[str, ...] | None, AnswerShape] = {}

    # ── keys ─────────────────────────────────────────────────────────────────────────────────

    def key(self, key: Any) -> tuple[bytes, list[Any]]:
        """Return key bytes and checked parts of a scalar, a tuple in declared order, or a dict.

        Raises
        ------
        InvalidRecord
            Wrong number of parts, wrong type, or null.
        """
        if type(key) is self._only_type:
            # The usual key: one part, and nothing to convert.
            part = self.key_dtypes[0].check(key, self.group.record_identifier[0])
            encoded = self._encode_only(part)
            if len(encoded) <= KEY_BYTES_MAX:
                return encoded, [part]
        names = self.group.record_identifier
        checked = []
        for name, dtype, part in zip(names, self.key_dtypes, self._parts(key), strict=True):
            if is_null(part):
                raise InvalidRecord(
                    f'"{name}" is part of the key of "{self.group.name}"; it is null.'
                )
            checked.append(dtype.check(part, name))
        return encode_key(checked, self.key_dtypes), checked

    def lmdb_key(self, key: bytes) -> bytes:
        """Return where the latest record of a key lies."""
        return self.key_hash.lmdb_key(self._prefix, key)

    def _parts(self, key: Any) -> Sequence[Any]:
        names = self.group.record_identifier
        if isinstance(key, Mapping):
            for name in key:
                if name not in names:
                    raise UnknownFeature(
                        f'"{name}" is no identifier of "{self.group.name}"; its key is '
                        f"({', '.join(names)}).{did_you_mean(str(name), names)}"
                    )
            return [key.get(name) for name in names]
        if len(names) == 1:
            return (key,)
        if isinstance(key, (tuple, list)) and len(key) == len(names):
            return key
        raise InvalidRecord(
            f'The key of "{self.group.name}" has {len(names)} parts, ({", ".join(names)}); '
            f"got {key!r}. Give a tuple in that order, or a dict."
        )

    def parts(self, key: bytes) -> list[Any]:
        """Return the parts of key bytes, as :meth:`key` gives them."""
        return list(decode_key(key, self.key_dtypes))

    # ── records on their way in ──────────────────────────────────────────────────────────────

    def slots(self, record: Mapping[str, Any], tz: str | tzinfo | None) -> list[Physical | None]:
        """Return the values of a record in the order of slots, each checked against its type.

        A value of exactly the type Python has for its feature is left to the codec to refuse.
        """
        slots: list[Any] = list(map(record.get, self._value_names))
        kinds = list(map(type, slots))
        if kinds != self._value_types:
            for slot, kind in enumerate(kinds):
                if kind is not self._value_types[slot]:
                    slots[slot] = self._checked(slot, slots[slot], tz)
        return slots

    def check_slots(self, record: Mapping[str, Any], tz: str | tzinfo | None) -> None:
        """Refuse whatever value of a record the codec has refused, by name."""
        for slot, name in enumerate(self._value_names):
            self._checked(slot, record.get(name), tz)

    def _checked(self, slot: int, value: Any, tz: str | tzinfo | None) -> Physical | None:
        feature = self.group.value_features[slot]
        return None if is_null(value) else feature.dtype.check(value, feature.name, tz=tz)

    # ── many records ─────────────────────────────────────────────────────────────────────────

    @cached_property
    def key_types(self) -> list[pa.DataType]:
        """Arrow types of the identifier."""
        return [dtype.to_arrow() for dtype in self.key_dtypes]

    def selection(self, names: tuple[str, ...]) -> Selection:
        """Return some value features as the kernels take them; compiled once."""
        found = self._selections.get(names)
        if found is None:
            from featurestore.engine.lookup import Selection

            if len(self._selections) >= _SELECTIONS_MAX:
                self._selections.clear()
            found = self._selections[names] = Selection(self.group, names)
        return found

    def answer_shape(self, features: Sequence[str] | None) -> AnswerShape:
        """Return the table that answers a batch which asks for these features, or for all."""
        asked = None if features is None else tuple(features)
        found = self._shapes.get(asked)
        if found is None:
            from featurestore.engine.reader import AnswerShape

            if len(self._shapes) >= _SELECTIONS_MAX:
                self._shapes.clear()
            found = self._shapes[asked] = AnswerShape(self.group, asked)
        return found

    # ── records ──────────────────────────────────────────────────────────────────────────────

    def check_features(self, features: Sequence[str]) -> None:
        """Refuse names that are no features of the group."""
        for name in features:
            self.group.feature(name)

    def record(
        self,
        parts: Sequence[Any],
        event_time_us: int,
        data: bytes,
        features: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Return a live record as Python values: all features in declared order, or those asked.

        Parameters
        ----------
        parts : sequence
            Checked parts of its key.
        event_time_us : int
            Its event time, microseconds.
        data : bytes
            The record; its checksum has been looked at.
        features : sequence of str, optional
            Features to return, in this order; checked names.
        """
        if features is not None and self._outside.isdisjoint(features):
            return self.codec.decode(data, features)
        group = self.group
        if self._only_type is not None:
            record = {group.record_identifier[0]: parts[0]}
        else:
            record = {
                name: dtype.to_python(part)
                for name, dtype, part in zip(
                    group.record_identifier, self.key_dtypes, parts, strict=True
                )
            }
        record[group.event_time] = to_datetime(event_time_us)
        if features is None:
            record |= self.codec.decode(data)
            if self._in_order:
                return record
            features = self.names
        else:
            inside = [name for name in features if name not in self._outside]
            record |= self.codec.decode(data, inside)
        return {name: record[name] for name in features}
