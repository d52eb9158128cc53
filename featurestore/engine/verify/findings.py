"""What ``verify`` finds: faults, and notes about what is legal but may surprise."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

#: Findings of one kind in one place that are told one by one; of the rest only the number.
TOLD_MAX = 20


@dataclass(frozen=True)
class Fault:
    """Something that cannot be if the store is sound.

    Attributes
    ----------
    place : str
        Where: a file below the store's folder, or a part of the engine.
    what : str
        What kind of fault, in a word or two; for programs.
    sentence : str
        Where and what, with expected and actual; ``str()`` of the fault.

    Examples
    --------
    >>> str(Fault("data/1/2.parquet", "size", "data/1/2.parquet has 3 bytes, not 4."))
    'data/1/2.parquet has 3 bytes, not 4.'
    """

    place: str
    what: str
    sentence: str

    def __str__(self) -> str:
        return self.sentence


@dataclass
class Findings:
    """Faults and notes, collected; a flood of one kind is cut short."""

    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _untold: Counter[tuple[str, str]] = field(default_factory=Counter, repr=False)
    _told: Counter[tuple[str, str]] = field(default_factory=Counter, repr=False)

    def fault(self, place: str, what: str, sentence: str) -> None:
        """Add a fault; the sentence goes on from the place, and may lack its full stop."""
        kind = (place, what)
        if self._told[kind] >= TOLD_MAX:
            self._untold[kind] += 1
            return
        self._told[kind] += 1
        end = "" if sentence.endswith(".") else "."
        self.faults.append(Fault(place, what, f"{place}: {sentence}{end}"))

    def note(self, sentence: str) -> None:
        """Add a note."""
        self.notes.append(sentence)

    def finish(self) -> Findings:
        """Say how many were not told, and return self."""
        for (place, what), count in self._untold.items():
            sentence = f"{place}: and {count:,} more of this kind ({what})."
            self.faults.append(Fault(place, what, sentence))
        self._untold.clear()
        return self
