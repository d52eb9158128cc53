"""The quality report of a training set: what one should look at before training on it."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from featurestore.event_time import format_duration, format_us
from featurestore.training.guards import AUC_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from featurestore.training.training_set import TrainingSet

_NULLS_MANY = 0.5
_COLUMNS = ("feature", "type", "null", "mean", "std", "min", "max", "AUC alone")
_READINGS = ("group", "present", "expired", "deleted", "missing", "youngest", "mean age", "oldest")


class QualityReport:
    """Figures of a training set and what is remarkable in them; shows itself as text and as HTML.

    Attributes
    ----------
    remarks : list of str
        Sentences about what may be wrong; empty when nothing is.
    """

    def __init__(self, training_set: TrainingSet) -> None:
        self._set = training_set
        self._layout = training_set.layout
        self._profile = training_set.profile
        self.remarks = list(self._remarks())

    def to_dict(self) -> dict[str, Any]:
        """Return the figures."""
        return {**self._profile, "remarks": self.remarks}

    # ── what is remarkable ───────────────────────────────────────────────────────────────────

    def _remarks(self) -> Iterator[str]:
        figures = self._profile["columns"]
        for column in self._layout.features:
            yield from self._remarks_on(column.name, figures[column.name])
        label = self._layout.label
        if label is not None and figures[label.name]["min"] == figures[label.name]["max"]:
            yield f'the label "{label.name}" is the same in all rows'
        if self._profile["repeated_rows"]:
            yield (
                f"{self._profile['repeated_rows']:,} rows ask for the keys and the time of another"
            )
        for reading in self._profile["readings"]:
            if not reading["found"]:
                yield f'no record of "{reading["reading"]}" was found for any row'
        others = [c.name for c in self._layout.columns if c.role == "other"]
        asked = [name for name in others if name in self._layout.plan["features"]]
        if asked:
            yield f"not numbers, so not in the matrix: {', '.join(asked)}"

    def _remarks_on(self, name: str, found: dict[str, Any]) -> Iterator[str]:
        rows, nulls = self._profile["rows"], found["nulls"]
        if (found.get("auc") or 0) > AUC_MAX:
            yield f'"{name}" alone tells the label (AUC {found["auc"]:.3f}): a leak?'
        if nulls == rows:
            yield f'"{name}" is null in every row'
        elif nulls > _NULLS_MANY * rows:
            yield f'"{name}" is null in {nulls / rows:.0%} of the rows'
        elif not nulls and found["min"] == found["max"] and not found["nans"]:
            yield f'"{name}" has one value in all rows'

    # ── tables ───────────────────────────────────────────────────────────────────────────────

    def _heading(self) -> str:
        profile = self._profile
        text = (
            f"{self._set.id}: {profile['rows']:,} rows, {format_us(profile['first_us'])} to "
            f"{format_us(profile['last_us'])}, as of seq {self._set.seq}"
        )
        label = self._layout.label
        if label is not None:
            found = profile["columns"][label.name]
            text += f'; label "{label.name}"'
            if label.categories is None and found["mean"] is not None:
                text += f", mean {found['mean']:.4g}"
        return text

    def _feature_rows(self) -> Iterator[list[str]]:
        rows = self._profile["rows"]
        for column in self._layout.features:
            found = self._profile["columns"][column.name]
            if column.categories is None:
                figures = [_short(found[name]) for name in ("mean", "std", "min", "max")]
                kind = column.type
            else:
                figures, kind = [""] * 4, f"{len(column.categories):,} categories"
            nulls = f"{found['nulls'] / rows:.1%}"
            yield [column.name, kind, nulls, *figures, _short(found.get("auc"), 3)]

    def _reading_rows(self) -> Iterator[list[str]]:
        rows = self._profile["rows"]
        for reading in self._profile["readings"]:
            statuses = [
                f"{reading['statuses'].get(status, 0) / rows:.1%}"
                for status in ("PRESENT", "EXPIRED", "DELETED", "MISSING")
            ]
            ages = ["", "", ""]
            if reading["found"]:
                mean_us = reading["age_sum_us"] // reading["found"]
                ages = [_age(us) for us in (reading["min_age_us"], mean_us, reading["max_age_us"])]
            yield [reading["reading"], *statuses, *ages]

    def __repr__(self) -> str:
        parts = [self._heading(), _text(_COLUMNS, list(self._feature_rows()))]
        if self._profile["readings"]:
            parts.append(_text(_READINGS, list(self._reading_rows())))
        return "\n\n".join([*parts, "\n".join(self.remarks or ["Nothing remarkable."])])

    def _repr_html_(self) -> str:
        remarks = "".join(f"<li>{html.escape(remark)}</li>" for remark in self.remarks)
        return (
            f"<p><b>{html.escape(self._heading())}</b></p>"
            f"{_html(_COLUMNS, self._feature_rows())}{_html(_READINGS, self._reading_rows())}"
            f"<ul>{remarks or '<li>Nothing remarkable.</li>'}</ul>"
        )


def _age(us: int) -> str:
    """Return a duration in seconds, or in whole minutes where it is long."""
    unit = 60_000_000 if us >= 3600_000_000 else 1_000_000
    return format_duration(us // unit * unit)


def _short(number: float | None, digits: int = 4) -> str:
    return "" if number is None else f"{number:.{digits}g}"


def _text(header: tuple[str, ...], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in ([*header], *rows)
    ]
    return "\n".join(lines)


def _html(header: tuple[str, ...], rows: Iterator[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
