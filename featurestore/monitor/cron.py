"""Cron expressions: when a monitor is due.

::

    cron(0 * ? * * *)            the vendor's six fields: minute hour day month weekday year
    cron(0 [00-23] ? * * *)      daily; a range in brackets stands for its first hour
    cron(0 H/6 ? * * *)          every six hours; H is the hour to begin with: 0
    */15 9-17 * * MON-FRI        the five of Unix: minute hour day month weekday
    NOW                          once

A field is ``*`` or ``?``, a number, a name (``JAN``, ``MON``), a range ``a-b``, each with a step
``/n``, or several parted by commas.  Weekdays are numbered 1 to 7 from Sunday in the vendor's form,
0 to 6 (7 is Sunday again) in Unix's.  Where both day and weekday are given, either will do in
Unix's form; the vendor's wants one of them to be ``?``.  All times are UTC.  ``L``, ``W`` and ``#``
are refused: the vendor's monitors do not take them either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from featurestore.errors import InvalidInput
from featurestore.event_time import to_datetime, to_us

NOW = "NOW"
_MONTH_NAMES = (
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
)  # fmt: skip
_MONTHS = {name: place + 1 for place, name in enumerate(_MONTH_NAMES)}
_DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
_YEARS = (1970, 9999)


@dataclass(frozen=True)
class Cron:
    """When something is due; made by :func:`parse`.

    Attributes
    ----------
    text : str
        As it was written.
    either_day : bool
        Whether a day of the month or of the week is enough.
    """

    text: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    years: frozenset[int] | None
    either_day: bool

    def next_after(self, moment_us: int) -> int | None:
        """Return the first moment it is due after a moment; None if there is none any more.

        Examples
        --------
        >>> from featurestore.event_time import format_us, to_us
        >>> hourly = parse("cron(0 * ? * * *)")
        >>> format_us(hourly.next_after(to_us("2013-11-01T10:00:00Z")))
        '2013-11-01T11:00:00Z'
        """
        after = to_datetime(moment_us)
        day = after.replace(hour=0, minute=0, second=0, microsecond=0)
        # Leap days that fall on a weekday come at least every 40 years.
        last = min(day.year + 41, _YEARS[1])
        while day.year <= last:
            if self.years is not None and day.year not in self.years:
                later = [year for year in self.years if year > day.year]
                if not later or min(later) > last:
                    return None
                day = datetime(min(later), 1, 1, tzinfo=UTC)
            elif day.month not in self.months:
                first = day.replace(day=1)
                day = (first + timedelta(days=32)).replace(day=1)
            else:
                found = self._on(day, after)
                if found is not None:
                    return to_us(found)
                day += timedelta(days=1)
        return None

    def _on(self, day: datetime, after: datetime) -> datetime | None:
        of_month = day.day in self.days
        of_week = (day.weekday() + 1) % 7 in self.weekdays
        if not (of_month or of_week if self.either_day else of_month and of_week):
            return None
        for hour in self.hours:
            if day + timedelta(hours=hour + 1) <= after:
                continue
            for minute in self.minutes:
                found = day.replace(hour=hour, minute=minute)
                if found > after:
                    return found
        return None


def parse(text: str) -> Cron:
    """Read an expression.

    Raises
    ------
    InvalidInput
        With the field that will not do, and why.
    """
    inside = re.fullmatch(r"\s*cron\((.*)\)\s*", text, re.IGNORECASE)
    fields = (inside[1] if inside else text).split()
    if len(fields) not in (5, 6) or (inside and len(fields) != 6):
        raise InvalidInput(
            f'"{text}" is no schedule: write "cron(minute hour day month weekday year)", such as '
            '"cron(0 * ? * * *)" for every hour, or the five fields of Unix.'
        )
    vendor = len(fields) == 6
    minute, hour, day, month, weekday = fields[:5]
    if vendor and "?" not in (day, weekday) and day != "*" and weekday != "*":
        raise InvalidInput(f'"{text}": one of day ({day}) and weekday ({weekday}) must be "?".')
    first = 1 if vendor else 0
    names = {name: place + first for place, name in enumerate(_DAYS)}
    numbers = _field(text, "weekday", weekday, first, first + (6 if vendor else 7), names)
    return Cron(
        text,
        minutes=tuple(sorted(_field(text, "minute", minute, 0, 59))),
        hours=tuple(sorted(_field(text, "hour", _bracketed(hour), 0, 23))),
        days=frozenset(_field(text, "day", day, 1, 31)),
        months=frozenset(_field(text, "month", month, 1, 12, _MONTHS)),
        weekdays=frozenset((number - first) % 7 for number in numbers),
        years=None
        if not vendor or fields[5] in ("*", "?")
        else frozenset(_field(text, "year", fields[5], *_YEARS)),
        either_day=not vendor and day != "*" and weekday != "*",
    )


def _bracketed(hour: str) -> str:
    """Return the hours of the vendor's templates: ``[00-23]`` is 0, ``H/6`` is ``0/6``."""
    hour = re.sub(r"\[(\d+)(?:-\d+)?\]", r"\1", hour)
    return re.sub(r"^H\b", "0", hour)


def _field(
    text: str, what: str, field: str, low: int, high: int, names: dict[str, int] | None = None
) -> set[int]:
    """Return the numbers of one field."""
    found: set[int] = set()
    for part in field.upper().split(","):
        match = re.fullmatch(r"(\*|\?|(\w+)(?:-(\w+))?)(?:/(\d+))?", part)
        if match is None:
            raise _refusal(text, what, part, low, high)
        whole, first, last, step = match.groups()
        if whole in ("*", "?"):
            start, end = low, high
        else:
            start = _number(text, what, first, low, high, names)
            end = start if last is None else _number(text, what, last, low, high, names)
            if last is None and step is not None:
                end = high
        every = 1 if step is None else int(step)
        if every < 1:
            raise _refusal(text, what, part, low, high)
        if start > end:  # FRI-MON, 22-3: over the end and on from the start
            found |= set(range(start, high + 1, every)) | set(range(low, end + 1, every))
        else:
            found |= set(range(start, end + 1, every))
    return found


def _number(
    text: str, what: str, word: str, low: int, high: int, names: dict[str, int] | None
) -> int:
    number = (names or {}).get(word)
    if number is None:
        if not word.isdecimal():
            raise _refusal(text, what, word, low, high)
        number = int(word)
    if not low <= number <= high:
        raise _refusal(text, what, word, low, high)
    return number


def _refusal(text: str, what: str, part: str, low: int, high: int) -> InvalidInput:
    return InvalidInput(
        f'"{text}": "{part}" is no {what}; write numbers from {low} to {high}, "*", "a-b", "a/n", '
        "or several with commas."
    )
