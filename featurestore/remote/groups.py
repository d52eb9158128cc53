"""Definitions over HTTP: feature groups and feature views."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featurestore.errors import UnknownFeatureGroup, did_you_mean
from featurestore.event_time import duration_us
from featurestore.feature_view import FeatureView, expand, result_columns
from featurestore.remote.connection import Connection, duration, word
from featurestore.schema import FeatureGroup, checked_retention_us, define

if TYPE_CHECKING:
    from datetime import timedelta

    import pyarrow as pa

    from featurestore.dtypes import DType
    from featurestore.feature_view import FeatureLookup

_KEEP: Any = object()
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class Groups(Connection):
    """The verbs of definitions."""

    def create_feature_group(
        self,
        name: str,
        *,
        record_identifier: str | Sequence[str],
        event_time: str,
        features: Mapping[str, str | DType] | pa.Schema | None = None,
        like: Any = None,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        exist_ok: bool = False,
        ttl: str | timedelta | None = None,
        max_future: str | timedelta | None = "1d",
        retention: str | timedelta | None = None,
        online: bool = True,
        offline: bool = True,
        feature_descriptions: Mapping[str, str] | None = None,
    ) -> FeatureGroup:
        """Define a feature group; see :meth:`FeatureStore.create_feature_group`."""
        self._require_writable()
        wanted = define(
            name,
            record_identifier=record_identifier,
            event_time=event_time,
            features=features,
            like=like,
            id=0,
            ttl=ttl,
            max_future=max_future,
            retention=retention,
            online=online,
            offline=offline,
            description=description,
            tags=tags,
            feature_descriptions=feature_descriptions,
        )
        asked = {
            "name": wanted.name,
            "record_identifier": list(wanted.record_identifier),
            "event_time": wanted.event_time,
            "features": {f.name: str(f.dtype) for f in wanted.features},
            "description": wanted.description,
            "tags": dict(wanted.tags),
            "exist_ok": exist_ok,
            "ttl": duration(wanted.ttl_us),
            "max_future": duration(wanted.max_future_us),
            "retention": duration(wanted.retention_us),
            "online": online,
            "offline": offline,
            "feature_descriptions": {f.name: f.description for f in wanted.features},
        }
        return FeatureGroup.from_json(self._write("POST", "/v1/groups", asked))

    def list_feature_groups(self) -> list[FeatureGroup]:
        """Return all feature groups that the API key may see, by name."""
        return [FeatureGroup.from_json(group) for group in self._json("GET", "/v1/groups")]

    def describe_feature_group(self, name: str) -> FeatureGroup:
        """Return the definition of a feature group."""
        return FeatureGroup.from_json(self._json("GET", self._group(name)))

    def search(
        self, text: str = "", *, tags: Mapping[str, str] | None = None
    ) -> list[FeatureGroup]:
        """Return the groups that mention a text and carry some tags."""
        query = [("text", text), *(("tag", f"{n}={v}") for n, v in (tags or {}).items())]
        found = self._json("GET", "/v1/groups", query=query)
        return [FeatureGroup.from_json(group) for group in found]

    def update_feature_group(
        self,
        name: str,
        *,
        add_features: Mapping[str, str | DType] | None = None,
        feature_descriptions: Mapping[str, str] | None = None,
        feature_tags: Mapping[str, Mapping[str, str]] | None = None,
        ttl: str | timedelta | None = _KEEP,
        max_future: str | timedelta | None = _KEEP,
        retention: str | timedelta | None = _KEEP,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> FeatureGroup:
        """Add features, or change settings for later writes."""
        self._require_writable()
        changes: dict[str, Any] = {}
        if add_features is not None:
            changes["add_features"] = {n: str(dtype) for n, dtype in add_features.items()}
        if feature_descriptions is not None:
            changes["feature_descriptions"] = dict(feature_descriptions)
        if feature_tags is not None:
            changes["feature_tags"] = {name: dict(tags) for name, tags in feature_tags.items()}
        if ttl is not _KEEP:
            changes["ttl"] = None if ttl is None else duration(duration_us(ttl, what="ttl"))
        if max_future is not _KEEP:
            changes["max_future"] = (
                None if max_future is None else duration(duration_us(max_future, what="max_future"))
            )
        if retention is not _KEEP:
            changes["retention"] = duration(checked_retention_us(retention))
        if description is not None:
            changes["description"] = description
        if tags is not None:
            changes["tags"] = dict(tags)
        return FeatureGroup.from_json(self._write("PATCH", self._group(name), changes))

    def delete_feature_group(self, name: str) -> None:
        """Delete a feature group with all its records, online and offline."""
        self._write("DELETE", self._group(name))

    # ── feature views ────────────────────────────────────────────────────────────────────────

    def create_feature_view(
        self, name: str, features: Any, *, description: str = "", exist_ok: bool = False
    ) -> FeatureView:
        """Name a selection of features, for joins and lookups alike."""
        self._require_writable()
        lookups = expand(features, self.describe_feature_view)
        view = FeatureView(name, lookups, description)
        asked = {
            "name": view.name,
            "features": [lookup.to_json() for lookup in lookups],
            "description": description,
            "exist_ok": exist_ok,
        }
        return FeatureView.from_json(self._write("POST", "/v1/feature-views", asked))

    def list_feature_views(self) -> list[FeatureView]:
        """Return all feature views, by name."""
        return [FeatureView.from_json(view) for view in self._json("GET", "/v1/feature-views")]

    def describe_feature_view(self, name: str) -> FeatureView:
        """Return a feature view."""
        return FeatureView.from_json(self._json("GET", f"/v1/feature-views/{word(name)}"))

    def delete_feature_view(self, name: str) -> None:
        """Delete a feature view."""
        self._write("DELETE", f"/v1/feature-views/{word(name)}")

    # ── what lookups read ────────────────────────────────────────────────────────────────────

    def _columns_read(
        self, lookups: Sequence[FeatureLookup], taken: Sequence[str], more: Sequence[str]
    ) -> list[str]:
        """Return those columns of a table from which lookups read keys and, with more, times.

        Raises
        ------
        ColumnClash
            An answer would have the name of a column that is there.
        """
        groups = dict.fromkeys(lookup.group for lookup in lookups)
        known = {name: self.describe_feature_group(name) for name in groups}
        result_columns(lookups, known, taken=taken)
        wanted = [c for lookup in lookups for c in lookup.keys(known[lookup.group]).values()]
        return [name for name in dict.fromkeys([*wanted, *more]) if name in taken]

    def _group(self, name: Any) -> str:
        """Return the path of a group; a name that none can have is not sent."""
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            known = [group.name for group in self.list_feature_groups()]
            raise UnknownFeatureGroup(
                f'There is no feature group "{name}".{did_you_mean(str(name), known)}'
            )
        return f"/v1/groups/{name}"
