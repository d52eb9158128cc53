"""The model in a process of its own: ``python -m featurestore.batch.worker STORE MODEL [HANDLER]``.

Payloads come in and answers go out over two pipes, a JSON head and a body each::

    u32 length | {"content_type": ..., "accept": ...} | u64 length | body
    u32 length | {"ok": true} or {"error": why}       | u64 length | body

A payload that kills this process kills nothing else: who sent it starts another, and sends less.

A handler is a Python file with any of the functions of SageMaker's inference toolkit: ``model_fn
(folder)``, ``input_fn(body, content_type)``, ``predict_fn(data, model)``, ``output_fn(predictions,
accept)``.  What it lacks is done as for a model of the registry.

==============================  ================================================================
a record of                     is
==============================  ================================================================
CSV                             the model's numbers; an empty cell is a missing value
JSON Lines                      an array of them, ``{"features": [...]}``, or an object with the
                                model's inputs by name
RecordIO-protobuf               a dense vector of float32
Parquet                         a table with the model's inputs as columns
NPY                             rows of float32: what the block path asks with
an answer of CSV                the score, or the scores of a row
of JSON Lines                   ``{"score": 0.7}``, or ``{"scores": [...]}``
of RecordIO-protobuf            a label ``score``
of Parquet                      a column ``score``, or ``score_0``, ``score_1``, ...
of NPY                          the scores as the model gave them, float64
==============================  ================================================================
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from featurestore import models
from featurestore.batch import payloads, protobuf
from featurestore.batch.payloads import CSV, JSON, JSON_LINES, NPY, PARQUET, RECORDIO
from featurestore.store import open as open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


def send(file: BinaryIO, head: dict[str, Any], body: bytes) -> None:
    """Write a message."""
    text = json.dumps(head).encode()
    file.write(_U32.pack(len(text)) + text + _U64.pack(len(body)) + body)
    file.flush()


def receive(file: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """Read a message; None at the end."""
    length = file.read(_U32.size)
    if len(length) < _U32.size:
        return None
    head = file.read(_U32.unpack(length)[0])
    size = file.read(_U64.size)
    if len(size) < _U64.size:
        return None
    body = file.read(_U64.unpack(size)[0])
    return json.loads(head), body


# ── a model of the registry ──────────────────────────────────────────────────────────────────


def read_rows(body: bytes, content_type: str, inputs: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the rows of a payload.

    Raises
    ------
    ValueError
        With what is wrong.
    """
    if content_type == NPY:
        return payloads.from_npy(body)
    if content_type == CSV:
        cells = [line.split(",") for line in body.decode().splitlines() if line]
        rows = [[float(cell) if cell.strip() else np.nan for cell in row] for row in cells]
    elif content_type in (JSON_LINES, JSON):
        lines = [body] if content_type == JSON else body.splitlines()
        rows = [_numbers(json.loads(line), inputs) for line in lines if line.strip()]
    elif content_type == RECORDIO:
        found = payloads.answers(body, _count(body), RECORDIO)
        rows = [protobuf.vector(record).tolist() for record in found]
    else:
        return _parquet_rows(body, inputs)
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise ValueError(f"the rows have {sorted(widths)} columns")
    wanted = len(inputs) or next(iter(widths))
    if widths != {wanted}:
        raise ValueError(f"a row has {widths.pop()} columns, and the model knows {wanted}")
    return np.array(rows, np.float32)


def _count(body: bytes) -> int:
    at = count = 0
    while at < len(body):
        at += 8 + -(-(_U32.unpack_from(body, at + 4)[0] & (1 << 29) - 1) // 4) * 4
        count += 1
    return count


def _numbers(value: Any, inputs: tuple[str, ...]) -> list[float]:
    if isinstance(value, dict) and "features" in value:
        value = value["features"]
    if isinstance(value, dict):
        missing = [name for name in inputs if name not in value]
        if missing or not inputs:
            raise ValueError(f"the record has no {', '.join(missing) or 'features'}")
        value = [value[name] for name in inputs]
    if not isinstance(value, list):
        raise TypeError("the record is neither an array nor an object")
    return [np.nan if number is None else float(number) for number in value]


def _parquet_rows(body: bytes, inputs: tuple[str, ...]) -> NDArray[np.float32]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(body))
    columns = [table[name] for name in inputs or table.column_names]
    arrays = [column.cast(pa.float32(), safe=False).to_numpy() for column in columns]
    return np.column_stack(arrays).astype(np.float32)


def write_scores(scores: NDArray[np.float64], accept: str) -> bytes:
    """Return scores as an answer."""
    if accept == NPY:
        return payloads.as_npy(scores)
    if accept == PARQUET:
        return _parquet_scores(scores)
    if accept == RECORDIO:
        return b"".join(payloads.as_recordio(protobuf.label(row)) for row in np.atleast_1d(scores))
    plain = scores.tolist()
    if accept == CSV:
        texts = (",".join(map(repr, s)) if isinstance(s, list) else repr(s) for s in plain)
        return "".join(f"{text}\n" for text in texts).encode()
    name = "score" if scores.ndim == 1 else "scores"
    if np.isnan(scores).any():  # which JSON does not know
        values = scores.astype(object)
        values[np.isnan(scores)] = None
        plain = values.tolist()
    return "".join(f"{json.dumps({name: score})}\n" for score in plain).encode()


def _parquet_scores(scores: NDArray[np.float64]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"score": scores} if scores.ndim == 1 else {
        f"score_{i}": scores[:, i] for i in range(scores.shape[1])
    }  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


# ── serving ──────────────────────────────────────────────────────────────────────────────────


def answering(store_path: str, reference: str, handler: str) -> Callable[[bytes, str, str], bytes]:
    """Return the function from payload, content type and accepted type to the answer."""
    own = _functions(handler)
    with open_store(store_path, read_only=True) as store:
        version = models.get(store, reference)
        loaded = models.load(store, version)
    model = own["model_fn"](str(version.folder)) if "model_fn" in own else loaded
    read = own.get("input_fn", lambda body, kind: read_rows(body, kind, version.inputs))
    predict = own.get("predict_fn", lambda rows, _: loaded.score(rows))
    write = own.get("output_fn", lambda found, accept: write_scores(np.asarray(found), accept))

    def answer(body: bytes, content_type: str, accept: str) -> bytes:
        found = write(predict(read(body, content_type), model), accept)
        return found.encode() if isinstance(found, str) else bytes(found)

    return answer


def _functions(handler: str) -> dict[str, Any]:
    if not handler:
        return {}
    spec = importlib.util.spec_from_file_location("handler", handler)
    assert spec is not None  # noqa: S101  a .py file has one
    assert spec.loader is not None  # noqa: S101  likewise
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(module)


def main(store_path: str, reference: str, handler: str = "") -> None:
    """Answer payloads until there are no more."""
    # What anybody prints goes to the log; the pipe for answers is nobody else's.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    answer = answering(store_path, reference, handler)
    send(out, {"ok": True, "pid": os.getpid()}, b"")
    while (message := receive(sys.stdin.buffer)) is not None:
        head, body = message
        try:
            found = answer(body, head["content_type"], head["accept"])
        except Exception as error:  # noqa: BLE001  whatever a model raises is its answer
            send(out, {"error": f"{type(error).__name__}: {error}"[:1000]}, b"")
        else:
            send(out, {"ok": True}, found)


if __name__ == "__main__":
    main(*(str(Path(a)) if i == 0 else a for i, a in enumerate(sys.argv[1:])))
