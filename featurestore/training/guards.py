"""Guards against leaks: a feature that knows the answer makes every model look good but the served.

==============  ==================================================================================
own group       a group that has a feature named as the label, or that ``label_group=`` names, is
                refused: it was written by whoever knew the answer.  ``allow=["group"]`` reads it
                all the same
too young       with ``cutoff="2h"`` the question is asked two hours before the label's time; a
                record dated in these two hours is refused, since nobody has it when asked.
                ``lag={"group": "2h"}`` looks that much earlier
too good        a single feature that tells the label with an AUC above 0.98 is warned of
==============  ==================================================================================

The join itself keeps the first of all rules: nothing dated after ``label time - delay`` is seen.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from featurestore.errors import LeakFound
from featurestore.event_time import format_duration

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from featurestore.feature_view import FeatureLookup
    from featurestore.schema import FeatureGroup

#: A single feature that tells the label better than this is suspicious.
AUC_MAX = 0.98


class LeakWarning(UserWarning):
    """A feature of a training set is suspiciously good."""


def refuse_own_group(
    lookups: Sequence[FeatureLookup],
    groups: Mapping[str, FeatureGroup],
    label: str | None,
    label_group: str | None,
    allowed: Collection[str],
) -> None:
    """Refuse to read the group that the label comes from.

    Raises
    ------
    LeakFound
        Unless the group is allowed by name.
    """
    for lookup in lookups:
        if lookup.group in allowed:
            continue
        names = {feature.name for feature in groups[lookup.group].features}
        if lookup.group == label_group or label in names:
            why = "is where the label comes from"
            if lookup.group != label_group:
                why = f'has a feature "{label}", as the label is called'
            raise LeakFound(
                f'Feature group "{lookup.group}" {why}: its records know the answer. Leave it '
                f'out, or say allow=["{lookup.group}"] if they are dated when it became known.'
            )


def refuse_young(
    reports: Sequence[Mapping[str, Any]], cutoff_us: int, allowed: Collection[str]
) -> None:
    """Refuse records that did not exist yet when the question is asked.

    Parameters
    ----------
    reports : sequence of mapping
        For each reading of a group: ``group``, ``found`` and ``younger`` (rows), ``min_age_us``.
    cutoff_us : int
        How long before the label's time the question is asked.
    allowed : collection of str
        Groups that may.

    Raises
    ------
    LeakFound
        With the group, the share of rows, and the cure.
    """
    for report in reports:
        group, younger = report["group"], report["younger"]
        if younger and group not in allowed:
            before = format_duration(cutoff_us)
            raise LeakFound(
                f'{younger / report["found"]:.1%} of the records taken from "{group}" are younger '
                f"than the cut-off allows: the question is asked {before} before the label's time, "
                f"the youngest is {format_duration(report['min_age_us'])} older than it. Say "
                f'lag={{"{group}": "{before}"}} to look that much earlier, or '
                f'allow=["{group}"] if all of it is known in advance.'
            )


def warn_of_good(aucs: Mapping[str, float | None], allowed: Collection[str]) -> None:
    """Warn of features that alone tell the label."""
    for name, auc in aucs.items():
        if auc is not None and auc > AUC_MAX and name not in allowed:
            warnings.warn(
                f'"{name}" alone tells the label with an AUC of {auc:.3f}. Features that good are '
                "mostly leaks: look at what stamps its records. If it is right, say "
                f'allow=["{name}"].',
                LeakWarning,
                stacklevel=4,
            )
