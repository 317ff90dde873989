"""The description of a table: to a matrix, back, and into a model's file, whatever somebody wrote there."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minivae import DataError
from minivae.data.schema import Column, Schema

COLUMNS = (
    Column("age", "number"),
    Column("species", "category", ("Adelie", "Chinstrap", "Gentoo")),
    Column("sex", "binary", ("female", "male")),
    Column("seen", "binary"),
)
SCHEMA = Schema(COLUMNS, "kind", ("kind", "age", "note", "species", "sex", "seen"))


def texts(*cells):
    return np.array(cells, object)


TABLE = {
    "note": texts("a", "b", "c"),
    "seen": np.array([0, 1, np.nan]),
    "age": np.array([1.5, np.nan, 3]),
    "species": texts("Adelie", None, "Gentoo"),
    "sex": texts("male", None, "female"),
    "kind": np.array([3.0, 1, 2]),
}


def test_a_table_becomes_a_matrix_by_the_names_of_its_columns_and_comes_back():
    nan = np.nan
    matrix = SCHEMA.encode(TABLE)
    np.testing.assert_array_equal(matrix, [[1.5, 1, 0, 0, 1, 0], [nan, nan, nan, nan, nan, 1], [3, 0, 0, 1, 0, nan]])
    assert SCHEMA.names == ("age", "species=Adelie", "species=Chinstrap", "species=Gentoo", "sex", "seen")
    assert SCHEMA.likelihood == "gaussian categorical*3 bernoulli*2" and SCHEMA.width == 6
    back = SCHEMA.decode(matrix)
    assert list(back) == ["age", "species", "sex", "seen"]
    for name, cells in back.items():
        np.testing.assert_array_equal(cells, TABLE[name])
    np.testing.assert_array_equal(SCHEMA.labels(TABLE), [3, 1, 2])
    assert SCHEMA.labels(TABLE).dtype.kind == "i"
    assert Schema(COLUMNS, "note", label_texts=True).labels({"note": texts("b", None)}).tolist() == ["b", "(missing)"]
    assert SCHEMA.labels({}) is None


def test_the_most_probable_category_and_the_nearer_text_are_what_a_mean_says():
    back = SCHEMA.decode([[0.25, 0.2, 0.5, 0.3, 0.4, 0.4], [9, 0.4, 0.3, 0.3, 0.6, 1]])
    assert back["species"].tolist() == ["Chinstrap", "Adelie"] and back["sex"].tolist() == ["female", "male"]
    np.testing.assert_array_equal(back["seen"], [0.4, 1])
    with pytest.raises(DataError, match=r"pass \[n, 6\]"):
        SCHEMA.decode(np.zeros((2, 5)))


def test_categories_side_by_side_stay_apart_and_a_table_of_one_kind_has_one_name():
    two = Column("a", "category", ("x", "y")), Column("b", "category", ("x", "y"))
    assert Schema(two).likelihood == "categorical*2 categorical*2"
    assert Schema(two[:1]).likelihood == "categorical"
    assert Schema((Column("a", "number"), Column("b", "number"))).likelihood == "gaussian"


def test_what_does_not_fit_is_named():
    with pytest.raises(DataError, match=r"t.csv lacks the columns 'age', 'sex' that the model was trained on"):
        SCHEMA.encode({n: v for n, v in TABLE.items() if n not in ("age", "sex")}, "t.csv")
    with pytest.raises(
        DataError, match=r"row 1 \(from 0\), column 'species': 'Emu' is none of .* 'Adelie', 'Chinstrap'"
    ):
        SCHEMA.encode(TABLE | {"species": texts("Adelie", "Emu", None)})
    with pytest.raises(DataError, match=r"row 2 \(from 0\), column 'age': 'old' is not a number"):
        SCHEMA.encode(TABLE | {"age": texts(None, None, "old")})
    np.testing.assert_array_equal(SCHEMA.encode(TABLE | {"age": texts(None, None, None)})[:, 0], [np.nan] * 3)
    coded = Schema((Column("a", "category", ("1", "2.5")),))
    np.testing.assert_array_equal(coded.encode({"a": np.array([2.5, np.nan, 1])})[[0, 2]], [[0, 1], [1, 0]])


def test_it_survives_a_file_and_nothing_else_does():
    state = json.loads(json.dumps(SCHEMA.to_dict()))
    assert Schema.from_dict(state) == SCHEMA
    for name, fits in (
        ("{}", 43_000),
        ("{}-chr1:1,000,000-2,000,001", 14_000),
        ("{}" + 52 * "x", 30_000),
    ):  # as a file counts
        for n in (fits, 2 * fits):
            large = Schema(tuple(Column(name.format(i), "number") for i in range(n)))
            assert (large.to_dict() is not None) == (n == fits)
            if n == fits:
                assert Schema.from_dict(large.to_dict()) == large
    columns = state["columns"]
    wrong = [
        *(None, [], {}, state | {"more": 1}, state | {"columns": []}, state | {"columns": "age"}),
        *(state | {"columns": [*columns, bad]} for bad in ([], ["x"], ["x", "word"], ["x", "number", "y"], "xy", 1)),
        *(state | {"columns": [*columns, ["x", "category", *v]]} for v in ([], ["b", "a"], ["a", "a"], [1], [None])),
        *(state | {"columns": [*columns, ["x", "binary", *v]]} for v in (["a"], ["a", "b", "c"])),
        *(state | {"columns": [*columns, bad]} for bad in (["age", "number"], ["stranger", "number"])),
        *(state | {"label_texts": bad} for bad in (None, 1, "yes")),
        *(state | {"label": bad} for bad in (1, "age", "stranger", [])),
        *(state | {"order": bad} for bad in (None, "age", [1], ["age", "age"], ["age"], ["x" * 2**22])),
    ]
    for bad in wrong:
        with pytest.raises(ValueError):
            Schema.from_dict(bad)


def test_it_agrees_with_the_likelihood_and_the_units_of_a_model_or_is_of_another():
    units = np.array([np.zeros(6), np.ones(6)])
    for likelihood, agrees in (
        *((words, True) for words in (SCHEMA.likelihood, "gaussian", "gaussian*4 bernoulli*2")),
        *((words, False) for words in ("categorical*3 gaussian bernoulli*2", "gaussian categorical*4 bernoulli")),
    ):
        assert SCHEMA.agrees(likelihood, units) == agrees
    assert not SCHEMA.agrees("gaussian", units[:, 1:])
    for column, agrees in (
        (0, True),
        (2, False),
        (4, False),
        (5, False),
    ):  # 37 is the mean of numbers, of no yes and no
        units[0], units[0, column] = 0, 37
        assert SCHEMA.agrees("gaussian", units) == agrees
