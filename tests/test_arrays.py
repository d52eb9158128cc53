"""Arrow columns as they arrive: every wrapping comes off, and every refused row is told."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pytest

from featurestore.arrays import REASONS_MAX, Refused, null_where, plain_array, without_rows

TEXTS = ["a", None, "b", "a"]


@pytest.mark.parametrize(
    "wrapped",
    [
        pa.array(TEXTS),
        pa.array(["-", *TEXTS])[1:],
        pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
        pa.chunked_array([TEXTS]),
        pa.array(TEXTS).dictionary_encode(),
        pa.array(["-", *TEXTS]).dictionary_encode()[1:],
        # Chunks with dictionaries of their own: code 0 is "a" in one and "b" in the other.
        pa.chunked_array([pa.array(t).dictionary_encode() for t in (TEXTS[:2], TEXTS[2:])]),
        pa.RunEndEncodedArray.from_arrays([1, 2, 3, 4], TEXTS),
        pa.chunked_array([pa.RunEndEncodedArray.from_arrays([1, 2, 3, 4], TEXTS)]),
        pa.array(TEXTS).cast(pa.json_()),
        pa.ExtensionArray.from_storage(
            pa.opaque(pa.dictionary(pa.int8(), pa.string()), "t", "v"),
            pa.array(TEXTS).cast(pa.dictionary(pa.int8(), pa.string())),
        ),
    ],
    ids=lambda array: f"{array.type}",
)
def test_every_wrapping_comes_off(wrapped: pa.Array) -> None:
    plain = plain_array(wrapped)
    assert isinstance(plain, pa.Array)
    assert plain.type == pa.string()
    assert plain.to_pylist() == TEXTS


@pytest.mark.parametrize(
    "kind",
    [pa.int8(), pa.dictionary(pa.int8(), pa.int8()), pa.list_(pa.int8()), pa.null()],
    ids=str,
)
def test_no_chunks_are_no_rows(kind: pa.DataType) -> None:
    assert len(plain_array(pa.chunked_array([], kind))) == 0


def test_dictionaries_that_do_not_fit_into_one() -> None:
    kind = pa.dictionary(pa.int8(), pa.string())
    texts = [[f"{letter}{n}" for n in range(100)] for letter in "ab"]
    chunks = pa.chunked_array([pa.array(chunk).dictionary_encode().cast(kind) for chunk in texts])
    assert plain_array(chunks).to_pylist() == [*texts[0], *texts[1]]


@pytest.mark.parametrize("kind", [pl.Categorical(), pl.Enum(["b", "a"])], ids=str)
@pytest.mark.parametrize("skipped", [0, 1])
def test_a_category_of_polars_is_text(kind: pl.DataType, skipped: int) -> None:
    frame = pl.DataFrame({"x": ["b"] * skipped + TEXTS}, schema={"x": kind})[skipped:]
    stream = pa.RecordBatchReader.from_stream(frame).read_all()
    assert stream["x"].type.value_type == pa.string_view()  # from which Arrow cannot take
    assert plain_array(stream["x"]).to_pylist() == TEXTS


def test_a_dictionary_of_views_keeps_its_bytes() -> None:
    words = pa.array([b"a", b"\0" * 20], pa.binary_view())
    column = pa.DictionaryArray.from_arrays(pa.array([1, None, 0]), words)
    assert plain_array(column).to_pylist() == [b"\0" * 20, None, b"a"]


def test_what_is_plain_is_not_copied() -> None:
    array = pa.array([1, 2])
    assert plain_array(array) is array
    assert plain_array(pa.chunked_array([array])).buffers()[1].address == array.buffers()[1].address


def test_refused_rows_are_all_kept_and_the_first_hundred_told() -> None:
    refused = Refused()
    asked = []
    refused.add(range(150), lambda row: asked.append(row) or f"no {row}")
    refused.add_row(500, "no")
    assert len(refused) == 151
    assert refused.rows[-1] == 500
    assert asked == list(range(REASONS_MAX))
    assert refused.first()[0] == (0, "no 0")
    assert refused.summary(1_000) == (
        "151 of 1000 rows do not fit: row 0: no 0; row 1: no 1; row 2: no 2; …"
    )


def test_nothing_refused() -> None:
    refused = Refused()
    array = pa.array([1, None])
    assert without_rows(array, pa.array([False, None]), refused, str) is array
    assert not refused


@pytest.mark.parametrize(
    "array",
    [pa.array([1, 2, None]), pa.array(["a", "b", None]), pa.array([[1], [2], None]),
     pa.array([[1.0], [2.0], None], pa.list_(pa.float32(), 1)), pa.array([True, False, None])],
    ids=lambda array: str(array.type),
)  # fmt: skip
def test_null_where(array: pa.Array) -> None:
    nulled = null_where(array, pa.array([True, None, None]))
    assert nulled.type == array.type
    assert nulled.to_pylist() == [None, array[1].as_py(), None]


def test_reasons_show_the_value_as_it_came() -> None:
    refused = Refused()
    given, converted = pa.array([300, 1]), pa.array([44, 1], pa.int8())
    bad = pa.array([True, False])
    column = without_rows(converted, bad, refused, "{} is high".format, told_of=given)
    assert column.to_pylist() == [None, 1]
    assert refused.first() == [(0, "300 is high")]
