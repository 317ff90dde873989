"""Frames of pandas, polars and pyarrow: what is read is what they hold, or a DataError names the column."""

from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pytest

from minivae.data import frames
from minivae.data.checks import as_matrix
from minivae.data.files import DataError
from minivae.data.frames import columns, names

LIBRARIES = ("pandas", "polars", "pyarrow")
NUMBERS = {
    "float": [1.5, None, -2.0],
    "int": [1, None, 3],
    "bool": [True, None, False],
    "decimal": [Decimal("1.25"), None, Decimal("-3")],
    "empty": [None, None, None],
}
TEXT = {"text": ["a", None, "b"], "long": ["x" * 50, "", "y"]}


def library(name):
    return pytest.importorskip(name, reason=f"frames of {name} are read where {name} is")


def frame(name, data):
    """The same columns as each library has them."""
    if name == "pandas":
        return library("pandas").DataFrame(data)
    return library(name).DataFrame(data) if name == "polars" else library("pyarrow").table(data)


@pytest.mark.parametrize("name", LIBRARIES)
def test_every_column_is_read_as_what_it_holds(name):
    X = frame(name, NUMBERS | TEXT)
    found = dict(columns(X))
    assert frames.library(X) == name and names(X) == list(found) == [*NUMBERS, *TEXT]
    for column, values in NUMBERS.items():
        assert found[column].dtype == np.float64
        np.testing.assert_array_equal(found[column], [np.nan if v is None else float(v) for v in values])
    for column, values in TEXT.items():
        assert found[column].dtype == object and found[column].tolist() == values


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64", "bool", "float64"])
def test_a_frame_of_one_type_becomes_what_the_array_was(name, dtype):
    X = np.arange(6).reshape(3, 2).astype(dtype)
    matrix = as_matrix(frame(name, {"a": X[:, 0], "b": X[:, 1]}))
    np.testing.assert_array_equal(matrix, X)
    assert matrix.dtype == as_matrix(X).dtype


def test_frames_that_hold_one_array_are_not_copied():
    X = np.ones((4, 3))
    assert np.shares_memory(as_matrix(library("pandas").DataFrame(X, copy=False)), X)
    polars = library("polars").DataFrame({"a": np.ones(4), "b": np.zeros(4)})
    assert as_matrix(polars).dtype == np.float64


@pytest.mark.parametrize("name", LIBRARIES)
def test_bools_and_numbers_side_by_side(name):
    X = frame(name, {"a": [True, False], "b": [0.25, 2.0], "c": [3, 2**40]})
    np.testing.assert_array_equal(as_matrix(X), [[1, 0.25, 3], [0, 2, 2**40]])


@pytest.mark.parametrize(
    "dtype",
    ["Int8", "UInt8", "Int64", "Float32", "Float64", "boolean", "int64[pyarrow]", "double[pyarrow]", "bool[pyarrow]"],
)
def test_nullable_columns_of_pandas(dtype):
    pandas = library("pandas")
    X = pandas.DataFrame({"a": pandas.array([1, None, 0], dtype=dtype), "b": [0.5, 1, 2]})
    np.testing.assert_array_equal(as_matrix(X), [[1, 0.5], [np.nan, 1], [0, 2]])
    whole = pandas.DataFrame({"a": pandas.array([1, 0], dtype=dtype), "b": pandas.array([0, 1], dtype=dtype)})
    np.testing.assert_array_equal(as_matrix(whole), [[1, 0], [0, 1]])


def test_other_columns_of_pandas():
    pandas, pyarrow = library("pandas"), library("pyarrow")
    words = pandas.Series(["a", None, "b"])
    arrow = pyarrow.array(["a", None, "b"])
    X = pandas.DataFrame(
        {
            "category": words.astype("category"),
            "string": words.astype("string"),
            "object": words.astype(object),
            "whole": pandas.Series([7, None, 8], dtype=object).astype("Int64").astype("category"),
            "arrow": pandas.Series(arrow, dtype=pandas.ArrowDtype(pyarrow.string())),
            "dictionary": pandas.Series(words, dtype=pandas.ArrowDtype(arrow.dictionary_encode().type)),
        }
    )
    found = {name: values.tolist() for name, values in columns(X)}
    assert found.pop("whole") == ["7", None, "8"]
    assert all(values == ["a", None, "b"] for values in found.values())
    sparse = pandas.DataFrame({"a": pandas.arrays.SparseArray([0.0, 2.0]), "b": pandas.arrays.SparseArray([1, 0])})
    np.testing.assert_array_equal(as_matrix(sparse), [[0, 1], [2, 0]])


def test_other_columns_of_polars_and_pyarrow():
    polars, pyarrow = library("polars"), library("pyarrow")
    words = polars.Series(["a", None, "b"])
    X = polars.DataFrame(
        {"category": words.cast(polars.Categorical), "enum": words.cast(polars.Enum(["b", "a"])), "text": words}
    )
    assert all(values.tolist() == ["a", None, "b"] for _, values in columns(X))
    large = polars.DataFrame({"a": polars.Series([2**70, None], dtype=polars.Int128), "b": [0.5, 1]})
    np.testing.assert_array_equal(as_matrix(large), [[2.0**70, 0.5], [np.nan, 1]])
    table = pyarrow.table({"a": pyarrow.chunked_array([["a", None], ["b"]]).dictionary_encode()})
    assert next(columns(table))[1].tolist() == ["a", None, "b"]


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            [datetime.datetime(2020, 1, 1), None],
            r"column 'bad' holds values of type .*days since the first, or drop it",
        ),
        ([datetime.date(2020, 1, 1), None], "column 'bad' holds values of type .*days since"),
        ([datetime.timedelta(1), None], "column 'bad' holds values of type .*days since"),
        ([[1, 2], [3]], "column 'bad' holds values of type .*a column for each part"),
        ([{"a": 1}, {"a": 2}], "column 'bad' holds values of type"),
        ([b"a", b"b"], "column 'bad' holds values of type bytes"),
    ],
)
def test_a_column_of_anything_else_is_no_matrix_and_in_a_table_it_is_text(name, values, words):
    X = frame(name, {"good": [1, 2], "bad": values})
    with pytest.raises(DataError, match=words):
        as_matrix(X)
    cells = dict(columns(X))["bad"]
    assert [cell is None for cell in cells] == [value is None for value in values]
    assert all(isinstance(cell, str) for cell in cells if cell is not None)


@pytest.mark.parametrize("name", LIBRARIES)
def test_text_is_no_matrix(name):
    X = frame(name, {"a": [1, 2], "kind": [None, "cat"]})
    with pytest.raises(DataError, match=r"column 'kind' of X holds text, such as 'cat'; leave it out, .*load_dataset"):
        as_matrix(X)


def test_names_that_are_none():
    pandas = library("pandas")
    X = np.arange(4.0).reshape(2, 2)
    assert names(pandas.DataFrame(X)) == ["0", "1"]
    np.testing.assert_array_equal(as_matrix(pandas.DataFrame(X)), X)
    with pytest.raises(DataError, match="two columns of the frame are named 'a'"):
        as_matrix(pandas.DataFrame(X, columns=["a", "a"]))
    levels = pandas.MultiIndex.from_tuples([("a", "x"), ("a", "y")])
    with pytest.raises(DataError, match="several levels"):
        as_matrix(pandas.DataFrame(X, columns=levels))
    with pytest.raises(DataError, match=r"column 'mixed' holds values of type int and str"):
        as_matrix(pandas.DataFrame({"mixed": [1, "a"]}))
    with pytest.raises(DataError, match=r"0 feature\(s\)"):
        as_matrix(pandas.DataFrame(index=[1, 2]))
    assert not frames.library(pandas.Series([1.0])) and not frames.library(X)


def test_nothing_is_imported_to_know_a_frame():
    import subprocess
    import sys

    code = "import sys, numpy; from minivae.data.checks import as_matrix; as_matrix(numpy.eye(2)); "
    code += "assert not {'pandas', 'polars', 'pyarrow', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
