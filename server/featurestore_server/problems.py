r"""Errors as RFC 9457 problem details: the one table of status codes.

::

    HTTP/1.1 404 Not Found
    content-type: application/problem+json

    {"type": "urn:featurestore:UnknownFeatureGroup", "title": "No feature group of that name.",
     "status": 404, "detail": "There is no feature group \"wether\". Did you mean \"weather\"?",
     "error": "UnknownFeatureGroup"}

``error`` is the class of :mod:`featurestore.errors`, by which a client raises it again; ``rows``
and ``accepted`` are those of a refused table or stream.
"""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Any

import orjson

from featurestore import errors
from featurestore.wire import PROBLEM

log = logging.getLogger("featurestore.server")

RETRY_AFTER_SECONDS = 1

#: The most special class that an error is of decides.
STATUS: dict[type[BaseException], int] = {
    errors.InvalidInput: 400,
    errors.UnknownFeatureGroup: 404,
    errors.UnknownFeatureView: 404,
    errors.UnknownConsumer: 404,
    errors.UnknownJob: 404,
    errors.ConsumerExists: 409,
    errors.ConsumerDropped: 410,
    errors.FeatureGroupExists: 409,
    errors.FeatureViewExists: 409,
    errors.SchemaMismatch: 409,
    errors.StaleDelete: 409,
    errors.StaleUpdate: 409,
    errors.RecordNotFound: 404,
    errors.RequestMismatch: 409,
    errors.TooLarge: 413,
    errors.Unavailable: 503,
    errors.AccessDenied: 403,
    errors.StoreFull: 507,
    errors.CannotOpen: 503,
    errors.ReadOnlyStore: 403,
    errors.CorruptStore: 500,
    errors.NotInstalled: 501,
    errors.FeatureStoreError: 500,
}
INTERNAL = 500


class NotAuthenticated(errors.AccessDenied):
    """The caller has not said, or not proved, who it is."""


class TooManyRequests(errors.StoreBusy):
    """More is asked at once than the server will do.

    Attributes
    ----------
    after_seconds : float
        When it may be asked again.
    """

    def __init__(self, message: str, *, after_seconds: float = RETRY_AFTER_SECONDS) -> None:
        super().__init__(message)
        self.after_seconds = after_seconds


class TooSlow(errors.InvalidInput):
    """The body did not arrive in time."""


class Encoded(errors.InvalidInput):
    """The body is compressed."""


STATUS |= {NotAuthenticated: 401, TooManyRequests: 429, TooSlow: 408, Encoded: 415}


def status_of(error: BaseException) -> int:
    """Return the status code of an error.

    Examples
    --------
    >>> status_of(errors.UnknownFeature("x")), status_of(errors.StoreBusy("x"))
    (400, 503)
    """
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), INTERNAL)


def problem(error: BaseException) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of an error; one that is not ours is logged, not shown."""
    status = status_of(error)
    if isinstance(error, errors.FeatureStoreError):
        kind = next(k for k in type(error).__mro__ if k.__module__ == errors.__name__)
        details: dict[str, Any] = {
            "type": f"urn:featurestore:{kind.__name__}",
            "title": (kind.__doc__ or kind.__name__).splitlines()[0],
            "status": status,
            "detail": str(error),
            "error": kind.__name__,
        }
        if isinstance(error, errors.InvalidRecord):
            details["rows"] = error.rows
            details["accepted"] = error.accepted
    else:
        log.error("a request failed inside", exc_info=error)
        details = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": "The server failed inside; its log says how.",
            "error": "FeatureStoreError",
        }
    after = getattr(error, "after_seconds", RETRY_AFTER_SECONDS)
    return status, headers_of(status, after), _dumps(details)


def headers_of(status: int, after_seconds: float = RETRY_AFTER_SECONDS) -> dict[str, str]:
    """Return the headers that go with a status."""
    headers = {"content-type": PROBLEM}
    if status in (429, 503):
        headers["retry-after"] = str(math.ceil(after_seconds))
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="featurestore"'
    if status in (408, 413):
        headers["connection"] = "close"
    return headers


def plain_problem(status: int, detail: str) -> tuple[int, dict[str, str], bytes]:
    """Return the answer for what HTTP itself refuses: no such path, no such method."""
    phrase = HTTPStatus(status).phrase
    details = {"type": "about:blank", "title": phrase, "status": status, "detail": detail}
    return status, headers_of(status), _dumps(details | {"error": "InvalidInput"})


def _dumps(details: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(details)
    except TypeError:  # a lone surrogate in what the caller has sent
        detail = str(details["detail"]).encode("utf-8", "backslashreplace").decode()
        return orjson.dumps({**details, "detail": detail, "rows": [], "accepted": 0})
