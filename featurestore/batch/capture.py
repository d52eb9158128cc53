"""Capture: what was scored, as SageMaker's Model Monitor reads it.

::

    <folder>/<job>/AllTraffic/2013/01/31/05/<name>.jsonl

    {"captureData": {"endpointInput": {"observedContentType": "text/csv", "mode": "INPUT",
                                       "data": "1,2", "encoding": "CSV"},
                     "endpointOutput": {..., "mode": "OUTPUT", ...}},
     "eventMetadata": {"eventId": "...", "inferenceTime": "2013-01-31T05:00:00Z"},
     "eventVersion": "0"}

A line is one record.  Its id is made of the job's name and the record's place, and its time is that
of the job's beginning: a job that goes on after a kill captures the same bytes.
"""

from __future__ import annotations

import base64
import json
import uuid
from typing import TYPE_CHECKING, Any

from featurestore.event_time import to_datetime

if TYPE_CHECKING:
    from pathlib import Path

#: The namespace of the ids of captured records.
_NAMESPACE = uuid.UUID("6f2f9e0e-64f5-4c5e-9f0a-5d1d3a6e2b10")
_ENCODINGS = {"text/csv": "CSV", "application/jsonlines": "JSON", "application/json": "JSON"}


def path(folder: Path, job: str, name: str, at_us: int) -> Path:
    """Return the file of captured records of one input, or unit."""
    hour = f"{to_datetime(at_us):%Y/%m/%d/%H}"
    return folder / job / "AllTraffic" / hour / f"{name.replace('/', '-')}.jsonl"


def line(
    event: str, at_us: int, given: bytes, given_type: str, answer: bytes, answer_type: str
) -> bytes:
    """Return one captured record.

    Parameters
    ----------
    event : str
        What makes the record's id: the job, the file or unit, the record's number.
    at_us : int
        When it was scored; microseconds.
    given, answer : bytes
        What the model was given, and what it answered.
    given_type, answer_type : str
        Their content types.
    """
    told = {
        "captureData": {
            "endpointInput": _side("INPUT", given, given_type),
            "endpointOutput": _side("OUTPUT", answer, answer_type),
        },
        "eventMetadata": {
            "eventId": str(uuid.uuid5(_NAMESPACE, event)),
            "inferenceTime": f"{to_datetime(at_us):%Y-%m-%dT%H:%M:%SZ}",
        },
        "eventVersion": "0",
    }
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _side(mode: str, data: bytes, content_type: str) -> dict[str, Any]:
    encoding = _ENCODINGS.get(content_type, "BASE64")
    text = base64.b64encode(data).decode() if encoding == "BASE64" else data.decode()
    return {"observedContentType": content_type, "mode": mode, "data": text, "encoding": encoding}
