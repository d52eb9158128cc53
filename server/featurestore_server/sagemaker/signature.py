"""AWS Signature Version 4: who signed a request, and whether it is the one that was signed.

::

    Authorization: AWS4-HMAC-SHA256 Credential=AKFS…/20130524/us-east-1/sagemaker/aws4_request,
                   SignedHeaders=content-type;host;x-amz-date, Signature=9f…

    canonical request    method · path · query · signed headers · their names · SHA-256 of the body
    string to sign       AWS4-HMAC-SHA256 · X-Amz-Date · scope · SHA-256 of the canonical request
    signing key          HMAC over date, region, service and "aws4_request", from "AWS4" + secret
    signature            HMAC(signing key, string to sign)

Path and query are taken as they came over the wire, not decoded: the path is normalised and
encoded a second time, as every service but S3 has it, and the query's pairs are sorted as they
stand.  The body is hashed here; a hash the caller states is compared, never believed.

What has to be signed: ``host``, and every ``x-amz-*`` header there is (the date and the operation
are among them).  A clock may differ by five minutes.  Session tokens are refused, there being no
service here that gives any; so are signatures in the query.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
The tests have its published vectors, and botocore as the other side.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

from featurestore.errors import AccessDenied

ALGORITHM = "AWS4-HMAC-SHA256"
SERVICE = "sagemaker"
SKEW_SECONDS = 300
_EMPTY = hashlib.sha256(b"").hexdigest()
_DATE = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_SPACES = re.compile(r" +")


class NotSigned(AccessDenied):
    """The request does not prove who sent it.

    Attributes
    ----------
    code : str
        What AWS calls this.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Signed(NamedTuple):
    """What an Authorization header says."""

    key_id: str
    date: str
    region: str
    service: str
    headers: tuple[str, ...]
    signature: str

    @property
    def scope(self) -> str:
        """What the signing key is good for."""
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


class Message(NamedTuple):
    """A request as it came.

    Attributes
    ----------
    path, query : bytes
        Raw, as in the request line.
    headers : dict of str to str
        By lower-case name; several of one name are joined by commas.
    """

    method: str
    path: bytes
    query: bytes
    headers: dict[str, str]


def message(
    method: str, path: bytes, query: bytes, headers: Iterable[tuple[bytes, bytes]]
) -> Message:
    """Return a request in the form that is signed."""
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return Message(method, path, query, joined)


def read(authorization: str | None) -> Signed:
    """Return what an Authorization header says.

    Raises
    ------
    NotSigned
        There is none, or it is not of the form above.
    """
    if authorization is None:
        raise NotSigned(
            "MissingAuthenticationTokenException",
            "This store asks for access keys. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to "
            "one made by `featurestore keys create NAME --role ROLE --access-key`.",
        )
    algorithm, _, rest = authorization.partition(" ")
    parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    credential = parts.get("Credential", "").split("/")
    headers = tuple(parts.get("SignedHeaders", "").split(";"))
    if algorithm != ALGORITHM or len(credential) != 5 or "Signature" not in parts:
        raise NotSigned(
            "IncompleteSignatureException",
            f"The Authorization header is not {ALGORITHM} with Credential, SignedHeaders and "
            "Signature.",
        )
    key_id, date, region, service, end = credential
    if service != SERVICE or end != "aws4_request":
        raise NotSigned(
            "InvalidSignatureException",
            f"Credential should be scoped to the service {SERVICE}, and end with aws4_request.",
        )
    return Signed(key_id, date, region, service, headers, parts["Signature"])


def region_of(authorization: str | None, default: str) -> str:
    """Return the region a request is meant for, whether or not its signature is looked at."""
    try:
        return read(authorization).region or default
    except NotSigned:
        return default


def verify(
    signed: Signed, request: Message, body: bytes, secrets: Iterable[str], now_s: float
) -> None:
    """Refuse a request that none of some secrets has signed.

    Parameters
    ----------
    secrets : iterable of str
        Those that are valid for the key: two while it is being rotated.
    now_s : float
        The clock, seconds since 1970.

    Raises
    ------
    NotSigned
        Why in general terms: what is wrong with a signature is not told.
    """
    stamp = request.headers.get("x-amz-date", "")
    _require_current(stamp, signed, now_s)
    _require_coverage(signed, request)
    digest = hashlib.sha256(body).hexdigest() if body else _EMPTY
    if request.headers.get("x-amz-content-sha256", digest) != digest:
        raise _wrong()
    text = string_to_sign(stamp, signed.scope, canonical_request(request, signed.headers, digest))
    good = False
    for secret in secrets:
        key = signing_key(secret, signed.date, signed.region, signed.service)
        expected = hmac.digest(key, text.encode(), hashlib.sha256).hex()
        good |= hmac.compare_digest(expected.encode(), signed.signature.encode())
    if not good:
        raise _wrong()


def unknown_key() -> NotSigned:
    """Return the error of a key that is not, or not any more."""
    return NotSigned(
        "UnrecognizedClientException", "The security token included in the request is invalid."
    )


def _wrong() -> NotSigned:
    return NotSigned(
        "InvalidSignatureException",
        "The request signature we calculated does not match the signature you provided. Check "
        "your secret access key and signing method.",
    )


def _require_current(stamp: str, signed: Signed, now_s: float) -> None:
    if _DATE.fullmatch(stamp) is None:
        raise NotSigned("IncompleteSignatureException", "The request has no X-Amz-Date.")
    try:
        sent = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise NotSigned("IncompleteSignatureException", "X-Amz-Date is no date.") from None
    if abs(now_s - sent) > SKEW_SECONDS:
        when = "expired" if sent < now_s else "not yet current"
        raise NotSigned(
            "InvalidSignatureException",
            f"Signature {when}: {stamp} is more than {SKEW_SECONDS // 60} minutes from "
            f"{datetime.fromtimestamp(now_s, UTC):%Y%m%dT%H%M%SZ}, the server's clock.",
        )
    if stamp[:8] != signed.date:
        raise _wrong()


def _require_coverage(signed: Signed, request: Message) -> None:
    covered = set(signed.headers)
    if "x-amz-security-token" in request.headers:
        raise NotSigned(
            "UnrecognizedClientException",
            "Session tokens are not known here: use an access key, without AWS_SESSION_TOKEN.",
        )
    needed = {"host"} | {name for name in request.headers if name.startswith("x-amz-")}
    if not needed <= covered or not covered <= request.headers.keys():
        raise _wrong()


# ── the steps ────────────────────────────────────────────────────────────────────────────────


def canonical_request(request: Message, names: Iterable[str], body_digest: str) -> str:
    """Return the first of the four steps."""
    names = tuple(names)
    lines = [f"{name}:{_SPACES.sub(' ', request.headers[name].strip())}" for name in names]
    return "\n".join(
        [
            request.method,
            canonical_path(request.path),
            canonical_query(request.query),
            *lines,
            "",
            ";".join(names),
            body_digest,
        ]
    )


def canonical_path(raw: bytes) -> str:
    """Return a path without ``.``, ``..`` and doubled slashes, encoded once more.

    Examples
    --------
    >>> canonical_path(b"/a/./b/../c//d%20e/")
    '/a/c/d%2520e/'
    """
    kept: list[str] = []
    text = raw.decode("latin-1")
    for part in text.split("/"):
        if part == "..":
            del kept[-1:]
        elif part not in ("", "."):
            kept.append(part)
    path = "/" + "/".join(kept)
    if text.endswith("/") and kept:
        path += "/"
    return quote(path.encode("latin-1"), safe="/~")


def canonical_query(raw: bytes) -> str:
    """Return the pairs of a query in order; a name without value has an empty one.

    Examples
    --------
    >>> canonical_query(b"b=2&a=%20&a&B=1")
    'B=1&a=&a=%20&b=2'
    """
    if not raw:
        return ""
    pairs = (pair.partition("=") for pair in raw.decode("latin-1").split("&") if pair)
    return "&".join(f"{name}={value}" for name, value in sorted((p[0], p[2]) for p in pairs))


def string_to_sign(stamp: str, scope: str, canonical: str) -> str:
    """Return the second step."""
    digest = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
    return f"{ALGORITHM}\n{stamp}\n{scope}\n{digest}"


@lru_cache(maxsize=256)
def signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    """Return the third step, which a day's requests share."""
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    return key
