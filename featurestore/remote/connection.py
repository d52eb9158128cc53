"""The connection to a server: requests, retries, and errors as ``fs.open`` raises them."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlencode, urlsplit

from featurestore import errors, wire
from featurestore.errors import (
    FeatureStoreError,
    InvalidInput,
    InvalidRecord,
    NotInstalled,
    OutcomeUnknown,
    ReadOnlyStore,
    StoreClosed,
    Unreachable,
)
from featurestore.event_time import format_duration
from featurestore.remote.tables import dumps, reader_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

    import pyarrow as pa


_TRIES = 3
_JSON = "application/json"
_WAIT_SECONDS_MAX = 10
_ACCEPTED, _NO_CONTENT = 202, 204


class Connection:
    """A pool of connections to a server, and how a request is made over it."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        ca_file: str | None = None,
        read_only: bool = False,
    ) -> None:
        try:
            import urllib3
        except ImportError:
            raise NotInstalled("connect()", "remote") from None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput(
                f'"{url}" is no address of a server; give "http://host:8080" or "https://…".'
            )
        self._url = url.rstrip("/")
        self._read_only = read_only
        self._wait_seconds = int(min(_WAIT_SECONDS_MAX, timeout / 3))
        self._headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        tls = {"ca_certs": ca_file} if ca_file is not None else {}
        self._http: Any = urllib3.PoolManager(
            maxsize=16, timeout=timeout, retries=False, headers=self._headers, **tls
        )
        self._guard = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RemoteStore({self._url!r})"

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._url

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has been called."""
        return self._http is None

    def close(self) -> None:
        """Send what is queued and give the connections up; calling it again does nothing."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()
        http, self._http = self._http, None
        if http is not None:
            http.clear()

    # ── requests ─────────────────────────────────────────────────────────────────────────────

    def _require_writable(self) -> None:
        if self._read_only:
            raise ReadOnlyStore(f"{self._url} is connected to read-only. Connect without it.")

    def _write(
        self,
        method: str,
        path: str,
        body: Any = None,
        request_id: str | None = None,
        query: Sequence[tuple[str, str]] = (),
    ) -> Any:
        """Send a write that counts once, however often it has to be sent; None if it says nothing.

        That takes a request id: its own, where the caller gives none.
        """
        self._require_writable()
        answer = self._request(method, path, body, query=query, headers=once(request_id))
        return json.loads(answer.data) if answer.data else None

    def _json(
        self, method: str, path: str, body: Any = None, *, query: Sequence[tuple[str, str]] = ()
    ) -> Any:
        return json.loads(self._request(method, path, body, query=query).data)

    def _reader(self, method: str, path: str, given: Any = None, **options: Any) -> Any:
        """Return the batches of an Arrow answer, read as they are asked for."""
        answer = self._request(method, path, given, accept=wire.ARROW, stream=True, **options)
        return reader_of(answer, self._url)

    def _table(self, method: str, path: str, given: Any = None, **options: Any) -> pa.Table:
        """Return an Arrow answer whole."""
        with self._reader(method, path, given, **options) as reader:
            return reader.read_all()

    def _request(
        self,
        method: str,
        path: str,
        given: Any = None,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Any = None,
        kind: str = _JSON,
        accept: str = _JSON,
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
        again: bool = True,
    ) -> Any:
        """Send a request; returns the answer, or raises what the server says went wrong.

        Parameters
        ----------
        given : object
            JSON values to send; or `body`, bytes or an iterator of them, of a `kind`.
        again : bool
            Whether it may be sent twice.
        """
        import urllib3

        if self._http is None:
            raise StoreClosed(f"{self._url} is closed. Connect again.")
        sent = {**self._headers, "accept": accept, **(headers or {})}
        if given is not None:
            body = dumps(given)
        if body is not None:
            sent["content-type"] = kind
        url = self._url + path + ("?" + urlencode(query) if query else "")
        reads = method == "GET" or path in _READING
        repeatable = reads or "idempotency-key" in sent
        tries = _TRIES if again and repeatable and not isinstance(body, Iterator) else 1
        for left in reversed(range(tries)):
            try:
                answer = self._http.request(
                    method, url, body=body, headers=sent, preload_content=not stream
                )
                _require_end(answer)
                break
            except urllib3.exceptions.HTTPError as error:
                if left == 0:
                    raise self._lost(error, reads=reads) from error
        if answer.status >= 400:
            raise raised(_problem_of(answer))
        return answer

    def _job(
        self,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        progress: Callable[[int], object] | None = None,
        state: Callable[[dict[str, Any]], object] | None = None,
        **options: Any,
    ) -> tuple[dict[str, Any], str]:
        """Begin long work, wait for it, and return what came of it and where the job is.

        What is over soon is no job, but answered at once.
        """
        import time

        wait = "" if progress is not None or state is not None else f", wait={self._wait_seconds}"
        headers = {"prefer": f"respond-async{wait}", **options.pop("headers", {})}
        begun = self._request("POST", path, query=query, headers=headers, **options)
        if begun.status != _ACCEPTED:
            return dict(json.loads(begun.data)), ""
        href = json.loads(begun.data)["href"]
        pause = 0.01
        while True:
            found = self._json("GET", href)
            if progress is not None and found["rows"]:
                progress(found["rows"])
            if state is not None:
                state(found)
            if found["state"] == "done":
                return dict(found["result"]), href
            if found["state"] == "failed":
                raise raised(found["problem"])
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)

    def _lost(self, error: Exception, *, reads: bool) -> FeatureStoreError:
        import urllib3

        connecting = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.NameResolutionError)
        if reads or isinstance(error, connecting):
            return Unreachable(f"No answer from {self._url}: {error}")
        return OutcomeUnknown(
            f"{self._url} stopped answering ({error}); the write may or may not have been made. "
            "Sent again with the same request id it counts once."
        )


#: Posts that change nothing, and may be sent again.
_READING = frozenset({"/v1/batch-get", "/v1/get-features", "/v1/sql", "/v1/point-in-time"})


# ── errors ───────────────────────────────────────────────────────────────────────────────────


def _require_end(answer: Any) -> None:
    """Refuse an answer that does not say where it ends: one cut in its head looks empty.

    Python's HTTP takes a head that ends too soon for a whole one, and a body without a length for
    one that ends with the connection.
    """
    import urllib3

    headers = answer.headers
    if answer.status == _NO_CONTENT or "chunked" in headers.get("transfer-encoding", ""):
        return
    if not headers.get("content-length", "").isdigit():
        answer.close()
        raise urllib3.exceptions.ProtocolError("The head of the answer is cut short")


def _problem_of(answer: Any) -> dict[str, Any]:
    data = answer.data
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if isinstance(found, dict) and "detail" in found:
        return found
    said = data[:200].decode("utf-8", "replace")
    return {"error": "FeatureStoreError", "detail": f"HTTP status {answer.status}: {said}"}


def raised(problem: Mapping[str, Any]) -> FeatureStoreError:
    """Return the error a problem stands for, of the class that ``fs.open`` would have raised."""
    kind: Any = getattr(errors, str(problem.get("error")), FeatureStoreError)
    if not (isinstance(kind, type) and issubclass(kind, FeatureStoreError)):
        kind = FeatureStoreError
    detail = str(problem["detail"])
    if issubclass(kind, InvalidRecord):
        rows = [(row, why) for row, why in problem.get("rows", ())]
        refused: FeatureStoreError = kind(detail, rows=rows, accepted=problem.get("accepted", 0))
        return refused
    if issubclass(kind, NotInstalled):
        return FeatureStoreError(detail)
    plain: FeatureStoreError = kind(detail)
    return plain


# ── what is sent ─────────────────────────────────────────────────────────────────────────────


def word(name: Any) -> str:
    """Return a name as one segment of a path."""
    text = name if isinstance(name, str) else repr(name)
    return quote(text.encode("utf-8", "surrogatepass"), safe="") or "%00"


def one(name: str | None) -> list[tuple[str, str]]:
    """Return the query that names one group, or none."""
    return [] if name is None else [("group", name)]


def names(given: Iterable[str]) -> list[str]:
    """Return one name or several as a list."""
    return [given] if isinstance(given, str) else list(given)


def duration(us: int | None) -> str | None:
    """Return microseconds as the wire writes a duration."""
    return None if us is None else format_duration(us)


def zone_name(tz: str | tzinfo | None) -> str | None:
    """Return a zone by its name."""
    return None if tz is None else str(tz)


def _printable(request_id: str) -> str:
    """Return a request id as a header can carry it."""
    if request_id.isascii() and request_id.isprintable() and 0 < len(request_id) <= 200:
        return request_id
    import hashlib

    return hashlib.blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()


def once(request_id: str | None = None) -> dict[str, str]:
    """Return the header that makes a write count once."""
    return {"idempotency-key": _printable(uuid.uuid4().hex if request_id is None else request_id)}
