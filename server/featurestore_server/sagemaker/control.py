"""The operations on feature groups: define, describe, change, list, search, tag.

Each is one call on a thread: definitions are few, and changing one waits for a commit.  Changes
of a definition are functions of the definition, applied by the transaction that writes it, so
two tags added at once are both there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featurestore.engine import groups as catalog
from featurestore.errors import (
    FeatureGroupExists,
    InvalidInput,
    UnknownFeature,
    UnknownFeatureGroup,
)
from featurestore_server.sagemaker import model, search
from featurestore_server.sagemaker.definitions import definition, is_of_request, updated
from featurestore_server.sagemaker.groups import (
    View,
    arn_of,
    checked_tags,
    is_shown,
    name_of,
    pairs,
    require_shown,
    unpaired,
)
from featurestore_server.sagemaker.pages import page

if TYPE_CHECKING:
    from featurestore.schema import FeatureGroup
    from featurestore_server.access import Door
    from featurestore_server.sagemaker.runtime import Call

TAGS_MAX = 50
PARAMETERS_MAX = 25

Change = Callable[["FeatureGroup"], "FeatureGroup"]


class Control:
    """Answers what ``sagemaker`` asks about feature groups.

    Attributes
    ----------
    operations : dict
        By name; each takes a :class:`Call` and returns the members of its answer.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self.operations: dict[str, Callable[[Call], dict[str, Any]]] = {
            "CreateFeatureGroup": self.create,
            "DescribeFeatureGroup": self.describe,
            "UpdateFeatureGroup": self.update,
            "DeleteFeatureGroup": self.delete,
            "ListFeatureGroups": self.list_groups,
            "DescribeFeatureMetadata": self.describe_feature,
            "UpdateFeatureMetadata": self.update_feature,
            "Search": self.search,
            "AddTags": self.add_tags,
            "ListTags": self.list_tags,
            "DeleteTags": self.delete_tags,
        }

    # ── groups ───────────────────────────────────────────────────────────────────────────────

    def create(self, call: Call) -> dict[str, Any]:
        """Answer CreateFeatureGroup."""
        asked = model.CONTROL["CreateFeatureGroup"].check(call.asked)
        name, now_us = asked["FeatureGroupName"], self._door.now_us()
        with self._door.enter(call.caller, "create_feature_group", [name], call.request_id):
            wanted = definition(asked, now_us, call.request_id)
            try:
                catalog.create_group(self._door.database, wanted, now_us, exist_ok=False)
            except FeatureGroupExists:
                known = self._door.database.catalog().groups.get(name)
                if known is None or not is_of_request(known, call.request_id):
                    raise
        return {"FeatureGroupArn": arn_of(name, call.region)}

    def describe(self, call: Call) -> dict[str, Any]:
        """Answer DescribeFeatureGroup; all features fit on one page, so its token is empty."""
        asked = model.CONTROL["DescribeFeatureGroup"].check(call.asked)
        view = self._view(call, asked["FeatureGroupName"])
        return view.described(call.region) | {"NextToken": ""}

    def _view(self, call: Call, name_or_arn: str) -> View:
        name = name_of(name_or_arn)
        store = self._door.reading(call.caller, "describe_feature_group", [name])
        return View(require_shown(store.describe_feature_group(name)))

    def _change(self, call: Call, name_or_arn: str, change: Change) -> None:
        name = name_of(name_or_arn)
        with self._door.enter(call.caller, "update_feature_group", [name], call.request_id):
            now_us = self._door.now_us()
            catalog.update_group(self._door.database, name, change, now_us)

    def update(self, call: Call) -> dict[str, Any]:
        """Answer UpdateFeatureGroup."""
        asked = model.CONTROL["UpdateFeatureGroup"].check(call.asked)
        given = asked["FeatureGroupName"]
        self._change(call, given, lambda group: updated(group, asked, call.request_id))
        return {"FeatureGroupArn": arn_of(name_of(given), call.region)}

    def delete(self, call: Call) -> dict[str, Any]:
        """Answer DeleteFeatureGroup."""
        asked = model.CONTROL["DeleteFeatureGroup"].check(call.asked)
        name = asked["FeatureGroupName"]
        with self._door.enter(
            call.caller, "delete_feature_group", [name], call.request_id
        ) as store:
            require_shown(store.describe_feature_group(name))
            store.delete_feature_group(name)
        return {}

    def _visible(self, call: Call) -> list[View]:
        store = self._door.reading(call.caller, "list_feature_groups", ())
        return [
            View(group)
            for group in store.list_feature_groups()
            if is_shown(group) and call.caller.may_verb("describe_feature_group", group.name)
        ]

    def list_groups(self, call: Call) -> dict[str, Any]:
        """Answer ListFeatureGroups."""
        asked = model.CONTROL["ListFeatureGroups"].check(call.asked)
        rows = [_summary(view.described(call.region)) for view in self._visible(call)]
        found = [row for row in rows if _is_listed(row, asked)]
        by = asked.get("SortBy", "CreationTime")

        def key(row: dict[str, Any]) -> list[Any]:
            if by == "CreationTime":
                return [row["CreationTime"], row["FeatureGroupName"]]
            first = {
                "Name": "",
                "FeatureGroupStatus": row["FeatureGroupStatus"],
                "OfflineStoreStatus": row["OfflineStoreStatus"]["Status"],
            }[by]
            return [first, row["FeatureGroupName"]]

        descending = asked.get("SortOrder") == "Descending"
        answer = page(found, key, asked, descending=descending)
        return {"FeatureGroupSummaries": answer.entries} | _token(answer.token)

    # ── features ─────────────────────────────────────────────────────────────────────────────

    def describe_feature(self, call: Call) -> dict[str, Any]:
        """Answer DescribeFeatureMetadata."""
        asked = model.CONTROL["DescribeFeatureMetadata"].check(call.asked)
        view = self._view(call, asked["FeatureGroupName"])
        return view.metadata(_feature(view, asked["FeatureName"]), call.region)

    def update_feature(self, call: Call) -> dict[str, Any]:
        """Answer UpdateFeatureMetadata."""
        asked = model.CONTROL["UpdateFeatureMetadata"].check(call.asked)
        additions = unpaired(asked.get("ParameterAdditions", ()), "ParameterAdditions")
        removals = asked.get("ParameterRemovals", ())
        if both := set(additions) & set(removals):
            raise InvalidInput(f"The parameter {min(both)!r} is added and removed at once.")

        def change(group: FeatureGroup) -> FeatureGroup:
            feature = _feature(View(require_shown(group)), asked["FeatureName"])
            kept = {key: v for key, v in feature.tags.items() if key not in removals}
            tags = kept | additions
            if len(tags) > PARAMETERS_MAX:
                raise InvalidInput(f"A feature has at most {PARAMETERS_MAX} parameters.")
            told = {feature.name: asked.get("Description", feature.description)}
            return group.with_descriptions(told, {feature.name: tags})

        self._change(call, asked["FeatureGroupName"], change)
        return {}

    # ── search ───────────────────────────────────────────────────────────────────────────────

    def search(self, call: Call) -> dict[str, Any]:
        """Answer Search."""
        asked = model.CONTROL["Search"].check(call.asked)
        resource = asked["Resource"]
        test = search.compiled(asked.get("SearchExpression"))
        if resource == "FeatureGroup":
            rows = [_searched(view, call.region) for view in self._visible(call)]
        elif resource == "FeatureMetadata":
            rows = [
                view.metadata(feature, call.region)
                for view in self._visible(call)
                for feature in view.features
            ]
        else:
            raise InvalidInput(
                f"Search knows FeatureGroup and FeatureMetadata here, no {resource}."
            )
        if asked.get("CrossAccountFilterOption") == "CrossAccount":
            rows = []  # nobody shares anything with this store
        found = [row for row in rows if test(row)]
        by = asked.get("SortBy", "LastModifiedTime")

        def key(row: dict[str, Any]) -> list[Any]:
            values = [
                one for one in search.values_at(row, by) if isinstance(one, str | int | float)
            ]
            # Numbers before text, what has no such property first of all.
            first = values[0] if values else ""
            number = -1.0 if not values else float(first) if not isinstance(first, str) else 0.0
            text = first if isinstance(first, str) else ""
            name = f"{row['FeatureGroupName']}/{row.get('FeatureName', '')}"
            return [bool(text), number, text, name]

        descending = asked.get("SortOrder", "Descending") == "Descending"
        answer = page(found, key, asked, descending=descending)
        return {
            "Results": [{resource: row} for row in answer.entries],
            "TotalHits": {"Value": len(found), "Relation": "EqualTo"},
        } | _token(answer.token)

    # ── tags ─────────────────────────────────────────────────────────────────────────────────

    def add_tags(self, call: Call) -> dict[str, Any]:
        """Answer AddTags."""
        asked = model.CONTROL["AddTags"].check(call.asked)
        more = checked_tags(asked["Tags"])
        now: dict[str, str] = {}

        def change(group: FeatureGroup) -> FeatureGroup:
            now.clear()
            now.update({**require_shown(group).tags, **more})
            if len(now) > TAGS_MAX:
                raise InvalidInput(f"A FeatureGroup has at most {TAGS_MAX} tags.")
            return replace(group, tags=dict(now))

        self._change(call, _tagged(asked["ResourceArn"]), change)
        return {"Tags": pairs(now)}

    def list_tags(self, call: Call) -> dict[str, Any]:
        """Answer ListTags."""
        asked = model.CONTROL["ListTags"].check(call.asked)
        view = self._view(call, _tagged(asked["ResourceArn"]))
        answer = page(pairs(view.group.tags), lambda pair: [pair["Key"]], asked)
        return {"Tags": answer.entries} | _token(answer.token)

    def delete_tags(self, call: Call) -> dict[str, Any]:
        """Answer DeleteTags."""
        asked = model.CONTROL["DeleteTags"].check(call.asked)
        keys = set(asked["TagKeys"])

        def change(group: FeatureGroup) -> FeatureGroup:
            tags = require_shown(group).tags.items()
            return replace(group, tags={key: value for key, value in tags if key not in keys})

        self._change(call, _tagged(asked["ResourceArn"]), change)
        return {}


def _token(token: str | None) -> dict[str, str]:
    return {} if token is None else {"NextToken": token}


def _feature(view: View, name: str) -> Any:
    """Return a feature; one that is not there is a resource not found, as the group would be."""
    try:
        return view.feature(name)
    except UnknownFeature as error:
        raise UnknownFeatureGroup(str(error)) from None


def _tagged(arn: str) -> str:
    """Return the ARN of a group that tags are asked of; nothing else here has any."""
    if arn.rpartition(":")[2].partition("/")[0] != "feature-group":
        raise UnknownFeatureGroup(
            f"There is no resource {arn}: only feature groups have tags here."
        )
    return arn


def _summary(described: Mapping[str, Any]) -> dict[str, Any]:
    names = ("FeatureGroupName", "FeatureGroupArn", "CreationTime", "FeatureGroupStatus",
             "OfflineStoreStatus")  # fmt: skip
    return {name: described[name] for name in names}


def _searched(view: View, region: str) -> dict[str, Any]:
    """Return a group as Search has it: with its tags, and without its throughput."""
    described = view.described(region)
    del described["ThroughputConfig"]
    return described | {"Tags": pairs(view.group.tags)}


def _is_listed(row: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    return (
        asked.get("NameContains", "").casefold() in row["FeatureGroupName"].casefold()
        and row["FeatureGroupStatus"] == asked.get("FeatureGroupStatusEquals", "Created")
        and row["OfflineStoreStatus"]["Status"]
        == asked.get("OfflineStoreStatusEquals", row["OfflineStoreStatus"]["Status"])
        and row["CreationTime"] > asked.get("CreationTimeAfter", -float("inf"))
        and row["CreationTime"] < asked.get("CreationTimeBefore", float("inf"))
    )
