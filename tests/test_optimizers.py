"""Optimizers inside real steps: schedules, clipping, known trajectories, and the two knobs of the objective."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minivae import VAE
from minivae.architecture import Architecture, initial_parameters
from minivae.data.batches import Examples
from minivae.kernels import bind, load, reference
from minivae.network import Bound, Network, backward_program, forward_program, total_loss
from minivae.optimizers import OPTIMIZERS, Optimizer, ramp
from minivae.parameters import views
from minivae.training import Objective, Trainer

# ---- Schedules


def test_constant_schedule_stays():
    optimizer = Optimizer(learning_rate=0.2)
    assert [optimizer.learning_rate_at(position, 10) for position in (0, 0.5, 9.99, 20)] == [0.2] * 4


def test_step_schedule_halves_every_ten_epochs_by_default():
    optimizer = Optimizer(learning_rate=0.8, schedule="step")
    rates = [optimizer.learning_rate_at(position, 100) for position in (0, 9.999, 10, 19.9, 20, 35)]
    assert rates == pytest.approx([0.8, 0.8, 0.4, 0.4, 0.2, 0.1])


def test_step_schedule_takes_its_interval_and_factor():
    optimizer = Optimizer(learning_rate=1.0, schedule="step", decay_every=2.5, decay_factor=0.1)
    assert [optimizer.learning_rate_at(p, 100) for p in (2.4, 2.5, 5.0)] == pytest.approx([1, 0.1, 0.01])


def test_stages_that_grow_are_those_of_burda_et_al():
    # 3^i epochs at 0.001 * 10^(-i / 7), i = 0 .. 7: 3,280 epochs; each stage begins with its first step
    optimizer = Optimizer(schedule="step", decay_every=1, decay_factor=10 ** (-1 / 7), decay_growth=3)
    rates = [optimizer.learning_rate_at(epoch, 3280) for epoch in range(3280)]
    expected = np.concatenate([np.full(3**i, 1e-3 * 10 ** (-i / 7)) for i in range(8)])
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    last_step = [optimizer.stage(end - 1 / 3000) for end in (1, 4, 13, 40, 121, 364, 1093, 3280)]
    assert last_step == list(range(8))


def test_cosine_schedule_falls_from_the_whole_rate_over_the_half_to_zero():
    optimizer = Optimizer(learning_rate=0.4, schedule="cosine")
    rates = [optimizer.learning_rate_at(position, 20) for position in (0, 5, 10, 15, 20, 30)]
    quarter = 0.4 * (1 + math.sqrt(0.5)) / 2
    assert rates == pytest.approx([0.4, quarter, 0.2, 0.4 - quarter, 0, 0])


@pytest.mark.parametrize("schedule", ("constant", "step", "cosine"))
def test_warm_up_scales_any_schedule_from_zero_to_itself(schedule):
    plain = Optimizer(learning_rate=0.3, schedule=schedule)
    warm = Optimizer(learning_rate=0.3, schedule=schedule, lr_warmup=4)
    share = [warm.learning_rate_at(p, 20) / plain.learning_rate_at(p, 20) for p in (0, 1, 3, 4, 12)]
    assert share == pytest.approx([0, 0.25, 0.75, 1, 1])


def test_ramp_of_no_length_is_one_from_the_start():
    assert [ramp(0, 0), ramp(5, 0), ramp(0, 2), ramp(1, 2), ramp(7, 2)] == [1, 1, 0, 0.5, 1]


def test_the_training_runs_at_the_scheduled_rate_of_each_step():
    # SGD without momentum on one full batch moves by learning_rate times a gradient whose length is recorded.
    trainer, examples = small_trainer(Optimizer("sgd", 0.01, momentum=0.0, lr_warmup=4), batch_size=20)
    before = trainer.network.get_parameters()
    for epoch, share in enumerate((0, 0.25, 0.5, 0.75, 1.0)):
        trainer.fit(examples, 1)
        after = trainer.network.get_parameters()
        record = trainer.history[epoch]
        assert record["learning_rate"] == pytest.approx(0.01 * share)
        expected = 0.01 * share * record["grad_norm"]
        assert np.linalg.norm(after - before) == pytest.approx(expected, rel=1e-9, abs=1e-15)
        before = after


# ---- Settings that cannot work

BAD_SETTINGS = (
    {"name": "sdg"},
    {"schedule": "linear"},
    *({"learning_rate": bad} for bad in (0, -1e-3, math.nan, math.inf)),
    {"epsilon": 0.0},
    {"decay_every": 0},
    *({"decay_growth": bad} for bad in (0.5, math.nan, math.inf)),
    *({"max_grad_norm": bad} for bad in (0, -1, math.nan)),
    *({name: bad} for name in ("momentum", "beta1", "beta2") for bad in (-0.1, 1.0, math.nan)),
    *({name: bad} for name in ("lr_warmup", "decay_factor") for bad in (-1, math.nan, math.inf)),
    *({"name": "adamw", "weight_decay": bad} for bad in (-0.1, math.nan)),
    *({"name": name, "weight_decay": 0.1} for name in ("sgd", "adam")),
)


@pytest.mark.parametrize("settings", BAD_SETTINGS, ids=str)
def test_an_invalid_setting_is_refused_by_the_name_that_the_user_typed(settings):
    parameter = list(settings)[-1]
    with pytest.raises(ValueError, match="optimizer" if parameter == "name" else parameter) as error:
        Optimizer(**settings)
    assert str(settings[parameter]) in str(error.value) or parameter == "weight_decay"


@pytest.mark.parametrize("bad", (-1, math.nan, math.inf))
@pytest.mark.parametrize("name", ("beta", "kl_warmup", "free_bits"))
def test_an_invalid_objective_is_refused_by_the_name_that_the_user_typed(name, bad):
    with pytest.raises(ValueError, match=name):
        Objective(**{name: bad})


# ---- Trajectories that are known


def minimize(optimizer, p, slope, steps):
    """Run the optimizer's own program for so many steps on a function whose gradient at p is slope(p)."""
    arrays = {"p": p, "g": np.empty_like(p), "norm": np.empty(1), **optimizer.state(p.size, p.dtype)}
    run = bind(load("numpy"), optimizer.program(), arrays)
    for step in range(1, steps + 1):
        arrays["g"][...] = slope(p)
        run(learning_rate=optimizer.learning_rate, update=step)
    return arrays


CURVATURE = np.array([0.1, 1.0, 3.0])
START = np.array([1.0, -2.0, 0.5])


def test_sgd_on_a_quadratic_reaches_the_analytic_iterate():
    # f = sum c p^2 / 2 has the gradient c p, so each step multiplies p by 1 - learning_rate c.
    p = START.copy()
    minimize(Optimizer("sgd", 0.2, momentum=0.0), p, lambda p: CURVATURE * p, 25)
    np.testing.assert_allclose(p, (1 - 0.2 * CURVATURE) ** 25 * START, rtol=1e-12)


@pytest.mark.parametrize("nesterov", (False, True), ids=("momentum", "nesterov"))
def test_sgd_with_momentum_on_a_quadratic_reaches_the_analytic_iterate(nesterov):
    # (p, m) moves by one matrix per step: m' = mu m + c p, and p' = p - lr m' or, with Nesterov, p - lr (c p + mu m').
    lr, mu, p = 0.2, 0.9, START.copy()
    minimize(Optimizer("sgd", lr, momentum=mu, nesterov=nesterov), p, lambda p: CURVATURE * p, 25)
    for c, first, last in zip(CURVATURE, START, p, strict=True):
        row = [1 - lr * c * (1 + mu), -lr * mu * mu] if nesterov else [1 - lr * c, -lr * mu]
        expected = np.linalg.matrix_power(np.array([row, [c, mu]]), 25) @ [first, 0]
        assert last == pytest.approx(expected[0], rel=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_comes_to_rest_at_the_minimum_of_a_quadratic(name):
    p = START.copy()
    optimizer = Optimizer(name, 0.02)
    minimize(optimizer, p, lambda p: CURVATURE * p, 3000)
    assert np.abs(p).max() < 1e-3


def test_adam_under_a_constant_gradient_walks_at_the_learning_rate():
    # m_hat = g and v_hat = g^2 at every step, but only with both bias corrections: p goes down by lr sign(g) each time.
    p = np.zeros(3)
    minimize(Optimizer("adam", 0.01, epsilon=1e-300), p, lambda p: np.array([1e-6, -1.0, 1e4]), 50)
    np.testing.assert_allclose(p, [-0.5, 0.5, -0.5], rtol=1e-12)


def test_adamw_decays_the_weights_beside_the_gradient_not_through_the_moments():
    p = START.copy()
    arrays = minimize(Optimizer("adamw", 0.1, weight_decay=0.3), p, np.zeros_like, 10)
    np.testing.assert_allclose(p, START * (1 - 0.1 * 0.3) ** 10, rtol=1e-12)
    assert not arrays["m"].any()


def test_adamw_without_decay_is_adam():
    ends = []
    for name in ("adam", "adamw"):
        p = START.copy()
        minimize(Optimizer(name, 0.05), p, lambda p: CURVATURE * p, 10)
        ends.append(p)
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fresh_state_is_zero_and_as_long_as_the_parameters(name):
    state = Optimizer(name).state(7, np.float32)
    assert tuple(state) == OPTIMIZERS[name]
    assert all(vector.shape == (7,) and vector.dtype == np.float32 and not vector.any() for vector in state.values())
    assert len({id(vector) for vector in state.values()}) == len(state)


# ---- Clipping


def small_trainer(optimizer, objective=None, batch_size=10, seed=1):
    arch = Architecture(data_dim=8, latent_dim=3, hidden_dims=(6,), activation="tanh")
    network = Network(arch, load("numpy"), "float64")
    network.set_parameters(initial_parameters(arch, seed))
    data = np.random.default_rng(seed).uniform(size=(20, 8))
    return Trainer(network, optimizer, objective or Objective(), batch_size, seed), Examples(data, np.arange(20))


def test_clipping_inside_a_real_step_bounds_the_update_and_records_the_length_before_it():
    free, examples = small_trainer(Optimizer("sgd", 0.1, momentum=0.0), batch_size=20)
    free.fit(examples, 1)
    length = free.history[0]["grad_norm"]
    clipped, examples = small_trainer(Optimizer("sgd", 0.1, momentum=0.0, max_grad_norm=length / 4), batch_size=20)
    before = clipped.network.get_parameters()
    clipped.fit(examples, 1)
    update = clipped.network.get_parameters() - before
    assert np.linalg.norm(update) == pytest.approx(0.1 * length / 4, rel=1e-12)
    assert clipped.history[0]["grad_norm"] == pytest.approx(length, rel=1e-12)
    # and it points where the whole gradient does
    np.testing.assert_allclose(4 * update, free.network.get_parameters() - before, rtol=1e-9, atol=1e-14)


def test_clipping_far_above_the_gradient_changes_nothing():
    ends = []
    for max_grad_norm in (None, 1e6):
        trainer, examples = small_trainer(Optimizer("adam", 0.01, max_grad_norm=max_grad_norm))
        trainer.fit(examples, 3)
        ends.append(trainer.network.get_parameters())
    np.testing.assert_array_equal(*ends)


# ---- The objective's knobs: warm-up of beta, and free bits


def test_beta_rises_linearly_over_the_warm_up_and_stays():
    objective = Objective(beta=2.0, kl_warmup=10)
    assert [objective.beta_at(p) for p in (0, 2.5, 5, 10, 50)] == pytest.approx([0, 0.5, 1, 2, 2])
    assert [Objective(beta=0.7).beta_at(p) for p in (0, 3)] == [0.7, 0.7]


def test_training_uses_beta_of_the_warm_up_at_each_step():
    # one full batch per epoch: at epoch 0 beta is 0, so the encoder is moved by the reconstruction alone
    warm, examples = small_trainer(Optimizer("sgd", 0.1, momentum=0.0), Objective(1.0, kl_warmup=2), batch_size=20)
    none, _ = small_trainer(Optimizer("sgd", 0.1, momentum=0.0), Objective(0.0), batch_size=20)
    full, _ = small_trainer(Optimizer("sgd", 0.1, momentum=0.0), Objective(1.0), batch_size=20)
    for trainer in (warm, none, full):
        trainer.fit(examples, 1)
    np.testing.assert_array_equal(warm.network.get_parameters(), none.network.get_parameters())
    assert (warm.network.get_parameters() != full.network.get_parameters()).any()
    warm.fit(examples, 2)
    assert [record["beta"] for record in warm.history] == [0, 0.5, 1]


@pytest.fixture
def network_and_batch():
    arch = Architecture(data_dim=8, latent_dim=4, hidden_dims=(6,), activation="tanh")
    network = Network(arch, load("numpy"), "float64")
    network.set_parameters(2 * initial_parameters(arch, 1))
    rng = np.random.default_rng(0)
    return network, rng.uniform(size=(11, 8)), rng.normal(size=(11, 4))


def encoder_gradient(network_and_batch, beta, free_bits):
    """kl_mean [Z] and dh [B, 2Z], the gradient where it enters the encoder, column j and Z + j for dimension j."""
    network, x, eps = network_and_batch
    work = network.workspace(
        forward_program(network.arch, Bound(free_bits=free_bits)) + backward_program(network.arch), len(x)
    )
    work.put("x", x)
    work.put("eps", eps)
    work.run(len(x), beta=beta)
    return work.get("kl_mean").copy(), work.get("dh").copy().reshape(len(x), 2, -1)


def test_a_dimension_below_free_bits_has_exactly_the_gradient_of_the_reconstruction(network_and_batch):
    kl_mean, plain = encoder_gradient(network_and_batch, 1.0, 0.0)
    reconstruction = encoder_gradient(network_and_batch, 0.0, 0.0)[1]
    free_bits = float(np.median(kl_mean))
    below = kl_mean < free_bits
    assert 0 < below.sum() < len(below)
    free = encoder_gradient(network_and_batch, 1.0, free_bits)[1]
    np.testing.assert_array_equal(free[:, :, below], reconstruction[:, :, below])
    np.testing.assert_array_equal(free[:, :, ~below], plain[:, :, ~below])
    assert (plain != reconstruction).all()


def test_free_bits_above_every_kl_leave_no_kl_in_any_gradient(network_and_batch):
    network, x, eps = network_and_batch
    loss, free = network.loss_and_gradient(x, eps, beta=1.0, bound=Bound(free_bits=100.0))
    recon, none = network.loss_and_gradient(x, eps, beta=0.0)
    np.testing.assert_array_equal(free, none)
    assert loss == pytest.approx(recon + 4 * 100)  # what the objective counts is the threshold


def test_no_free_bits_is_the_plain_kl(network_and_batch):
    network, x, eps = network_and_batch
    kl_mean, _ = encoder_gradient(network_and_batch, 1.0, 0.0)
    loss, gradient = network.loss_and_gradient(x, eps, beta=1.3)
    recon, without = network.loss_and_gradient(x, eps, beta=0.0)
    tiny, with_tiny = network.loss_and_gradient(x, eps, beta=1.3, bound=Bound(free_bits=float(kl_mean.min()) / 2))
    assert loss == pytest.approx(recon + 1.3 * kl_mean.sum(), rel=1e-14)
    assert tiny == loss
    np.testing.assert_array_equal(gradient, with_tiny)
    assert (gradient != without).any()


def test_no_free_bits_is_the_plain_kl_for_a_posterior_collapsed_onto_the_prior():
    # In float32 the rounded kl of such a posterior may lie a little below 0, the true one never does. A batch of one,
    # as nothing averages the rounding away.
    arch = Architecture(data_dim=3, latent_dim=2, hidden_dims=(), activation="identity")
    network = Network(arch, load("numpy"), "float32")
    network.set_parameters(np.zeros(network.parameters.size))
    named = views(network.gradient, network.layout, gradient=True)
    missing = []
    for logvar in np.linspace(1e-4, 3e-3, 30):
        mu = 1e-5
        network.named["encoder.0.b"][...] = [mu, mu, logvar, logvar]
        network.loss_and_gradient(np.full((1, 3), 0.5), np.zeros((1, 2)))
        # the decoder is zero, so nothing but the KL reaches the encoder: dmu = mu and dlogvar = (exp(logvar) - 1) / 2
        db = named["encoder.0.db"]
        if not np.allclose(db, [mu, mu, *[math.expm1(logvar) / 2] * 2], rtol=1e-2, atol=0):
            missing.append((float(logvar), db.tolist()))
    assert missing == []


@pytest.mark.parametrize(("beta", "free_bits", "expected"), ((1, 0, 3.5), (2, 0, 6), (1, 1, 4), (0, 1, 1), (0.5, 3, 4)))
def test_total_loss_counts_each_dimension_at_no_less_than_free_bits(beta, free_bits, expected):
    assert total_loss(1.0, np.array([0.5, 2.0]), beta, free_bits) == pytest.approx(expected)


def test_reference_backend_is_what_these_steps_run_on():
    assert load("numpy") is reference


def test_partial_fit_follows_the_cosine_over_the_estimator_s_epochs():
    # Each call trains one epoch; taken as the whole training, the rate would be 0 from the second call on.
    X = np.random.default_rng(0).uniform(size=(30, 8)).astype(np.float32)
    vae = VAE(hidden_dims=(4,), epochs=10, schedule="cosine", batch_size=30, random_state=0)
    for _ in range(3):
        vae.partial_fit(X)
    rates = [record["learning_rate"] for record in vae.trainer_.history]
    assert rates == pytest.approx([vae.learning_rate * (1 + math.cos(math.pi * epoch / 10)) / 2 for epoch in range(3)])


def test_a_cosine_that_has_ended_is_an_error_with_the_fix():
    X = np.random.default_rng(0).uniform(size=(30, 8)).astype(np.float32)
    vae = VAE(hidden_dims=(4,), epochs=2, schedule="cosine", random_state=0).fit(X)
    before = vae.network_.get_parameters()
    with pytest.raises(ValueError, match=r"ended with epoch 2.*raise epochs, or set schedule='constant'"):
        vae.partial_fit(X)
    np.testing.assert_array_equal(vae.network_.get_parameters(), before)
    assert vae.set_params(schedule="constant").partial_fit(X).history_[-1]["epoch"] == 3


def test_bias_correction_starts_with_the_moments_not_with_the_noise(tmp_path):
    # Adam's first update has the size of the learning rate in every entry; with a late step number it would be 3 times that
    X = np.random.default_rng(0).uniform(size=(30, 8)).astype(np.float32)
    vae = VAE(hidden_dims=(4,), epochs=5, batch_size=30, random_state=0, dtype="float64").fit(X)
    vae.save(tmp_path / "model.npz", include_optimizer=False)
    again = VAE.load(tmp_path / "model.npz")
    before = again.network_.get_parameters()
    again.partial_fit(X)
    moved = np.abs(again.network_.get_parameters() - before)
    assert moved.max() == pytest.approx(1e-3, rel=1e-3) and np.median(moved) == pytest.approx(1e-3, rel=1e-2)
    assert again.trainer_.updates == 1 and again.history_[-1]["step"] == 6


def test_settings_changed_between_calls_take_effect_and_moments_stay():
    X = np.random.default_rng(0).uniform(size=(30, 8)).astype(np.float32)
    vae = VAE(hidden_dims=(4,), batch_size=30, random_state=0).partial_fit(X)
    v = vae.trainer_.moments["v"]
    vae.set_params(learning_rate=0.5, beta=3.0, batch_size=10).partial_fit(X)
    record = vae.history_[-1]
    assert (record["learning_rate"], record["beta"], record["step"]) == (0.5, 3.0, 4)
    assert vae.trainer_.moments["v"] is v and vae.trainer_.updates == 4 and vae.settings_["batch_size"] == 10
    vae.set_params(optimizer="sgd", learning_rate=1e-3).partial_fit(X)
    assert vae.trainer_.updates == 3 and set(vae.trainer_.moments) == {"m"}
    with pytest.raises(ValueError, match="fitted with latent_dim=2, and 3 makes another; call fit, or set it back"):
        vae.set_params(latent_dim=3).partial_fit(X)
