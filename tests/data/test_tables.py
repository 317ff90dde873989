"""Tables as people have them: what is read equals what was written, or the place is named; what was decided is said."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minivae.data.schema
from minivae import DataError, load_dataset
from minivae.app.cli import main
from minivae.app.runs import open_run
from minivae.data.schema import Column, Schema
from minivae.storage import persistence
from minivae.storage.modelfile import ModelFileError

TRIALS = int(os.environ.get("MINIVAE_TRIALS", "1"))
nan = np.nan


@pytest.fixture
def read(tmp_path):
    def read(text, name="t.csv", written="utf-8", **how):
        (tmp_path / name).write_bytes(text.encode(written))
        return load_dataset(tmp_path / name, **how)

    return read


@pytest.mark.parametrize(
    ("text", "names", "rows"),
    [
        ("1,2\n3,\n", ("0", "1"), [[1, 2], [3, nan]]),
        ("a\tb\n1\tNA\n?\t4\n", ("a", "b"), [[1, nan], [nan, 4]]),
        ("a,b\n-,1\n2,.\n", ("a", "b"), [[nan, 1], [2, nan]]),
        ("a;b\n1,5;2\n-2;0,25\n", ("a", "b"), [[1.5, 2], [-2, 0.25]]),
        ("a;b\n1.234,5;2\n-2;0,25\n", ("a", "b"), [[1234.5, 2], [-2, 0.25]]),
        ("1,5;2,7\n2,0;3,1\n", ("0", "1"), [[1.5, 2.7], [2, 3.1]]),
        ("a,NA,nan\n1,2,3\n4,,6\n", ("a", "NA", "nan"), [[1, 2, 3], [4, nan, 6]]),
        ("nan,nan\n1,2\n", ("0", "1"), [[nan, nan], [1, 2]]),
        ("a|b\n1|2\n3|4\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("label,0,1\n5,0,2\n", ("label", "0", "1"), [[5, 0, 2]]),
        ("x,1990,1991,1992\n5,0.5,2,1\n", ("x", "1990", "1991", "1992"), [[5, 0.5, 2, 1]]),
        ("0,1,2,3\n5,0.5,2,1\n", ("0", "1", "2", "3"), [[5, 0.5, 2, 1]]),
        ("0,1,2\n5,0,2\n", ("0", "1", "2"), [[0, 1, 2], [5, 0, 2]]),
        (",\n1.5,2\n", ("Unnamed: 0", "Unnamed: 1"), [[1.5, 2]]),
        ("a,a\n1,2\n", ("a", "a.1"), [[1, 2]]),
        ("a,b,\n1,2,\n3,4,\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("a,b\n1,2,\n3,4,\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("# a comment\n1,2\n3,4\n", ("0", "1"), [[1, 2], [3, 4]]),
        ("# a,b\n1,2\n3,4\n", ("a", "b"), [[1, 2], [3, 4]]),
        ('"a ""x""","b\nc"\n"1","2"\n', ('a "x"', "b\nc"), [[1, 2]]),
        (",a,b\n0,1.5,2\n1,3,4\n", ("a", "b"), [[1.5, 2], [3, 4]]),
        ("a,b\n0,1.5,2\n1,3,4\n", ("a", "b"), [[1.5, 2], [3, 4]]),
        ("id,a\n7,1.5\n8,2\n12,2\n", ("a",), [[1.5], [2], [2]]),
        ("2,2,one,two\n1,2,0\n3,4,1\n", ("0", "1", "2"), [[1, 2, 0], [3, 4, 1]]),
        ("a,s\n1,x\n2,y\n3,z\n4,x\n,\n", ("a", "s=x", "s=y", "s=z"),
         [[1, 1, 0, 0], [2, 0, 1, 0], [3, 0, 0, 1], [4, 1, 0, 0], [nan] * 4]),
        ("a,s\n1,no\n2,yes\n3,\n", ("a", "s"), [[1, 0], [2, 1], [3, nan]]),
        ("a,s\n1,-\n2,+\n3,-\n", ("a", "s"), [[1, 1], [2, 0], [3, 1]]),
        ("c,2019,2020\nF,0.5,2\nG,7,9\n", ("2019", "2020"), [[0.5, 2], [7, 9]]),
        ("2018,2019,2020\n5,0,2\n", ("2018", "2019", "2020"), [[5, 0, 2]]),
        ("c,2000,2005,2010\nF,1,2,3\nG,7,8,1\n", ("2000", "2005", "2010"), [[1, 2, 3], [7, 8, 1]]),
        ("F,2000,2005\nG,1990,2010\n", ("1", "2"), [[2000, 2005], [1990, 2010]]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_what_tables_hold(read, text, names, rows, ending):
    dataset = read(text.replace("\n", ending) if '"b\nc"' not in text else text)
    np.testing.assert_array_equal(dataset.train, rows)
    assert dataset.schema.names == names


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
def test_encodings(read, encoding):
    how = {"encoding": encoding} if encoding in ("latin-1", "cp1252") else {}
    dataset = read("größe,é\n1,ä\n2,ö\n3,ä\n", written=encoding, **how)
    assert dataset.schema.names == ("größe", "é") and dataset.schema.columns[1].values == ("ä", "ö")
    if how:
        with pytest.raises(DataError, match=r"t.csv, line 1 is not UTF-8 text \(byte 0xf6\); .*--encoding latin-1"):
            read("größe,é\n1,ä\n2,ö\n3,ä\n", written=encoding)


@pytest.mark.parametrize(
    ("text", "how", "words"),
    [
        ("a,b\n1,2\n3,12.5o\n4,5\n", {}, "line 3, column 2: '12.5o' is not a number, as others of column 'b' are"),
        ("a,b\n1,12%\n3,9%\n", {}, "line 2, column 2: '12%' is not a number"),
        ("a,b\n1,$3\n3,$4\n", {}, r"line 2, column 2: '\$3' is not a number"),
        ('a,b\n1,"1,234"\n3,"5,000"\n', {}, "line 2, column 2: '1,234' is not a number.*--decimal"),
        ("a;b\n1;1,234\n3;5,000\n", {}, "'1,234' is a fraction in some countries and thousands in others.*--decimal"),
        ("a;b\n1;1.234\n3;5,5\n", {}, r"line 3, column 2: '5,5' is not a number.*--decimal"),
        ("a;b\n1.5;2,5\n2.5;3,5\n", {}, "line 2, column 2: '2,5' is not a number.*--decimal"),
        ("a,b\n1,2\n1,2,3\n", {}, "line 3 has 3 columns but line 2 has 2"),
        ('a,b\n1,"2\n3,4\n', {}, "close each quote"),
        ("a,b\n1,2\n", {"label": "c"}, "no column c in .* which has 2: 'a', 'b'"),
        ("a,b\n1,2\n", {"drop": ["9"]}, "no column 9"),
        ("a,b\n1,2\n", {"drop": ["a", "b"]}, "no column to train on"),
        ("a,b\n1,2\n", {"columns": ["a"], "label": "a"}, "'a' is the label"),
        ("a,b\n1,2\n", {"delimiter": "::"}, "not one character"),
        ("a,b\n1,2\n", {"encoding": "klingon"}, "no encoding 'klingon'"),
        ("a,b\n1,2\n", {"encoding": "\0"}, "no encoding"),
        ("a,b\n1,2\n", {"decimal": "x"}, "neither"),
        ("a,b\n1,2\n3,1e400\n", {}, r"row 1 \(from 0\), column 2: inf in column 'b' is not finite; correct it"),
        ("a,b\nx,-inf\ny,3\n", {}, r"line 2, column 2: -inf in column 'b' is not finite"),
        ("a,b\n12345678901234567,2\n12345678901234568,3\n", {"label": "a"}, "label of 1.23457e.16 cannot be told from"),
    ],
)
def test_what_is_no_table_is_named(read, text, how, words):
    with pytest.raises(DataError, match=words):
        read(text, **how)


def test_the_other_mark_groups_thousands_where_the_decimal_mark_is_given(read):
    text = "a;b\n1.234,5;2\n12;1.000.000\n"
    np.testing.assert_array_equal(read(text, decimal=",").train, [[1234.5, 2], [12, 1e6]])
    np.testing.assert_array_equal(read('a,b\n"1,234.5",2\n3,4\n', decimal=".").train, [[1234.5, 2], [3, 4]])


def test_what_was_decided_is_said(read):
    rows = "".join(f"{i},n{i},2024-01-{i + 1:02},{i % 3 or -999},7,{'xyz'[i % 3]},\n" for i in range(12))
    dataset = read("id,name,day,t,same,kind,none\n" + rows, label="kind")
    assert dataset.notes == (
        "column 'id': a row index; left out",
        "column 'name': 12 different texts in 12 rows; left out",
        "column 'day': dates; left out",
        "column 't' is -999 in 4 rows, and else never below 0: if that says that it is missing, leave those cells empty",
        "column 'none': no value in any row; left out",
        "the same number in every row: 'same'",
    )
    assert dataset.train_labels.tolist() == list("xyz" * 4) and dataset.schema.names == ("t", "same")
    assert dataset.described() == (
        "12 rows; columns of numbers: 2; none of their cells missing",
        "label kind, not trained on: 'x', 'y', 'z'",
        "first row: t -999, same 7",
    )
    assert repr(dataset) == "Dataset('t.csv', 12 rows of 2 float64, labels)"
    for text, what in (("r,yes\nbe,no\nbe,no\nr,yes\n", "a header, as its place alone says; if it is a row: --no-header"),
                       ("x,2019\ny,5\n", "a row; if it holds names: --header"),
                       ("0,1,2\n5,0,2\n", "a row; if it holds names: --header")):  # fmt: skip
        assert read(text).notes[0].endswith(f"is taken for {what}")
    blank = read("k,\x1b[1m\n,1\n,2\n", label="k")
    assert blank.notes == ("label 'k': no value in any row",) and blank.train_labels is None
    assert blank.described()[-1] == "first row: \N{REPLACEMENT CHARACTER}[1m 1"
    assert (
        "a" not in read("a,b\n" + ("1" + " " * 99_999 + "x,2\n") * 9).schema.names
    )  # each in the time of one look at it
    assert read("a;b\n1,5;2\n3;4\n").notes == ("decimal commas: 1,5 is read as 1.5",)
    assert read("id,name\n1,x\n2,y\n3,z\n", columns=["id", "name"]).schema.names == ("id", "name=x", "name=y", "name=z")


def test_what_suits_a_table(read):
    assert read("a,b\n0,0.5\n1,0.25\n").suits == {}
    assert read("a,b\n0,0.5\n1,\n").suits == {"missing": "ignore"}
    assert read("a,b\n0,5\n1,2\n").suits == {"likelihood": "bernoulli gaussian", "standardize": True}
    assert read("0.5,5\n1,2\n").suits == {"likelihood": "gaussian", "standardize": True}


CODES = "c,k,x,y,id\n" + "".join(
    f"{('A', '01', '1', 'B', 'C')[i % 5]},{'a1'[i % 2]},{i}.5,{i % 2},n{i}\n" for i in range(40)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("c,k,x,y\n01,1,5,1\n", [[1, 0, 0, 0, 0, 5, 1]]),
        ("c,k,x,y\n1,a,5,0\nA,1,2,1\n", [[0, 1, 0, 0, 0, 5, 0], [0, 0, 1, 0, 0, 2, 1]]),
        ("c,k,x,y\n02,a,5,0\n", "line 2, column 1: '02' is none of the values"),
        ("c,k,x,y\n01,a,5,2\n", "line 2, column 4: 2 is not 0 or 1"),
        ("01,1,5,1,n\n1,a,6,0,n\n", [[1, 0, 0, 0, 0, 5, 1], [0, 1, 0, 0, 0, 6, 0]]),
        ("02,1,5,1,n\n", "line 1, column 1: '02' is none of the values"),
        ("01,1,5,1\n", "has no header, and its 4 columns may be one or another of"),
        ("01,5\n", "has no header, and its 2 columns are not as many as"),
    ],
)
def test_another_table_is_read_by_the_kinds_and_places_of_the_columns(read, text, words):
    model = read(CODES, label="k").schema
    assert Schema.from_dict(model.to_dict()) == model
    if isinstance(words, str):
        with pytest.raises(DataError, match=words):
            read(text, schema=model)
    else:
        other = read(text, schema=model)
        np.testing.assert_array_equal(other.train, words)
        assert set(other.train_labels.tolist()) <= {"a", "1"}


def test_the_decimal_mark_of_a_model_holds_for_other_tables_unless_they_show_another(read):
    first = read("a;b\n1,5;2,25\n2,5;3\n")
    assert first.reading == {"decimal": ","}
    cases = (("1,234;2", [[1.234, 2]], 0), ("1.5;2", [[1.5, 2]], 1), ("1.234;2", [[1234, 2]], 1))
    for text, rows, said in cases:
        other = read(f"a;b\n{text}\n", schema=first.schema, **first.reading)
        np.testing.assert_array_equal(other.train, rows)
        assert len(other.notes) == said


def test_a_mark_that_cannot_cut_quoted_cells_is_no_delimiter(tmp_path):
    """It makes two cells of the header, and of no other line."""
    (tmp_path / "t.csv").write_text('t,t|\n"t,",t\n"t,",t\n"t,",t\nt,t0\nt0,t00\nt,t\n')
    dataset = load_dataset(tmp_path / "t.csv")
    assert [column.name for column in dataset.schema.columns] == ["t", "t|"]
    assert dataset.schema.columns[0].values == ("t", "t,", "t0")
    (tmp_path / "t.csv").write_text('"t","t;"\n' + '"0.5","0.25"\n' * 3)  # here of the header neither
    assert [column.name for column in load_dataset(tmp_path / "t.csv").schema.columns] == ["t", "t;"]


def test_a_row_of_tabs_is_a_row_without_values(tmp_path):
    (tmp_path / "t.tsv").write_text("a\tb\n0.5\t1.5\n\t\n\n2.5\t3.5\n")
    assert np.isnan(load_dataset(tmp_path / "t.tsv").train).all(axis=1).tolist() == [False, True, False]


def test_the_row_index_that_pandas_puts_into_parquet_is_left_out_and_said(tmp_path):
    pandas = pytest.importorskip("pandas", reason="its index is what is left out")
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow: pip install 'minivae[parquet]'")
    frame = pandas.DataFrame({"a": np.arange(20.0), "b": np.arange(20.0) ** 2})
    frame.iloc[[1, 4, 6, 7, 12, 18, 19]].to_parquet(tmp_path / "t.parquet")
    dataset = load_dataset(tmp_path / "t.parquet")
    assert dataset.schema.names == ("a", "b") and len(dataset.train) == 7
    assert dataset.notes == ("column '__index_level_0__': a row index; left out",)


@pytest.mark.parametrize("library", ["pandas", "polars", "parquet"])
def test_frames_and_parquet_are_tables_too(library, tmp_path):
    module = pytest.importorskip("polars" if library == "polars" else "pandas", reason="frames need their library")
    frame = module.DataFrame({"a": [1.5, None, 3], "s": ["x", None, "y"], "k": [2, 1, 2], "id": ["p", "q", "r"]})
    days = module.DataFrame({"d": [datetime.date(2024, 1, n) for n in (1, 2, 3)], "n": ["1", "2", "1"], "x": [1, 2, 4]})
    assert load_dataset(days).notes == (
        "column 'd': dates; left out",
    )  # texts of digits are texts: their frame says so
    assert load_dataset(days, drop=["0"]).schema.names == ("n", "x")
    assert load_dataset(days, label="n", drop=["n"]).train_labels.tolist() == ["1", "2", "1"]
    if library == "parquet":
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow: pip install 'minivae[parquet]'")
        frame.to_parquet(tmp_path / "t.parquet")
        frame = tmp_path / "t.parquet"
    dataset = load_dataset(frame, label="k")
    np.testing.assert_array_equal(dataset.train, [[1.5, 0], [nan, nan], [3, 1]])
    assert dataset.train_labels.tolist() == [2, 1, 2]
    assert dataset.notes == ("column 'id': 3 different texts in 3 rows; left out",)
    if library == "parquet":
        frame.write_bytes(frame.read_bytes()[:-9])
        with pytest.raises(DataError, match=r"cannot read .*t.parquet as Parquet"):
            load_dataset(frame)


# ---- On the command line

PENGUINS = "species;mass;sex;wing\n" + "".join(
    f"{'ABC'[i % 3]};{3000 + 37 * (i % 17)},5;{('', 'f', 'm')[i % 3 and 1 + i % 2]};{180 + i % 9}\n" for i in range(90)
)


# mass, sex, wing: numbers that are yes and no, or the three of one category, have other means, spreads, likelihoods
LIES = (
    [["mass", "binary", "no", "yes"], ["sex", "binary", "f", "m"], ["wing", "number"]],
    [["mass", "number"], ["sex", "binary", "f", "m"], ["wing", "binary"]],
    [["mass", "category", "a", "b", "c"]],
)


def test_a_table_with_everything_trains_and_other_tables_are_read_by_its_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.csv").write_text(PENGUINS)
    quick = ["--epochs", "2", "--hidden-dims", "8", "--backend", "numpy", "--no-figures", "--out", "run"]
    assert main(["train", "p.csv", "--label", "species", "--conditional", *quick]) == 0
    said = capsys.readouterr().err
    assert "90 rows; columns of numbers: 2, yes and no: 1; 11.1% of their cells missing" in said
    assert "--likelihood 'gaussian bernoulli gaussian' --standardize --missing ignore" in said
    for command in (
        ["evaluate", "run", "--quiet"],
        ["sample", "run", "-n", "6", "--out", "s.npy"],
        ["reconstruct", "run", "--out", "r.npy"],
        ["train", "--resume", "run", "--epochs", "3", "--quiet", "--no-figures"],
    ):
        assert main(command) == 0
    other = "wing,more,sex,species,mass\n181,9,m,A,3000.5\n,9,,C,3100\n"
    (tmp_path / "other.csv").write_text(other)
    capsys.readouterr()
    assert main(["evaluate", "run", "--data", "other.csv", "--quiet", "--n-samples", "2"]) == 0
    out, err = capsys.readouterr()
    assert "2 all examples of other.csv" in out
    assert "columns that the model does not know are ignored: 'more'" in err
    np.save("other.npy", [[3000.5, 1, 181], [3100, nan, nan]])
    assert main(["reconstruct", "run", "--data", "other.csv", "--out", "r.npy"]) == 0
    run = open_run("run")
    np.testing.assert_array_equal(run.dataset("other.csv").train, run.dataset("other.npy").train)
    (tmp_path / "bare.csv").write_text("A,3000.5,m,181\nC,3100,,\n")  # no header: by position
    np.testing.assert_array_equal(run.dataset("bare.csv").train, np.load("other.npy"))
    assert run.dataset("bare.csv").train_labels.tolist() == ["A", "C"]
    for change in (
        *({"table": bad} for bad in ({}, [], Schema((Column("a", "number"),)).to_dict())),
        *({"table": run.vae.run_["table"] | {"columns": bad}} for bad in LIES),
        *({"reading": bad} for bad in ({"label": []}, {"delimiter": 3}, {"drop": "a"}, {"stranger": "x"}, None)),
        *({"reading": bad} for bad in ({"label": True}, {"drop": [[1]]}, {"drop": [None]}, {"columns": [5]})),
        *({"reading": bad} for bad in ({"encoding": "\0"}, {"mode": "L" * 10**6}, {"header": 1}, {"decimal": ";"})),
        *({"reading": bad} for bad in ({"background": 7}, {"background": False}, {"resize": [2**40, 1]})),
        *({"image_shape": bad} for bad in (["a", None], [-1, -4], [5], [1, 4], [2.0, 2], [])),
        *({"condition": bad} for bad in (-5, True, 2**40)),
        *({"versions": {"minivae": 1}}, {"backend": "abacus"}, {"id": None}, {"watch_test": 0}),
    ):  # what a model's file says is not trusted
        persistence.save(run.vae, tmp_path / "bad.npz", run=run.vae.run_ | change)
        with pytest.raises(ModelFileError, match="is not what train writes"):
            open_run("bad.npz")
    (tmp_path / "other.csv").write_text(other.replace("m,A", "x,A"))
    with pytest.raises(DataError, match=r"other.csv, line 2, column 3: 'x' is none of the values .* 'f', 'm'"):
        run.dataset("other.csv")
    (tmp_path / "other.csv").write_text(other.replace("wing", "feather"))
    with pytest.raises(DataError, match="lacks the column 'wing'"):
        run.dataset("other.csv")


def test_options_win_over_what_suits_and_have_a_meaning(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.csv").write_text(PENGUINS)
    quick = ["--epochs", "1", "--hidden-dims", "8", "--backend", "numpy", "--no-figures"]
    options = ["--columns", "mass", "3", "--likelihood", "gaussian", "--standardize", "--decimal", ","]
    assert main(["train", "p.csv", *options, *quick, "--out", "run"]) == 0
    assert "recipe" not in capsys.readouterr().err
    assert main(["evaluate", "run", "--quiet", "--n-samples", "2"]) == 0
    assert main(["train", "digits", "--label", "3", *quick]) == 1
    assert "--label has no meaning for digits" in capsys.readouterr().err
    np.save("a.npy", np.stack([np.arange(20) % 3, np.linspace(0, 1, 20), np.linspace(1, 0, 20)], axis=1))
    assert main(["train", "a.npy", "--label", "0", "--conditional", *quick, "--out", "arrays"]) == 0
    assert main(["sample", "arrays", "--y", "2", "-n", "3", "--out", "s.npy"]) == 0
    assert np.load("s.npy").shape == (3, 2)
    np.save("b.npy", np.load("a.npy")[:, 1:])  # without labels: not another column of it
    run = open_run("arrays")
    np.testing.assert_array_equal(run.dataset("b.npy").train, run.dataset().train)
    assert run.dataset("b.npy").train_labels is None


def test_a_table_that_no_model_file_describes_is_read_by_position_or_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(minivae.data.schema, "STORED", (60, 2**17))
    (tmp_path / "p.csv").write_text(PENGUINS)
    quick = ["--epochs", "1", "--hidden-dims", "8", "--backend", "numpy", "--no-figures", "--out", "run"]
    assert main(["train", "p.csv", *quick]) == 1
    assert "its texts mean nothing without; leave them out (--drop)" in capsys.readouterr().err
    assert main(["train", "p.csv", *quick, "--drop", "species", "sex"]) == 0
    assert "the columns of other tables are read by position" in capsys.readouterr().err
    assert main(["encode", "run", "--out", "z.csv"]) == 0 and open_run("run").schema is None
    capsys.readouterr()
    assert main(["encode", "run", "p.csv", "--out", "z.csv"]) == 0
    assert "those of p.csv are read by position" in capsys.readouterr().err
    monkeypatch.setattr(minivae.data.schema, "STORED", (2**22, 2**17))
    assert main(["train", "p.csv", *quick[:-1], "whole", "--drop", "species", "sex"]) == 0
    (tmp_path / "holes.csv").write_text("mass;wing\n3,5;2\n;3\n")
    (tmp_path / "z.csv").write_text("z1,z2\n" + "1" * 200_000 + ",2\n")
    for command, words in ((["encode", "whole", "--data", "holes.csv"], "row 1 (from 0) has no value in column 'mass'"),
                           (["decode", "whole", "z.csv"], "z.csv cannot be read (field larger")):  # fmt: skip
        capsys.readouterr()
        assert main(command) == 1
        assert words in capsys.readouterr().err


# ---- Whatever is written

TEXTS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=6).map(
    lambda t: f"t{t}".strip()
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32).map(float)


@st.composite
def tables(draw):
    """Names, and columns of numbers or of two or three texts, some cells missing; no column that a rule leaves out."""
    rows, kinds = draw(st.integers(6, 12)), draw(st.lists(st.sampled_from("ntb"), min_size=2, max_size=5))
    names = draw(st.lists(TEXTS, min_size=len(kinds), max_size=len(kinds), unique=True))
    columns = []
    for kind in kinds:
        if kind == "n":
            cells = draw(st.lists(NUMBERS | st.none(), min_size=rows, max_size=rows))
            cells[0] = 0.5 if cells.count(None) == rows else cells[0]
        else:
            texts = draw(st.lists(TEXTS, min_size=2 + (kind == "t"), max_size=2 + (kind == "t"), unique=True))
            cells = [draw(st.sampled_from(texts)) for _ in range(rows - len(texts))] + texts
            if rows > 8:
                cells[0] = None
        columns.append(cells)
    return names, columns


def expected(columns):
    parts = []
    for cells in columns:
        seen = sorted({cell for cell in cells if isinstance(cell, str)})
        if not seen:
            parts.append([[nan if cell is None else cell] for cell in cells])
        elif len(seen) == 2:
            parts.append([[nan if cell is None else seen.index(cell)] for cell in cells])
        else:
            parts.append([[nan if cell is None else float(cell == text) for text in seen] for cell in cells])
    return np.concatenate([np.array(part, float) for part in parts], axis=1)


@settings(max_examples=60 * TRIALS, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_what_is_read_is_what_was_written(tmp_path_factory, data):
    names, columns = data.draw(tables())
    how = data.draw(st.sampled_from(["csv", "pandas", "polars", "parquet", "pandas frame", "polars frame"]))
    path = tmp_path_factory.getbasetemp() / ("any.parquet" if how == "parquet" else "any.csv")
    rows = len(columns[0])
    if how == "csv":
        delimiter, comma = data.draw(st.sampled_from(",;\t|")), data.draw(st.booleans())
        index = data.draw(st.booleans())
        out = io.StringIO()
        quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
        writer = csv.writer(
            out, delimiter=delimiter, quoting=quoting, lineterminator=data.draw(st.sampled_from(["\n", "\r\n"]))
        )
        writer.writerow([""] * index + names)
        missing = data.draw(st.sampled_from(["", "NA", "nan", "NULL", "?"]))
        mark = "," if comma and delimiter != "," else "."

        def cell(value):
            if isinstance(value, float):
                return repr(value).replace(".", mark)
            return missing if value is None else value

        for i in range(rows):
            writer.writerow([str(i)] * index + [cell(column[i]) for column in columns])
        blob = out.getvalue().encode(data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])))
        path.write_bytes(gzip.compress(blob, 1) if data.draw(st.booleans()) else blob)
        options = {"delimiter": delimiter, "decimal": mark} if data.draw(st.booleans()) else {"decimal": mark}
    else:
        library = "polars" if how.startswith("polars") else "pandas"
        module = pytest.importorskip(library, reason="frames need their library")
        frame = module.DataFrame(dict(zip(names, columns)))
        options = {}
        if how == "pandas":
            frame.to_csv(path, index=data.draw(st.booleans()))
        elif how == "polars":
            frame.write_csv(path)
        elif how == "parquet":
            pytest.importorskip("pyarrow", reason="Parquet needs pyarrow: pip install 'minivae[parquet]'")
            frame.to_parquet(path)
    dataset = load_dataset(frame if how.endswith("frame") else path, **options)
    np.testing.assert_array_equal(dataset.train, expected(columns))
    assert [column.name for column in dataset.schema.columns] == names
    back = dataset.schema.decode(dataset.train)
    for name, cells in zip(names, columns):
        assert [None if cell != cell else cell for cell in back[name].tolist()] == cells
