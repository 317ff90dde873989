"""A step that is looked at is the step that training takes, its gradients are judged, a change moves what follows."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from minivae import VAE, load_dataset
from minivae.app.cli import main
from minivae.kernels import reference
from minivae.watching import Step

X = load_dataset("digits").train[:300]
SMALL = {"hidden_dims": (16,), "latent_dim": 3, "epochs": 2, "random_state": 0, "backend": "numpy", "batch_size": 50}
FORMS = (
    {},
    {"objective": "iwae", "n_samples": 4, "beta": 0.7},
    {"objective": "dreg", "n_samples": 3},
    {"objective": "stl", "n_samples": 3, "likelihood": "gaussian"},
    {"likelihood": "gaussian", "n_samples": 2, "activation": "gelu"},
    {"likelihood": "gaussian", "sigma": "elementwise", "missing": "input"},
    {"binarize": "dynamic"},
    {"capacity": 2.0, "optimizer": "sgd", "max_grad_norm": 0.5, "conditional": True},
)


def fitted(form, **more):
    vae = VAE(**SMALL | form | more)
    return vae.fit(X, X.sum(axis=1).argsort() % 3 if vae.conditional else None)


def labels(vae, n):
    return np.arange(n) % 3 if vae.conditional else None


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_it_is_the_step_that_training_takes(form):
    """partial_fit on the same rows as one batch, in float64: the loss that it records, and the parameters it ends with."""
    vae = fitted(form, dtype="float64")
    twin = copy.deepcopy(vae).set_params(batch_size=9)
    loss, seen, moved = Step(vae, X[:9], labels(vae, 9)).look()
    before = twin.network_.get_parameters()
    twin.partial_fit(X[:9], labels(vae, 9))
    record, change = twin.history_[-1], twin.network_.get_parameters() - before
    assert loss == pytest.approx(record["loss"], rel=1e-10)
    norms = {one.array: float(np.linalg.norm(one.values)) for one in seen}
    assert norms["norm"] == pytest.approx(record["grad_norm"], rel=1e-10)
    assert np.sqrt(sum(one.change**2 for one in moved)) == pytest.approx(np.linalg.norm(change), rel=1e-8)
    clipped = min(norms["norm"], vae.max_grad_norm or np.inf)
    assert np.sqrt(sum(one.gradient**2 for one in moved)) == pytest.approx(clipped, rel=1e-6)
    assert norms["g"] == pytest.approx(clipped, rel=1e-6)
    for name in ("beta", "capacity", "learning_rate"):
        assert Step(vae, X[:9], labels(vae, 9)).variables[name] == pytest.approx(record[name], rel=1e-12)
    assert (vae.network_.get_parameters() == before).all()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_gradient_is_judged_but_those_of_no_loss(form):
    vae = fitted(form)
    found = {one.array: one.error for one in Step(vae, X[:5], labels(vae, 5)).look()[1]}
    gradients = {"dout", "dz", "dh", "decoder.0.dy", "encoder.0.dy", "encoder.0.dW", "encoder.1.db", "decoder.1.dW"}
    assert gradients <= found.keys() and not {"z", "h", "x", "nll", "kl"} & {
        n for n, e in found.items() if e is not None
    }
    judged = {name for name in gradients if found[name] is not None}
    without = {name for name in gradients if name == "dh" or name.startswith("encoder")}
    assert judged == (gradients - without if form.get("objective") in ("stl", "dreg") else gradients)
    assert all(error < 1e-7 for error in found.values() if error is not None)


@pytest.mark.parametrize(
    ("form", "changed"),
    (
        ({"objective": "iwae", "n_samples": 3}, ("weigh", "dout")),
        ({"binarize": "dynamic"}, ("binarize", "x")),
        ({"likelihood": "gaussian", "missing": "ignore"}, ("observe", "x")),
    ),
    ids=str,
)
def test_what_is_changed_in_place_is_shown_where_it_changes(form, changed):
    X_ = X / 255
    X_[0, :3] = np.nan if "missing" in form else 0
    step = Step(VAE(**SMALL | form).fit(X_), X_[:5])
    seen = step.look()[1]
    assert {one.number for one in seen} == set(range(1, len(step.program)))  # all but the optimizer's
    arrays = [(one.call.kernel, one.array) for one in seen]
    assert changed in arrays and all(np.isfinite(one.values).all() for one in seen[1:])
    douts = [one.error for one in seen if one.array == "dout"]
    assert douts[-1] < 1e-7 and not any(douts[:-1])  # only what is whole is judged


def test_schedules_go_on_within_an_epoch_and_stay_where_the_last_one_left_them():
    warm = {"kl_warmup": 3, "schedule": "cosine", "epochs": 3}
    vae = fitted(warm)
    wanted = {name: vae.history_[-1][name] for name in ("beta", "learning_rate")}
    assert wanted.items() <= Step(vae, X[:4]).variables.items()
    part = fitted(warm, callbacks=[lambda vae, record: record["epoch"] == 2 and vae.stop("enough")])
    assert Step(part, X[:4]).variables["beta"] == pytest.approx(2 / 3)  # where the third epoch begins
    part.trainer_.begun = np.zeros((3, 5))  # of the six steps of an epoch
    assert Step(part, X[:4]).variables["beta"] == pytest.approx((2 + 3 / 6) / 3)


def test_a_file_of_the_epoch_that_was_kept_goes_on_from_there(tmp_path):
    vae = fitted({"schedule": "cosine", "epochs": 4})
    for record in vae.history_:
        record["kept"] = record["epoch"] == 2
    vae.save(tmp_path / "model.npz", include_optimizer=False)
    step, second = Step(VAE.load(tmp_path / "model.npz"), X[:4]), vae.history_[1]
    assert step.fresh and step.variables["step"] == second["step"] + 1
    assert step.variables["learning_rate"] == pytest.approx(0.5e-3)  # half of the cosine


def test_a_wrong_gradient_shows_where_it_arises_and_in_all_that_follows(monkeypatch):
    right = reference.sample_backward

    def wrong(dh, dz, h, eps, dkl_mean, weight):
        right(dh, dz, h, -eps, dkl_mean, weight)  # other noise than the forward pass had

    step = Step(fitted({}), X[:5])
    monkeypatch.setattr(reference, "sample_backward", wrong)
    found = {one.array: one.error for one in Step(fitted({}), X[:5]).look()[1]}
    wrong_ones = {name for name, error in found.items() if error is not None and error > 1e-6}
    assert wrong_ones == {"dh", *(name for name in found if name.startswith("encoder.") and "d" in name.split(".")[2])}
    assert all(one.error is None or one.error < 1e-7 for one in step.look()[1])


def test_a_changed_weight_moves_what_comes_after_it_and_nothing_before():
    step = Step(fitted({}), X[:6])
    loss, seen, _ = step.look()
    entry = step.entry("decoder.0.W[1, 7]")
    other, changed, _ = step.look({entry: 2.0}, check=False)
    moved = {a.array for a, b in zip(seen, changed, strict=True) if not np.array_equal(a.values, b.values)}
    still = {"x", "noise", "encoder.0.y", "h", "z", "kl", "kl_mean", "dkl_mean"}
    assert loss != other and moved == {one.array for one in seen} - still
    step.network.named["decoder.0.W"][...] = 0  # whatever is left there, each look begins with the model
    again, same, _ = step.look()
    assert again == loss and all(np.array_equal(a.values, b.values) for a, b in zip(seen, same, strict=True))


def test_a_checkpoint_of_the_first_epoch_has_a_next_step():
    vae = fitted({})
    vae.history_.clear()
    vae.trainer_.epoch = vae.trainer_.step = vae.trainer_.updates = 0
    step = Step(vae, X[:4])
    assert (step.variables["step"], step.variables["update"]) == (1, 1) and np.isfinite(step.look()[0])


@pytest.mark.parametrize(
    ("text", "message"),
    (
        ("z", "'z' names no entry of a parameter; write one as encoder.0.W"),
        ("decoder.0.W", "'decoder.0.W' names no entry"),
        ("decoder.9.W[0, 0]", "names no entry"),
        ("decoder.0.W[3, 0]", r"lies outside of decoder.0.W, which has shape \(3, 16\)"),
        ("decoder.0.b[1, 1]", "lies outside of decoder.0.b"),
    ),
)
def test_what_is_no_entry_is_said(text, message):
    with pytest.raises(ValueError, match=message):
        Step(fitted({}), X[:2]).entry(text)


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--hidden-dims", "16", "--epochs", "3", "--schedule", "cosine", "--quiet", "--no-figures", "-o", "run"]
    assert main(["train", "digits", *options]) == 0
    capsys.readouterr()
    assert main(["inspect", "run", "-n", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    vae = VAE.load("run/checkpoint.npz")
    assert (
        told["step"] == vae.trainer_.step + 1 and told["rows"] == 4 and told["model"] == str(Path("run/checkpoint.npz"))
    )
    assert told["learning_rate"] == vae.history_[-1]["learning_rate"]
    assert {row["book"].split(":")[0] for row in told["calls"]} == {"reference.py", "philox.py"}
    first = next(row for row in told["calls"] if row["array"] == "encoder.0.y")
    code = reference.dense_forward.__code__
    assert first["book"] == f"reference.py:{code.co_firstlineno}" and first["shape"] == [4, 16] and first["zeros"] > 0
    assert all(one["change"] > 0 for one in told["parameters"])
    assert main(["inspect", "run", "-n", "4", "--set", "decoder.0.W[1, 7]=2", "decoder.0.b[0]=-1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[-1] == f"loss {told['loss']:.6f} nats per example -> {lines[-1].split(' -> ')[1]}"
        and "7]=2 dec" in lines[-1]
    )
    assert next(line for line in lines if line.startswith("      z ")).endswith("0.0e+00")
    assert not next(line for line in lines if line.startswith("      dz ")).endswith("0.0e+00")
    assert main(["inspect", "run", "-n", "4", "--set", "decoder.0.W[1, 7]=2", "--set", "decoder.0.b[0]=-1"]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert main(["inspect", "run/model.npz", "-n", "4"]) == 0  # the model as it is, whatever lies beside it
    out = capsys.readouterr().out
    assert "of run/model.npz on 4 rows" in out and "no moments of the optimizer: they begin at 0" in out
    for setting in ("decoder.0.W[1, 7]", "decoder.0.W[1, 7]=x", "decoder.0.W[1, 7]=nan"):
        assert main(["inspect", "run", "--set", setting]) == 1
        assert f"--set {setting} is no setting; write one as 'decoder.0.W[1, 7]=0.5'" in capsys.readouterr().err
