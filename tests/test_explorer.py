"""The explorer: one page that lets nothing else in, and whose decoder gives the numbers that Python gives."""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import re
import tracemalloc
import zlib

import numpy as np
import pytest

from minivae import VAE, DataError
from minivae.app.cli import main
from minivae.evaluation import inference
from minivae.explorer import contents, steps
from minivae.explorer.page import HERE, pack, page
from minivae.kernels import reference
from minivae.watching import Step

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
RNG = np.random.default_rng(0)
TABLE = np.column_stack(
    [
        1.7e9 + 1e5 * RNG.normal(size=60),
        RNG.integers(0, 2, 60),
        RNG.poisson(4, 60),
        RNG.poisson(4, 60),
        np.eye(3)[RNG.integers(3, size=60)],
    ]
)
KINDS = "gaussian bernoulli poisson negative_binomial categorical*3"


def fitted(X, y=None, **settings):
    given = {"hidden_dims": (7,), "epochs": 1, "batch_size": 20, "validation_fraction": 0, "backend": "numpy"}
    return VAE(**given | {"random_state": 1} | settings).fit(X, y)


def read(html):
    """What the page was given, with its arrays."""
    told = json.loads(re.search(r'<script type="application/json" id="contents">(.*?)</script>', html, re.S)[1])
    data, arrays = zlib.decompress(base64.b64decode(told.pop("packed"))), {}
    for name, dtype, shape in told["arrays"]:
        arrays[name] = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"), int(np.prod(shape))).reshape(shape)
        data = data[arrays[name].nbytes :]
    assert not data
    return told, arrays


@pytest.fixture(scope="module")
def grey():
    """Pictures of 8 x 6 as bytes, with labels, and a model of them."""
    X = RNG.integers(0, 256, (60, 48)).astype(np.uint8)
    y = np.array(["a", EVIL, "c"])[RNG.integers(3, size=60)]
    return fitted(X, likelihood="bernoulli", latent_dim=3), X, y


# ---- Without a browser


def test_the_policy_lets_in_what_the_page_holds_and_nothing_else(grey):
    vae, X, y = grey
    html = vae.to_html(X, y, image_shape=(8, 6), title=EVIL)
    assert html.count("<script") == 1 + html.count("<script>")  # the contents, and those of the policy
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1]
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    none = ["'none'"]
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == none
    for kind, tag in (("script-src", "script"), ("style-src", "style")):
        held = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.S)
        assert rules[kind] == [
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in held
        ]
    assert rules.keys() == {"default-src", "script-src", "style-src", "base-uri", "form-action"}
    html = html[: html.index('<script type="application/json"')] + html[html.index("</script>\n<script>") :]
    assert not re.search(r"https?:|//\w+\.|\bsrc=|\bhref=|url\(|@import|\son\w+=\"", html)


def test_nothing_moves_unasked_and_no_script_writes_markup():
    code = "".join(path.read_text() for path in HERE.iterdir() if path.suffix in (".js", ".css", ".html"))
    assert not re.search(r"animation|transition|setInterval|autoplay", code.replace("requestAnimationFrame", ""))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(", code)


def test_labels_names_and_titles_are_text(grey):
    vae, X, y = grey
    html = vae.to_html(X, y, title=EVIL)
    assert "<img" not in html and "alert(1)</script>" not in html
    told, arrays = read(html)
    assert told["title"] == EVIL and told["labels"]["classes"] == sorted({*y})
    assert [told["labels"]["classes"][code] for code in arrays["label"]] == y.tolist()


def test_what_is_embedded_is_what_the_model_says(grey):
    vae, X, y = grey
    told, arrays = read(vae.to_html(X, y, rows=np.array([5, 2, 40]), image_shape=(8, 6), precision="single"))
    assert arrays["row"].tolist() == [5, 2, 40]
    np.testing.assert_array_equal(arrays["x"] / told["bytes"] * 255, X[[5, 2, 40]])
    np.testing.assert_allclose(arrays["mu"], vae.transform(X[[5, 2, 40]]), rtol=2**-10, atol=1e-6)
    mu, logvar = vae.posterior(X[[5, 2, 40]])
    np.testing.assert_allclose(told["kl"], (0.5 * (mu**2 + np.exp(logvar) - 1 - logvar)).mean(axis=0), rtol=1e-4)
    assert told["kind"] == "image" and told["range"] == [0, 1] and told["precision"] == "single"
    assert told["training"][0].keys() >= {"epoch", "loss", "recon", "kl", "kept"}


def test_of_many_rows_some_are_points_and_fewer_have_originals(grey, monkeypatch):
    vae, X, y = grey
    monkeypatch.setattr(contents, "POINTS", 30)
    monkeypatch.setattr(contents, "ROOM", 48 * 11)
    _, arrays = read(vae.to_html(X, y))
    assert arrays["row"][[0, -1]].tolist() == [0, 59] and len(arrays["mu"]) == len(arrays["label"]) == 30
    np.testing.assert_array_equal(arrays["x"], X[arrays["row"][:11]])


STEPS = (
    {"likelihood": "bernoulli", "hidden_dims": (7, 5), "conditional": True},
    {"likelihood": "gaussian", "n_samples": 3, "objective": "iwae", "beta": 0.5},
    {"likelihood": "gaussian", "objective": "dreg", "n_samples": 3, "hidden_dims": ()},
)


@pytest.mark.parametrize("settings", STEPS, ids=str)
def test_the_step_on_the_page_is_that_of_inspect_whatever_the_weight(settings):
    X, y = RNG.uniform(size=(40, 6)), RNG.integers(3, size=40) if "conditional" in settings else None
    vae = fitted(X, y, **settings)
    told, arrays = read(vae.to_html(X, y, rows=np.arange(5, 40)))
    told, step = told["step"], Step(vae, X, y, np.arange(5, 21))
    loss, seen, moved = step.look()
    assert told["loss"] == pytest.approx(loss, rel=1e-12) and told["rows"] == 16 and len(told["weights"]) == len(moved)
    assert [row[1:] for row in told["seen"]] == [[one.array, [*one.values.shape], one.error] for one in seen]
    assert told["book"]["sample_forward"][1] == inspect.getsource(reference.sample_forward)
    known = {f"{one.array}": one for one in seen}
    for w, (entry, values, losses, slope) in enumerate(told["weights"]):
        name, index = step.entry(entry)
        assert losses[8] == pytest.approx(loss, rel=1e-12) and values[0] == values[8] - 1 == values[16] - 2
        path, _, last = name.rpartition(".")
        gradient = known[f"{path}.d{last}" if path else f"d{last}"]
        assert abs(gradient.values[index]) == abs(gradient.values).max()
        if gradient.error is None:
            assert slope is None and settings["objective"] == "dreg" and path == "encoder.0"
        else:
            near = [step.look({(name, index): values[8] + by}, check=False)[0] for by in (-1e-5, 1e-5)]
            assert (near[1] - near[0]) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-9)
        for at in (3, 8):
            loss_then, then, moved_then = step.look({(name, index): values[at]}, check=False)
            expected = [[one.told[n] for n in ("mean", "spread", "norm", "zeros")] for one in then]
            np.testing.assert_allclose(arrays["seen"][w, :, :4, at], expected, rtol=3e-5, atol=1e-12)
            far = [np.linalg.norm(b.values - a.values) / (np.linalg.norm(a.values) or 1) for a, b in zip(seen, then)]
            np.testing.assert_allclose(arrays["seen"][w, :, 4, at], far, rtol=3e-5, atol=1e-12)
            np.testing.assert_allclose(
                arrays["moved"][w, :, :, at], [[m.norm, m.gradient, m.change] for m in moved_then], rtol=3e-5
            )
            assert losses[at] == pytest.approx(loss_then, rel=1e-12)
    assert (arrays["seen"][0, :, 4, 3] > 0).any() and told["phases"][1][1] == told["calls"].index(
        next(call for call in told["calls"] if call[0] in ("join", "dense_forward"))
    )


def test_half_precision_where_no_eye_sees_it_and_single_where_one_would(grey):
    vae, X, _ = grey
    told, half = read(vae.to_html(X, precision="half"))
    assert read(vae.to_html(X))[0]["precision"] == "half"
    before, flat = vae.reconstruct(X), vae.network_.get_parameters()
    for name, values in contents.views(flat, vae.network_.layout).items():
        if name.startswith("decoder."):
            assert half[name].dtype == (np.float16 if name.endswith("W") else np.float32)
            values[...] = half[name]
    other = inference.in_double(vae.network_)
    other.set_parameters(flat)
    moved = np.abs(inference.decode(other, vae.transform(X)) - before).max()
    assert told["error"] == pytest.approx(moved, rel=0.02) and 0 < moved < contents.VISIBLE
    wild = fitted(X, likelihood="bernoulli", latent_dim=3)
    flat = wild.network_.get_parameters()
    contents.views(flat, wild.network_.layout)["decoder.1.W"][...] *= 300
    wild.network_.set_parameters(flat)
    told, _ = read(wild.to_html(X))
    assert told["precision"] == "single" and told["error"] < 1e-4
    assert read(wild.to_html(X, precision="half"))[0]["error"] > contents.VISIBLE
    contents.views(flat, wild.network_.layout)["decoder.1.W"][0, 0] = 1e6
    wild.network_.set_parameters(flat)
    with pytest.raises(ValueError, match="too large for half precision"):
        wild.to_html(X, precision="half")


def test_a_page_of_mnists_size_fits_in_a_mail():
    """784-500-2 with 5,000 rows of as many grey pixels as MNIST has: 100 of 784, in one piece."""
    X = np.zeros((5000, 28, 28), np.uint8)
    X[:, 9:19, 9:19] = RNG.integers(0, 256, (5000, 10, 10))
    X = X.reshape(5000, 784)
    vae = fitted(X[:100], hidden_dims=(500,), likelihood="bernoulli")
    html = vae.to_html(X, RNG.integers(10, size=5000), image_shape=(28, 28))
    told, arrays = read(html)
    assert len(html.encode()) < 1.5e6 and told["precision"] == "half"
    assert len(arrays["mu"]) == 5000 and len(arrays["x"]) > 1000


def test_the_columns_of_a_table_keep_names_units_and_holes():
    X = TABLE.copy()
    X[3, 0] = np.nan
    vae = fitted(X, likelihood=KINDS, missing="ignore", standardize=True)
    told, arrays = read(vae.to_html(X))
    assert [(f["name"], f["kind"], f["at"], f["count"]) for f in told["fields"]] == [
        *[("x0", "number", 0, 1), ("x1", "number", 1, 1), ("x2", "count", 2, 1), ("x3", "count", 3, 1)],
        ("x4 to x6", "category", 4, 3),
    ]
    shift, scale = np.array(told["model"]["shift"]), np.array(told["model"]["scale"])
    np.testing.assert_allclose(shift + scale * arrays["x"], X, rtol=1e-10)
    assert told["fields"][0]["range"] == [np.nanmin(X[:, 0]), np.nanmax(X[:, 0])]


def test_without_rows_there_is_a_page_too(grey):
    told, arrays = read(grey[0].to_html())
    assert not {"mu", "x", "label", "seen"} & arrays.keys() and told["labels"] is None and told["step"] is None


def test_a_large_model_has_no_step_and_says_so(grey, monkeypatch):
    monkeypatch.setattr(steps, "MOST", 100)
    told, arrays = read(grey[0].to_html(grey[1]))
    assert told["step"] is None and "seen" not in arrays and "No step can be watched" in told["words"][-1][1]


def test_colours_have_the_range_of_the_data_and_a_far_mean_stays_a_number(grey):
    X = RNG.normal(size=(40, 48))
    told, arrays = read(fitted(X, likelihood="gaussian", standardize=False).to_html(X, image_shape=(4, 4, 3)))
    assert told["range"] == [X.min(), X.max()] and arrays["mu"].dtype == np.float16
    assert read(grey[0].to_html(grey[1], image_shape=(4, 4, 3)))[0]["range"] == [0, 1]
    assert (
        read(grey[0].to_html(grey[1], image_shape=(1, 48)))[0]["kind"] == "series"
    )  # no eye would see it as a picture
    vae = fitted(X, likelihood="gaussian")
    flat = vae.network_.get_parameters()
    contents.views(flat, vae.network_.layout)["encoder.1.b"][0] = 1e5
    vae.network_.set_parameters(flat)
    assert abs(read(vae.to_html(X))[1]["mu"][:, 0] - 1e5).max() < 100


def test_errors_name_what_is_wrong(grey, tmp_path, capsys):
    vae, X, y = grey
    with pytest.raises(ValueError, match="y has 5 labels for the 60 rows of X; pass one for each"):
        vae.to_html(X, y[:5])
    with pytest.raises(ValueError, match="y has 60 labels for the 0 rows of X"):
        vae.to_html(y=y)
    with pytest.raises(ValueError, match="y has 1 labels for the 60 rows of X"):
        vae.to_html(X, 3)
    for rows in ([], [[1, 2]]):
        with pytest.raises(ValueError, match="rows names no row of X"):
            vae.to_html(X, rows=rows)
    with pytest.raises(ValueError, match="row 60 is not among the 60 rows"):
        vae.to_html(X, rows=[3, 60])
    with pytest.raises(TypeError, match="rows must be whole numbers, not float64"):
        vae.to_html(X, rows=[1.5])
    with pytest.raises(DataError, match="minimum of 1 is required"):
        vae.to_html(X[:0])
    with pytest.raises(ValueError, match=r"image_shape \(-6, -8\) does not fit"):
        vae.to_html(X, image_shape=(-6, -8))
    with pytest.raises(ValueError, match=r"image_shape \(7,\) does not fit rows of 48"):
        vae.to_html(X, image_shape=7)
    assert read(vae.to_html(X, rows=[3, 1]))[1]["row"].tolist() == [3, 1]
    with pytest.raises(ValueError, match=r"image_shape \(7, 7\) does not fit rows of 48"):
        vae.to_html(X, image_shape=(7, 7))
    with pytest.raises(ValueError, match="precision 'double' is not one of auto, half, single"):
        vae.to_html(X, precision="double")
    with pytest.raises(ValueError, match="not fitted"):
        VAE().to_html(X)
    with pytest.raises(DataError):
        vae.to_html(X[:, :5])
    vae.save(tmp_path / "model.npz")
    assert main(["explore", str(tmp_path / "model.npz"), "-o", "page.pdf"]) == 1
    assert main(["explore", str(tmp_path / "model.npz"), "--limit", "0"]) == 1
    assert main(["explore", str(tmp_path / "model.npz"), "--data", str(tmp_path / "gone.csv")]) == 1
    told = capsys.readouterr().err
    assert "page.pdf ends in none of .html" in told and "limit" in told


def test_the_command_writes_a_page_of_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", "--out", "run", "--epochs", "1", "--no-figures", "--quiet"]) == 0
    assert main(["explore", "run", "--limit", "50"]) == 0
    assert "50 of 297 test rows" in capsys.readouterr().out
    told, arrays = read((tmp_path / "explorer.html").read_text())
    capsys.readouterr()
    assert main(["inspect", "run", "-n", "16", "--json"]) == 0  # of the same rows where all are shown
    same = json.loads(capsys.readouterr().out)
    assert main(["explore", "run", "-o", "all.html"]) == 0
    step, seen = read((tmp_path / "all.html").read_text())[0]["step"], read((tmp_path / "all.html").read_text())[1]
    assert step["loss"] == pytest.approx(same["loss"], rel=1e-12) and not step["fresh"]
    changes = [one["change"] for one in same["parameters"]]
    np.testing.assert_allclose(seen["moved"][0, :, 2, 8], changes, rtol=1e-4)  # with the optimizer's moments
    assert told["shape"] == [8, 8] and told["title"] == "digits, test" and len(arrays["mu"]) == 50


def test_packing_keeps_every_array_to_the_bit():
    arrays = {"a": np.arange(5, dtype=">u4"), "b": np.array([[1.5, np.nan]], np.float16), "c": np.zeros(0, np.uint8)}
    found = read(page({"title": ""}, arrays))[1]
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert pack(arrays)[0] == [("a", "uint32", [5]), ("b", "float16", [1, 2]), ("c", "uint8", [0])]


def test_of_a_changed_weight_the_numbers_are_kept_and_not_the_arrays(monkeypatch):
    X = RNG.uniform(size=(60, 300)).astype(np.float32)
    vae, rows = fitted(X, likelihood="bernoulli", hidden_dims=(100,)), np.arange(16)
    one = sum(seen.values.nbytes for seen in Step(vae, X, None, rows).look()[1])
    monkeypatch.setattr(steps, "STOPS", 15)
    monkeypatch.setattr(steps, "WEIGHTS", 2)
    tracemalloc.start()
    steps.step_of(vae, X, None, rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * one  # of 30 places
