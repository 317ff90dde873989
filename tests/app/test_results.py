"""Results as files: what stands in them is what the methods of VAE return, row for row, to the last digit."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minivae import VAE, load_dataset
from minivae.app import results
from minivae.app.cli import main

RAW = load_dataset("digits")
FAST = ["--hidden-dims", "16", "--epochs", "2", "--quiet", "--no-figures"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on pictures with a test part, one on a file, one with holes, one that is told labels."""
    place = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    X = rng.normal(5, 3, (90, 4)).astype(np.float32)
    np.save(place / "mine.npy", X)
    np.save(place / "holes.npy", np.where(rng.uniform(size=X.shape) < 0.2, np.nan, X).astype(np.float32))
    before = os.getcwd()
    os.chdir(place)
    try:
        assert main(["train", "digits", *FAST, "--out", "digits"]) == 0
        assert main(["train", "digits", *FAST, "--out", "told", "--conditional"]) == 0
        assert main(["train", "mine.npy", *FAST, "--likelihood", "gaussian", "--divide-by", "4", "--out", "mine"]) == 0
        assert main(["train", "holes.npy", *FAST, "--likelihood", "gaussian", "--missing", "ignore", "--out", "h"]) == 0
    finally:
        os.chdir(before)
    return place


@pytest.fixture(autouse=True)
def in_the_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


def read(text):
    """Columns by name, as texts."""
    rows = list(csv.reader(io.StringIO(text)))
    return {name: [row[j] for row in rows[1:]] for j, name in enumerate(rows[0])}


def matrix(table, letter, dtype=np.float32):
    names = [name for name in table if name.strip("0123456789") == letter]
    assert names == [f"{letter}{j + (letter != 'x')}" for j in range(len(names))]
    return np.array([table[name] for name in names], dtype).T


def test_encode_writes_the_means_of_every_row_to_the_last_bit(capsys, monkeypatch):
    monkeypatch.setattr(results, "PIECE", 1024)
    vae = VAE.load("digits/model.npz")
    mu, logvar = vae.posterior(RAW.train)
    assert main(["encode", "digits", "--split", "train", "--sigma", "--out", "z.npy"]) == 0
    assert capsys.readouterr().out == "wrote z.npy: 1,500 rows of digits (train)\n"
    np.testing.assert_array_equal(np.load("z.npy"), np.hstack([mu, np.exp(logvar / 2)]))
    for out in ("z.csv", "z.tsv", "-"):
        assert main(["encode", "digits", "--split", "train", "--sigma", "--out", out]) == 0
        printed = capsys.readouterr().out
        text = printed if out == "-" else Path(out).read_bytes().decode()
        table = read(text.replace("\t", ","))
        assert [*table] == ["label", "z1", "z2", "sigma1", "sigma2"] and "\r" not in text
        assert table["label"] == RAW.train_labels.astype(str).tolist()
        np.testing.assert_array_equal(matrix(table, "z"), mu)
        np.testing.assert_array_equal(matrix(table, "sigma"), np.exp(logvar / 2))


def test_rows_line_up_with_the_file_or_say_which_they_are(capsys):
    vae, X = VAE.load("mine/model.npz"), np.load("mine.npy")
    assert main(["encode", "mine"]) == 0
    table = read(capsys.readouterr().out)
    assert [*table] == ["z1", "z2"]
    np.testing.assert_array_equal(matrix(table, "z"), vae.transform(X))
    assert main(["encode", "mine", "--split", "validation"]) == 0
    table = read(capsys.readouterr().out)
    assert [*table] == ["row", "z1", "z2"] and table["row"] == vae.held_rows_.astype(str).tolist()
    np.testing.assert_allclose(matrix(table, "z"), vae.transform(X)[vae.held_rows_], rtol=1e-5, atol=1e-6)
    np.save("other.npy", X[:7])
    for which in (["other.npy"], ["--data", "other.npy"]):
        assert main(["encode", "mine", *which]) == 0
        assert len(read(capsys.readouterr().out)["z1"]) == 7
    assert main(["encode", "mine", "other.npy", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [[*record.values()] for record in records] == vae.transform(X[:7]).tolist()
    assert main(["encode", "mine", "other.npy", "--json", "-o", "z.csv"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": "z.csv", "data": "other.npy", "split": "all", "rows": 7}


def test_decode_takes_what_encode_wrote(capsys, monkeypatch):
    vae, X = VAE.load("mine/model.npz"), np.load("mine.npy")
    for z in ("z.csv", "z.tsv", "z.npy"):
        assert main(["encode", "mine", "--out", z]) == 0
        assert main(["decode", "mine", z, "--out", "x.npy"]) == 0
        np.testing.assert_array_equal(np.load("x.npy"), 4 * vae.reconstruct(X))
    assert main(["encode", "mine"]) == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO(capsys.readouterr().out.split("\n", 3)[-1]))
    assert main(["decode", "mine", "-"]) == 1  # no header
    assert "it has no column z1" in capsys.readouterr().err
    for content in (b"z1,z2,label\n0,1,\xe4\n", b"z1,z2\n0," + b"1" * 200_000, b"z1,z2\n0\n", b"z1,z2\n", b""):
        Path("bad.csv").write_bytes(content)
        assert main(["decode", "mine", "bad.csv"]) == 1
        said = capsys.readouterr().err
        assert said.startswith("minivae: bad.csv cannot be read (") and len(said.splitlines()) == 1
    Path("bad.parquet").write_bytes(b"PAR1")
    assert main(["decode", "mine", "bad.parquet"]) == 1 and "bad.parquet" in capsys.readouterr().err


def test_what_a_model_is_told_goes_along(capsys):
    vae = VAE.load("told/model.npz")
    assert main(["encode", "told", "--out", "z.csv"]) == 0
    assert main(["decode", "told", "z.csv", "--out", "x.npy"]) == 0
    expected = vae.reconstruct(RAW.test, RAW.test_labels)
    np.testing.assert_array_equal(np.load("x.npy"), expected)
    assert main(["encode", "told", "--out", "z.npy"]) == 0
    assert main(["decode", "told", "z.npy"]) == 1
    assert "--y" in capsys.readouterr().err
    assert main(["decode", "told", "z.npy", "--y", "3", "--out", "x.npy"]) == 0
    np.testing.assert_array_equal(np.load("x.npy"), vae.inverse_transform(np.load("z.npy"), [3]))
    capsys.readouterr()
    assert main(["sample", "told", "-n", "12", "--out", "-"]) == 0
    assert read(capsys.readouterr().out)["label"] == [str(i % 10) for i in range(12)]


def test_numbers_are_in_the_units_of_the_data(capsys):
    """.npy of uint8 pixels are fractions: so the model reads floats."""
    for run, unit, back in (("digits", 255, 1), ("mine", 4, 4)):
        vae = VAE.load(f"{run}/model.npz")
        samples = vae.sample(6)
        assert main(["sample", run, "-n", "6", "--out", "s.csv"]) == 0
        with open("s.csv") as file:
            np.testing.assert_array_equal(matrix(read(file.read()), "x"), unit * samples)
        assert main(["sample", run, "-n", "6", "--out", "s.npy"]) == 0
        np.testing.assert_array_equal(np.load("s.npy"), back * samples)
        capsys.readouterr()
        assert main(["encode", run, "s.npy"]) == 0
        expected = vae.transform(np.load("s.npy"))
        np.testing.assert_array_equal(matrix(read(capsys.readouterr().out), "z"), expected)
    assert main(["reconstruct", "digits", "-n", "5", "--out", "-"]) == 0
    table = read(capsys.readouterr().out)
    assert table["label"] == RAW.test_labels[:5].astype(str).tolist()
    np.testing.assert_array_equal(matrix(table, "x"), 255 * VAE.load("digits/model.npz").reconstruct(RAW.test[:5]))


def test_score_is_what_the_methods_say(capsys):
    vae, X = VAE.load("mine/model.npz"), np.load("mine.npy")
    assert main(["score", "mine", "--n-samples", "9", "--worst", "3"]) == 0
    table = read(capsys.readouterr().out)
    assert [*table] == ["elbo", "kl", "anomaly_score", "log_likelihood", "worst1", "worst2", "worst3"]
    scores = {name: np.array(table[name], np.float32) for name in table if "worst" not in name}
    np.testing.assert_array_equal(scores["elbo"], vae.score_samples(X))
    np.testing.assert_array_equal(scores["anomaly_score"], vae.anomaly_score(X))
    np.testing.assert_array_equal(scores["log_likelihood"], vae.score_samples(X, n_samples=9))
    order = np.argsort(-vae.anomaly_score(X, per_column=True), axis=1)
    for j in range(3):
        assert table[f"worst{j + 1}"] == [f"x{column}" for column in order[:, j]]
    assert main(["score", "mine"]) == 0 and "worst" not in capsys.readouterr().out
    for bad in ("--n-samples", "--worst"):
        assert main(["score", "mine", bad, "-1"]) == 1 and bad[2:].replace("-", "_") in capsys.readouterr().err


def test_what_was_not_observed_is_not_what_fits_worst(capsys):
    X = np.where(np.arange(90)[:, None] == 5, np.nan, np.load("holes.npy"))
    np.save("emptier.npy", X)
    assert main(["score", "h", "emptier.npy", "--worst", "4"]) == 0
    table = read(capsys.readouterr().out)
    for i, seen in enumerate(~np.isnan(X)):
        assert sorted(table[f"worst{j + 1}"][i] for j in range(seen.sum())) == [f"x{j}" for j in np.flatnonzero(seen)]
        assert all(table[f"worst{j + 1}"][i] == "" for j in range(seen.sum(), 4))


def test_impute_fills_what_is_missing_and_nothing_else(capsys):
    vae, X = VAE.load("h/model.npz"), np.load("holes.npy")
    assert main(["impute", "h", "--n-samples", "20", "--out", "full.npy"]) == 0
    full = np.load("full.npy")
    np.testing.assert_array_equal(full, vae.impute(X, n_samples=20))
    np.testing.assert_array_equal(full[~np.isnan(X)], X[~np.isnan(X)])
    assert np.isfinite(full).all() and np.isnan(X).any()
    capsys.readouterr()
    assert main(["impute", "h", "--n-samples", "20"]) == 0
    np.testing.assert_array_equal(matrix(read(capsys.readouterr().out), "x", np.float64), full)
    assert main(["impute", "mine"]) == 1 and "missing='ignore'" in capsys.readouterr().err


def test_parquet(capsys):
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    assert main(["encode", "digits", "--out", "z.parquet"]) == 0
    table = parquet.read_table("z.parquet").to_pydict()
    np.testing.assert_array_equal(
        np.array([table["z1"], table["z2"]]).T, VAE.load("digits/model.npz").transform(RAW.test)
    )
    assert table["label"] == RAW.test_labels.tolist()
    assert (
        main(["encode", "told", "--out", "z.parquet"]) == main(["decode", "told", "z.parquet", "--out", "x.npy"]) == 0
    )
    np.testing.assert_array_equal(np.load("x.npy"), VAE.load("told/model.npz").reconstruct(RAW.test, RAW.test_labels))


def test_yes_and_no_are_told_as_they_are_written(capsys):
    X, y = np.random.default_rng(0).uniform(size=(40, 3)), np.arange(40) % 2 == 0
    np.savez("b.npz", X=X, y=y)
    assert main(["train", "b.npz", *FAST, "--conditional", "--out", "b"]) == 0
    assert main(["encode", "b", "--out", "z.csv"]) == main(["decode", "b", "z.csv", "--out", "x.npy"]) == 0
    np.testing.assert_array_equal(np.load("x.npy"), VAE.load("b/model.npz").reconstruct(X, y))
    assert main(["sample", "b", "--y", "True", "-n", "2", "--out", "s.npy"]) == 0
    np.testing.assert_array_equal(np.load("s.npy"), VAE.load("b/model.npz").sample(2, y=True))
    assert main(["sample", "b", "--y", "Yes", "--out", "s.npy"]) == 1
    assert "'Yes' is none of the labels of this model, 'False', 'True'" in capsys.readouterr().err


def test_nothing_is_lost_where_two_columns_have_one_name(capsys):
    rng = np.random.default_rng(0)
    with open("names.csv", "w") as file:
        rows = ("{},{},{},{}\n".format("ab"[i % 2], *rng.normal(size=3)) for i in range(40))
        file.writelines(["z1,row,kl,c\n", *rows])
    assert main(["train", "names.csv", "--label", "z1", *FAST, "--conditional", "--out", "n"]) == 0
    assert main(["encode", "n", "--out", "z.csv"]) == main(["decode", "n", "z.csv", "--out", "x.npy"]) == 0
    data, vae = load_dataset("names.csv", label="z1"), VAE.load("n/model.npz")
    np.testing.assert_array_equal(np.load("x.npy"), vae.reconstruct(data.train, data.train_labels))
    assert [*read(Path("z.csv").read_text())] == ["z1_", "z1", "z2"]
    capsys.readouterr()
    assert main(["reconstruct", "n", "-n", "9", "--split", "validation", "--out", "-"]) == 0
    table = read(capsys.readouterr().out)
    assert [*table] == ["row_", "z1_", "row", "kl", "c"] and table["row_"] == vae.held_rows_.astype(str).tolist()
    assert main(["train", "names.csv", "--label", "kl", *FAST, "--out", "n2"]) == 0
    capsys.readouterr()
    assert main(["score", "n2"]) == 0
    table = read(capsys.readouterr().out)
    assert [*table][:4] == ["kl_", "elbo", "kl", "anomaly_score"]
    np.testing.assert_allclose(np.array(table["kl_"], float), load_dataset("names.csv").train[:, -2])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["encode", "mine", "--out", "z.xlsx"], "--out z.xlsx ends in none of .csv, .tsv, .parquet, .npy"),
        (["score", "mine", "--out", "z.npy"], "--out z.npy ends in none of .csv, .tsv, .parquet"),
        (["sample", "mine", "--out", "s"], "--out s ends in none of"),
        (["encode", "mine", "--out", "nowhere/z.csv"], "nowhere, where z.csv should go, is not a folder"),
        (["encode", "mine", "--out", "mine/"], "--out mine/ ends in none of"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(arguments, words, capsys, monkeypatch):
    monkeypatch.setattr(VAE, "load", lambda *_: pytest.fail("the work had begun"))
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert words in said.err and len(said.err.splitlines()) == 1 and said.out == ""


def test_bad_rows_leave_the_file_that_was_there(capsys):
    with open("kept.csv", "w") as file:
        file.write("mine\n")
    X = np.zeros((9, 4), np.float32)
    X[8, 2] = np.nan
    np.save("bad.npy", X)
    for command in ("encode", "score"):
        assert main([command, "mine", "bad.npy", "--out", "kept.csv"]) == 1
        said = capsys.readouterr()
        assert "row 8, column 2" in said.err and said.out == ""
        assert main([command, "mine", "bad.npy"]) == 1 and capsys.readouterr().out == ""
    with open("bad.csv", "w") as file:
        file.write("z1,z2\n0,1\n0,oops\n")
    assert main(["decode", "mine", "bad.csv", "--out", "kept.csv"]) == 1
    assert "'oops'" in capsys.readouterr().err
    with open("kept.csv") as file:
        assert file.read() == "mine\n"
    assert not [name for name in os.listdir() if name.startswith(".minivae-")]


@pytest.mark.skipif(os.name != "posix", reason="uses a pipe that closes early")
def test_a_reader_that_leaves_is_no_error():
    run = f'"{sys.executable}" -m minivae'
    script = f"{run} encode digits --split train | {run} decode digits - | head -n 2"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("x0,x1,") and len(result.stdout.splitlines()) == 2 and result.stderr == ""


# ---- Tables: their names, texts and decimal commas


@pytest.fixture(scope="module")
def penguins(folder):
    """A table as people have them: an index, decimal commas, quotes, texts, a label, holes; and the run on it."""
    rng = np.random.default_rng(3)
    rows = []
    for i in range(60):
        kind = rng.choice(["Adélie", 'Gen"too', "Chin; strap"])
        row = [i + 1, kind, f"{rng.normal(45, 3):.2f}".replace(".", ","), f"{rng.integers(3000, 5000)}"]
        row += [rng.choice(["m", "f"]), f"note {i}", rng.choice(["north", "south"])]
        for j in (1, 2, 3, 4):
            row[j] = rng.choice(["", "NA"]) if rng.uniform() < 0.15 else row[j]
        rows.append(row)
    with open(folder / "penguins.csv", "w", newline="", encoding="utf-8") as file:
        head = ["id", "species", "bill, mm", "mass", "sex", "note", "side"]
        csv.writer(file, delimiter=";", lineterminator="\n").writerows([head, *rows])
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert main(["train", "penguins.csv", "--label", "side", *FAST, "--out", "penguins"]) == 0
    finally:
        os.chdir(before)
    return list(csv.reader(io.StringIO((folder / "penguins.csv").read_text(encoding="utf-8")), delimiter=";"))


def test_an_imputed_table_is_the_file_but_for_its_holes(penguins, capsys, monkeypatch):
    monkeypatch.setattr(results, "PIECE", 1024)
    vae = VAE.load("penguins/model.npz")
    dataset = load_dataset("penguins.csv", label="side")
    expected = dataset.schema.decode(vae.impute(dataset.train, n_samples=9))
    for out in ("full.csv", "-", "full.tsv"):
        capsys.readouterr()
        assert main(["impute", "penguins", "--n-samples", "9", "--out", out]) == 0
        text = capsys.readouterr().out if out == "-" else Path(out).read_text(encoding="utf-8")
        full = list(csv.reader(io.StringIO(text), delimiter="\t" if out.endswith("tsv") else ";"))
        assert full[0] == penguins[0] and len(full) == len(penguins)
        filled = 0
        for i, (row, before) in enumerate(zip(full[1:], penguins[1:], strict=True)):
            for name, cell, old in zip(full[0], row, before, strict=True):
                if old not in ("", "NA"):
                    assert cell == old
                    continue
                filled += 1
                value = expected[name][i]
                assert cell == value if isinstance(value, str) else float(cell.replace(",", ".")) == value
        assert filled > 10
    assert Path("full.csv").read_text(encoding="utf-8").startswith("id;species;bill, mm;mass;sex;note;side\n1;")
    assert main(["impute", "penguins", "--n-samples", "9", "--out", "full.npy"]) == 0  # a matrix, as there are texts
    np.testing.assert_array_equal(np.load("full.npy"), vae.impute(dataset.train, n_samples=9))
    capsys.readouterr()
    assert main(["impute", "penguins", "full.csv", "--out", "-"]) == 0  # which is a table to read again
    assert capsys.readouterr().out.endswith(Path("full.csv").read_text(encoding="utf-8"))


def test_columns_have_the_names_of_the_table(penguins, capsys):
    vae, names = VAE.load("penguins/model.npz"), ["species", "bill, mm", "mass", "sex"]
    dataset = load_dataset("penguins.csv", label="side")
    sides = [row[6] for row in penguins[1:]]
    capsys.readouterr()
    assert main(["sample", "penguins", "-n", "9", "--noise", "--out", "-"]) == 0
    table = read(capsys.readouterr().out)
    assert [*table] == names and set(table["species"]) <= {"Adélie", 'Gen"too', "Chin; strap"}
    samples = dataset.schema.decode(VAE.load("penguins/model.npz").sample(9, noise=True))
    np.testing.assert_array_equal(np.array(table["mass"], np.float32), samples["mass"].astype(np.float32))
    assert main(["encode", "penguins"]) == 0
    table = read(capsys.readouterr().out)
    assert [*table] == ["side", "z1", "z2"] and table["side"] == sides
    np.testing.assert_array_equal(matrix(table, "z"), vae.transform(dataset.train))
    assert main(["score", "penguins"]) == 0
    table = read(capsys.readouterr().out)
    assert [*table][-4:] == ["missing", "worst1", "worst2", "worst3"]
    starts = [0, *range(3, dataset.train.shape[1])]
    assert table["missing"] == np.isnan(dataset.train[:, starts]).sum(axis=1).astype(str).tolist()
    # beside what a column's units and noise add to each of its cells: the largest numbers do not fit worst in each row
    cells = vae.anomaly_score(dataset.train, per_column=True) - np.nan_to_num(np.log(vae.sigma_))
    by_column = np.column_stack([cells[:, :3].sum(axis=1), *cells[:, 3:].T])
    assert table["worst1"] == [names[j] for j in by_column.argmax(axis=1)]
    assert main(["impute", "penguins", "--split", "validation"]) == 0
    table = read(capsys.readouterr().out)
    assert [*table] == ["row", "side", *names] and table["row"] == vae.held_rows_.astype(str).tolist()
