"""The loop: determinism, history, the best epoch, stops, and what happens when a number stops being one."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest

from minivae import VAE, NotFinite, progress, randomness
from minivae.architecture import Architecture, initial_parameters
from minivae.data.batches import Examples
from minivae.evaluation.inference import draws_for, elbo_of
from minivae.kernels import load
from minivae.network import Network, Workspace
from minivae.optimizers import Optimizer
from minivae.training import Objective, Trainer


def small_trainer(data, seed=0, batch_size=32, optimizer=None, objective=None, dtype="float32", **keywords):
    network = Network(Architecture(data.shape[1], 2, (16,)), load("numpy"), dtype)
    network.set_parameters(initial_parameters(network.arch, seed))
    return Trainer(network, optimizer or Optimizer(), objective or Objective(), batch_size, seed, **keywords)


def rows_of(data):
    return Examples(data, np.arange(len(data)))


def test_same_seed_same_run_to_the_last_bit_and_another_seed_another(digits):
    runs = [VAE(hidden_dims=(32,), epochs=3, random_state=seed).fit(digits[0]) for seed in (7, 7, 8)]
    first, again, other = (run.network_.get_parameters() for run in runs)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    timing = ("seconds", "examples_per_second")
    strip = [[{k: v for k, v in r.items() if k not in timing} for r in run.history_] for run in runs]
    assert strip[0] == strip[1] != strip[2]


def test_training_lowers_the_loss_on_examples_it_has_not_seen(digits):
    vae = VAE(hidden_dims=(64,), epochs=40, batch_size=32, random_state=0)
    vae.fit(digits[0])
    pixel_mean = digits[0].mean(axis=0).clip(1e-3, 1 - 1e-3)
    entropy = -(digits[1] * np.log(pixel_mean) + (1 - digits[1]) * np.log(1 - pixel_mean)).sum(axis=1).mean()
    # better than the best model without a latent variable by a nat and more
    assert -vae.score(digits[1]) < entropy - 1


def test_history_holds_what_it_says(digits):
    data = digits[0][:200]
    trainer = small_trainer(data, batch_size=64, objective=Objective(beta=2.0, kl_warmup=4.0, free_bits=0.25))
    trainer.fit(rows_of(data), 2, test=rows_of(digits[1]))
    first, second = trainer.history
    assert [first["epoch"], second["epoch"]] == [1, 2] and [first["step"], second["step"]] == [4, 8]
    for record in trainer.history:
        floor = np.maximum(record["kl_per_dim"], 0.25).sum()
        assert record["loss"] == pytest.approx(record["recon"] + record["beta"] * floor, rel=1e-12)
        assert record["kl"] == pytest.approx(sum(record["kl_per_dim"]))
        assert record["grad_norm"] > 0 and record["examples_per_second"] > 0
    # beta rises linearly: the last step of epoch 1 begins at example 192 of 200
    assert first["beta"] == pytest.approx(2.0 * (192 / 200) / 4) and second["beta"] == pytest.approx(2 * (1.96) / 4)
    rows = rows_of(digits[1])
    recon, kl, _ = elbo_of(trainer.network, rows, seed=0, draws=draws_for(rows))(0)
    assert second["test_recon"] == pytest.approx(recon.mean()) and second["test_kl"] == pytest.approx(kl.sum(1).mean())


def test_epoch_mean_weighs_a_short_last_batch_by_its_rows(digits):
    data = digits[0][:70]
    frozen = Optimizer("sgd", learning_rate=1e-30)  # parameters stay, so that the epoch's mean can be computed again
    one, many = small_trainer(data, batch_size=70, optimizer=frozen), small_trainer(data, 0, 32, frozen)
    for trainer in (one, many):
        trainer.fit(rows_of(data), 1)
    # kl does not depend on noise, so the two ways to cut 70 rows agree exactly but for rounding
    assert many.history[0]["kl"] == pytest.approx(one.history[0]["kl"], rel=1e-5)


def test_every_example_is_seen_once_per_epoch(digits, monkeypatch):
    seen, steps = [], Workspace.steps

    def spy(self, rows, **variables):
        seen.extend(rows.ravel().tolist())
        return steps(self, rows, **variables)

    monkeypatch.setattr(Workspace, "steps", spy)
    small_trainer(digits[0][:50], batch_size=16).fit(rows_of(digits[0][:50]), 2)
    assert sorted(seen[:50]) == sorted(seen[50:]) == list(range(50))
    assert seen[:50] != seen[50:] != sorted(seen[50:])


def test_best_held_out_epoch_is_kept(digits):
    # a large learning rate makes the later epochs worse than some earlier one
    vae = VAE(hidden_dims=(32,), epochs=12, learning_rate=0.03, batch_size=16, random_state=1)
    kept = []
    vae.callbacks = [lambda vae, record: kept.append(vae.network_.get_parameters())]
    vae.fit(digits[0][:300])
    losses = [record["val_loss"] for record in vae.history_]
    best = int(np.argmin(losses))
    assert best != len(losses) - 1, "this test needs a run whose last epoch is not its best"
    np.testing.assert_array_equal(vae.network_.get_parameters(), kept[best])
    better = [loss < min(losses[:i], default=np.inf) for i, loss in enumerate(losses)]
    assert [record["kept"] for record in vae.history_] == better


def test_validation_rows_are_held_out(digits):
    data = digits[0][:100].copy()
    vae = VAE(hidden_dims=(8,), epochs=1, validation_fraction=0.25, random_state=3)
    vae.fit(data)
    assert len(vae.held_rows_) == 25
    data[vae.held_rows_] = 0.5  # other held-out values change no parameter
    again = VAE(hidden_dims=(8,), epochs=1, validation_fraction=0.25, random_state=3).fit(data)
    np.testing.assert_array_equal(vae.network_.get_parameters(), again.network_.get_parameters())


def test_a_loss_that_stays_as_it_was_is_no_better_one(digits):
    """The first of equal epochs is kept, and patience counts from there."""
    still = {"optimizer": "sgd", "learning_rate": 1e-30, "epochs": 9, "patience": 3, "random_state": 0}
    vae = VAE(hidden_dims=(8,), **still).fit(digits[0][:100])
    assert len({record["val_loss"] for record in vae.history_}) == 1
    assert [record["kept"] for record in vae.history_] == [True, False, False, False]
    assert "no better val_loss for 3 epochs" in vae.stopped_


def test_patience_stops_and_says_why(digits):
    vae = VAE(hidden_dims=(32,), epochs=200, learning_rate=0.03, batch_size=16, patience=3, random_state=1)
    vae.fit(digits[0][:300])
    losses = [record["val_loss"] for record in vae.history_]
    assert len(losses) < 200 and len(losses) - 1 - int(np.argmin(losses)) == 3
    assert "no better val_loss for 3 epochs" in vae.stopped_


def test_patience_without_a_held_out_part_is_an_error(digits):
    with pytest.raises(ValueError, match="patience needs a held-out part"):
        VAE(patience=3, validation_fraction=0.0).fit(digits[0])


def test_callback_can_stop(digits):
    vae = VAE(hidden_dims=(8,), epochs=50, random_state=0)
    vae.callbacks = [lambda vae, record: vae.stop("enough") if record["epoch"] == 2 else None]
    assert len(vae.fit(digits[0]).history_) == 2 and vae.stopped_ == "enough"


def test_ctrl_c_ends_the_epoch_cleanly_and_keeps_the_best(digits, ctrl_c):
    before = signal.getsignal(signal.SIGINT)

    def interrupt(vae, record):
        if record["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    vae = VAE(hidden_dims=(8,), epochs=50, random_state=0, callbacks=[interrupt])
    with pytest.raises(KeyboardInterrupt):
        vae.fit(digits[0])
    # the signal may arrive in the callback or at the first step of the next epoch, which then ends
    assert len(vae.history_) in (2, 3) and vae.stopped_.startswith("interrupted")
    assert np.isfinite(vae.score(digits[1]))
    assert signal.getsignal(signal.SIGINT) is before


def test_training_in_another_thread_leaves_signals_alone(digits):
    result = []
    thread = threading.Thread(target=lambda: result.append(VAE(hidden_dims=(8,), epochs=1).fit(digits[0])))
    thread.start()
    thread.join()
    assert len(result) == 1 and len(result[0].history_) == 1


def test_a_nan_stops_training_names_the_array_and_keeps_good_parameters(digits):
    vae = VAE(hidden_dims=(8,), optimizer="sgd", learning_rate=1e6, epochs=5, random_state=0)
    with pytest.raises(
        NotFinite, match=r"step \d+ .*first array holding a NaN or an infinity is '[\w.]+'.*learning_rate"
    ):
        vae.fit(digits[0])
    assert np.isfinite(vae.network_.get_parameters()).all()


def test_data_far_from_unit_size_are_named_as_the_cause(digits):
    with pytest.raises(NotFinite, match=r"scale the data, which reach 1600, to about unit size"):
        VAE(likelihood="gaussian", epochs=2, random_state=0).fit(digits[0] * np.float32(1600))


@pytest.mark.parametrize("name", ["encoder.0.W", "decoder.0.b"])
def test_the_first_bad_array_is_the_one_that_was_poisoned(digits, name):
    trainer = small_trainer(digits[0])
    trainer.network.named[name][...] = np.nan
    layer = name.rpartition(".")[0]
    with pytest.raises(NotFinite, match=rf"'{layer}\.y'"):
        trainer.fit(rows_of(digits[0]), 1)


def test_dynamic_binarization_draws_anew_and_static_does_not(digits):
    data = digits[0][:4]
    network = small_trainer(data).network
    draws = {}
    for mode in ("static", "dynamic"):
        examples = Examples(data, np.arange(4), 1.0, mode)
        work = network.workspace(examples.batch_program(seed=0), 4, data=data)
        work.put("rows", examples.rows)
        for step in (1, 2):
            work.run(4, step=step)
            draws[mode, step] = work.get("x").copy()
    assert set(np.unique(draws["dynamic", 1])) == {0.0, 1.0}
    np.testing.assert_array_equal(draws["static", 1], draws["static", 2])
    assert (draws["dynamic", 1] != draws["dynamic", 2]).mean() > 0.05


def test_uint8_data_are_scaled_per_batch_not_copied(digits):
    pixels = np.round(digits[0] * 255).astype(np.uint8)
    as_bytes = VAE(hidden_dims=(16,), epochs=2, random_state=0).fit(pixels)
    as_floats = VAE(hidden_dims=(16,), epochs=2, random_state=0).fit(pixels / np.float32(255))
    np.testing.assert_array_equal(as_bytes.network_.get_parameters(), as_floats.network_.get_parameters())


def test_order_of_an_epoch_is_a_function_of_seed_and_epoch():
    pairs = ((0, 0), (0, 0), (0, 1), (1, 0))
    orders = [randomness.permutation(100, seed, randomness.SHUFFLE, epoch) for seed, epoch in pairs]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).any() and (orders[0] != orders[3]).any()


def test_adam_in_the_network_equals_a_plain_loop(digits):
    """Ten steps of the program against the formulas of the paper, written out on the gradients it reports."""
    data = digits[0][:64].astype(np.float64)
    trainer = small_trainer(data, batch_size=64, dtype="float64")
    p = trainer.network.get_parameters()
    m = v = np.zeros_like(p)
    trainer.fit(rows_of(data), 10)
    shadow = Network(trainer.network.arch, load("numpy"), "float64")
    for t in range(1, 11):
        rows = randomness.permutation(64, 0, randomness.SHUFFLE, t - 1)
        eps = np.empty((64, 2))
        load("numpy").philox_normal(eps, rows, 0, randomness.TRAIN_NOISE, t)
        shadow.set_parameters(p)
        _, g = shadow.loss_and_gradient(data[rows], eps)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p = p - 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(trainer.network.get_parameters(), p, rtol=0, atol=1e-12)


def test_published_curve_of_pytorchs_example_first_epochs(mnist):
    """784-400-20, ReLU, Adam 1e-3, batch 128, grey MNIST: 128.5, 116.4, 112.1 nats after epochs 1 to 3."""
    vae = VAE(20, hidden_dims=(400,), epochs=3, batch_size=128, random_state=0)
    vae.fit(mnist.train, X_val=mnist.test)
    losses = [record["val_loss"] for record in vae.history_]
    assert losses[2] == pytest.approx(112.1, abs=1.0)
    assert losses[0] == pytest.approx(128.5, abs=4.0) and losses[1] == pytest.approx(116.4, abs=2.0)


def test_moments_of_parameters_let_go_are_reset(digits):
    """After a fit that goes back to its best epoch, and after a NaN, the next step starts from empty moments."""
    vae = VAE(hidden_dims=(32,), epochs=12, learning_rate=0.03, batch_size=16, random_state=1).fit(digits[0][:300])
    assert not vae.history_[-1]["kept"]
    assert vae.trainer_.updates == 0 and not vae.trainer_.moments["m"].any()
    good = VAE(hidden_dims=(8,), random_state=0).partial_fit(digits[0])
    before = good.network_.get_parameters()
    good.set_params(learning_rate=1e30)
    with pytest.raises(NotFinite):
        good.partial_fit(digits[0])
    np.testing.assert_array_equal(good.network_.get_parameters(), before)
    assert good.trainer_.updates == 0 and np.isfinite(good.trainer_.moments["v"]).all()
    good.set_params(learning_rate=1e-3).partial_fit(digits[0])
    assert np.isfinite(good.score(digits[1])) and [r["epoch"] for r in good.history_] == [1, 2]


def test_a_held_out_loss_that_is_no_number_stops_training(digits):
    wild = digits[1].copy()
    wild[3] = 1e30
    vae = VAE(hidden_dims=(8,), likelihood="gaussian", epochs=3, random_state=0)
    with pytest.raises(NotFinite, match=r"after epoch 1: its val_loss is (inf|nan).*extreme val rows"):
        vae.fit(digits[0], X_val=wild)


def test_the_test_part_is_recorded_and_chooses_nothing(digits):
    settings = {"hidden_dims": (16,), "epochs": 3, "learning_rate": 0.03, "batch_size": 16, "random_state": 1}
    plain, watched = VAE(**settings), VAE(**settings)
    plain.fit(digits[0][:300])
    watched.fit(digits[0][:300], X_test=digits[1])
    np.testing.assert_array_equal(plain.network_.get_parameters(), watched.network_.get_parameters())
    assert {"val_loss", "test_loss"} <= set(watched.history_[0]) and "test_loss" not in plain.history_[0]


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to itself")
def test_a_caller_who_ignores_ctrl_c_is_not_overruled(digits):
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        vae = VAE(hidden_dims=(8,), epochs=3, random_state=0)
        vae.callbacks = [lambda vae, record: os.kill(os.getpid(), signal.SIGINT)]
        assert len(vae.fit(digits[0]).history_) == 3 and vae.stopped_ == ""
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_stop_asked_for_before_the_first_step_still_leaves_a_record(digits):
    trainer = small_trainer(digits[0][:50], callbacks=[lambda trainer, record: None])
    inner = trainer._train_epoch

    def stopped_at_once(*arguments):
        trainer.stop("now")
        return inner(*arguments)

    trainer._train_epoch = stopped_at_once
    trainer.fit(rows_of(digits[0][:50]), 3)
    assert len(trainer.history) == 1 and trainer.step == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ENXIO])
def test_a_terminal_that_goes_away_ends_no_training(number, monkeypatch):
    """It may go before a bar is made, or while one stands there, as when a connection is lost."""

    class Terminal(io.StringIO):
        gone = False

        def isatty(self):
            return True

        def write(self, text):
            if self.gone:
                raise OSError(number, os.strerror(number))
            return super().write(text)

        flush = close = lambda self: self.write("")

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.bar(3, "epoch 1", shown=True) as advance:
        assert "epoch 1" in terminal.getvalue()
        terminal.gone = True
        time.sleep(0.15)  # after which tqdm draws again
        advance(1)
        progress.say("this reaches nobody")
    assert not progress._bars
    X = np.random.default_rng(0).random((40, 4), np.float32)
    vae = VAE(hidden_dims=4, epochs=3, verbose=1, random_state=0, backend="numpy").fit(X)
    monkeypatch.setattr(sys, "stderr", None)
    assert len(vae.history_) == len(vae.fit(X).history_) == 3
