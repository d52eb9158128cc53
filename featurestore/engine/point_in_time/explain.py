"""Where each answer came from, and which rule decided.

===============  ==================================================================================
rule             what it says of the label
===============  ==================================================================================
``PRESENT``      the record found answers it
``DELETED``      the newest record known is a tombstone
``MAX_AGE``      the newest record known is older than the lookup's ``max_age`` allows: EXPIRED
``TTL``          the newest record known had expired by the label's time: EXPIRED
``NO_KEY``       the label has a null in its key: MISSING
``DELAY``        there are records before it, but none was published yet: MISSING
``WRITE_TIME``   there are records before it, published, but none had been written yet: MISSING
``MISSING``      there is no record of its key before it
===============  ==================================================================================

Beside the rule: the file, or ``journal``, that the record found was read from, and its seq.  Files
are named by their path below the store's folder; a compaction moves records to others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.engine.key_index import NO_KEY
from featurestore.engine.point_in_time.answer import DELETED, EXPIRED, Answer, Origin
from featurestore.engine.point_in_time.columns import Columns
from featurestore.engine.point_in_time.gather import Found, fill
from featurestore.storage.parquet import WRITE_SEQ

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import ThreadPoolExecutor

    from featurestore.engine.point_in_time.history import Source
    from featurestore.engine.point_in_time.match import Search
    from featurestore.engine.point_in_time.plan import Question, Role

JOURNAL = "journal"

_RULES = ("MISSING", "PRESENT", "TTL", "DELETED", "MAX_AGE", "NO_KEY", "DELAY", "WRITE_TIME")
_MISSING, _PRESENT, _TTL, _DELETED, _MAX_AGE, _NO_KEY, _DELAY, _WRITE_TIME = range(len(_RULES))

Finder = Callable[["Role", "Question"], npt.NDArray[np.bool_]]
"""Says for which labels anything is found in another role, or under another question."""


def explained(
    search: Search,
    answer: Answer,
    sources: Sequence[Source],
    pool: ThreadPoolExecutor,
    question: Question,
    find: Finder,
) -> Origin:
    """Return where the answers of one role came from.

    Parameters
    ----------
    search, answer, sources
        Finished.
    pool : ThreadPoolExecutor
        Where seqs are read.
    question : Question
        What was asked.
    find : Finder
        To ask what would have been found under looser rules.
    """
    names = [JOURNAL if source.entry is None else source.entry.path for source in sources]
    firsts = np.array([source.firsts[0] for source in sources], np.int64)
    number = answer.spread(np.searchsorted(firsts, search.rows, side="right") - 1)
    found = np.zeros(answer.label_us.size, np.bool_)
    found[answer.answered] = True
    seqs = Columns({WRITE_SEQ: pa.int64()}, found)
    fill(seqs, Found.of(sources, search.rows).at(search.answered), pool)
    rules, absent = _found_rules(search, answer), ~found
    rules[absent] = _MISSING
    rules[absent & (search.keys.index.codes == NO_KEY)] = _NO_KEY
    _why_missing(rules, search.role, question, find)
    return Origin(
        source=pa.array(names, pa.string()).take(number),
        write_seq=seqs.results()[WRITE_SEQ].chunk(0),
        rule=pa.array(_RULES, pa.string()).take(pa.array(rules)),
    )


def _found_rules(search: Search, answer: Answer) -> npt.NDArray[np.int8]:
    """Return the rules of labels for which a row was found."""
    found = np.full(answer.answered.size, _PRESENT, np.int8)
    found[answer.status == DELETED] = _DELETED
    found[answer.status == EXPIRED] = _TTL
    max_age_us = search.role.max_age_us
    if max_age_us is not None:
        over = answer.label_us[answer.answered] - answer.event_us > max_age_us
        found[over & (answer.status == EXPIRED)] = _MAX_AGE
    rules = np.full(answer.label_us.size, _MISSING, np.int8)
    rules[answer.answered] = found
    return rules


def _why_missing(rules: npt.NDArray[np.int8], role: Role, question: Question, find: Finder) -> None:
    """Tell labels whose records were not known yet from those without any."""
    if question.by_write_time and (rules == _MISSING).any():
        rules[(rules == _MISSING) & find(role, replace(question, known="event_time"))] = _WRITE_TIME
    if role.delay_us and (rules == _MISSING).any():
        soon = replace(role, delay_us=0)
        rules[(rules == _MISSING) & find(soon, replace(question, known="event_time"))] = _DELAY
