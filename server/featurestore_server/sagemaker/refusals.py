"""Errors of the library in AWS's words: codes, statuses and the two forms they travel in.

==========================  ======================  ===========================  =================
error                       runtime                 control                      boto3 tries again
==========================  ======================  ===========================  =================
bad input                   400 ValidationError     400 ValidationException      no
no such group, record       404 ResourceNotFound    400 ResourceNotFound         no
(where not modelled)        400 ValidationError
group exists                                        400 ResourceInUse            no
older than the record       409 ConflictException                                no
too many features, full     503 ServiceUnavailable  400 ResourceLimitExceeded    runtime: yes
no role                     403 AccessForbidden     400 AccessDeniedException    no
not signed, or not well     403, AWS's common code  403, AWS's common code       no
busy, outcome unknown       503 ServiceUnavailable  503 ServiceUnavailable       yes, same id
ours                        500 InternalFailure     500 InternalFailure          yes, same id
==========================  ======================  ===========================  =================

The runtime's form has the code in the header ``x-amzn-ErrorType``, the control plane's in the
body's ``__type``; botocore looks there and makes ``client.exceptions.<code>`` of it.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import orjson

from featurestore import errors
from featurestore_server.problems import TooManyRequests, TooSlow
from featurestore_server.sagemaker.definitions import TooManyFeatures
from featurestore_server.sagemaker.signature import NotSigned

log = logging.getLogger("featurestore.server")

MESSAGE_MAX = 2048


class UnknownOperation(errors.InvalidInput):
    """The control plane has no such operation here."""


class Code(NamedTuple):
    """What an error is called, and the status it comes with."""

    status: int
    name: str


#: Of the runtime, then of the control plane; the most special class of an error decides.
_INVALID = Code(400, "ValidationError"), Code(400, "ValidationException")
_MISSING = Code(404, "ResourceNotFound"), Code(400, "ResourceNotFound")
_BUSY = Code(503, "ServiceUnavailable"), Code(503, "ServiceUnavailable")
_INTERNAL = Code(500, "InternalFailure"), Code(500, "InternalFailure")
CODES: dict[type[BaseException], tuple[Code, Code]] = {
    errors.InvalidInput: _INVALID,
    errors.UnknownFeatureGroup: _MISSING,
    errors.RecordNotFound: _MISSING,
    errors.FeatureGroupExists: (_INVALID[0], Code(400, "ResourceInUse")),
    errors.StaleUpdate: (Code(409, "ConflictException"), Code(400, "ConflictException")),
    TooManyFeatures: (_INVALID[0], Code(400, "ResourceLimitExceeded")),
    errors.StoreFull: (_BUSY[0], Code(400, "ResourceLimitExceeded")),
    errors.AccessDenied: (Code(403, "AccessForbidden"), Code(400, "AccessDeniedException")),
    errors.ReadOnlyStore: (Code(403, "AccessForbidden"), Code(400, "AccessDeniedException")),
    errors.Unavailable: _BUSY,
    TooManyRequests: (_BUSY[0], Code(400, "ThrottlingException")),
    UnknownOperation: (Code(404, "UnknownOperationException"),) * 2,
}
#: Operations that do not model ResourceNotFound: what they name is then just a bad value.
UNMODELLED = frozenset({"PutRecord", "DeleteRecord", "BatchGetRecord"})


def code_of(error: BaseException, operation: str, *, control: bool = False) -> Code:
    """Return what an error is called in the answer of an operation.

    Examples
    --------
    >>> code_of(errors.UnknownFeatureGroup("x"), "GetRecord")
    Code(status=404, name='ResourceNotFound')
    >>> code_of(errors.UnknownFeatureGroup("x"), "PutRecord")
    Code(status=400, name='ValidationError')
    """
    if isinstance(error, NotSigned):
        return Code(403, error.code)
    kinds = (CODES[kind] for kind in type(error).__mro__ if kind in CODES)
    code = next(kinds, _INTERNAL)[control]
    if operation in UNMODELLED and code.name == "ResourceNotFound":
        return _INVALID[0]
    return code


def sentence(error: BaseException, operation: str) -> str:
    """Return what to say of an error; of one that is not ours no more than that it happened."""
    if not isinstance(error, errors.FeatureStoreError):
        log.error("%s failed inside", operation, exc_info=error)
        return "The server failed inside; its log says how."
    text = str(error)
    if isinstance(error, errors.UnknownFeatureGroup) and operation in UNMODELLED:
        text = f"Resource Not Found: {text}"
    if isinstance(error, errors.StaleDelete):
        text = f"EventTime: {text}"
    return text.encode("utf-8", "backslashreplace").decode()[:MESSAGE_MAX]


def answer_of(
    error: BaseException, operation: str, *, control: bool
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return status, headers and body of an error."""
    code = code_of(error, operation, control=control)
    body = {"__type": code.name, "Message": sentence(error, operation)}
    headers = [(b"x-amzn-errortype", code.name.encode())]
    if code.status == 503:
        headers.append((b"retry-after", b"1"))
    if isinstance(error, errors.TooLarge | TooSlow):
        headers.append((b"connection", b"close"))  # what is left of the body is nobody's
    return code.status, headers, orjson.dumps(body)
