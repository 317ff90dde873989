"""Pictures in an Axes of the user's: what is drawn is what was given, in the axes that were given, and nowhere else."""

from __future__ import annotations

import math

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'minivae[plot]'")

from matplotlib.figure import Figure  # noqa: E402

from minivae import plots  # noqa: E402
from minivae.figures import grids  # noqa: E402

panels = plots.panels
RNG = np.random.default_rng(0)
MINUS = "\N{MINUS SIGN}"


def blank():
    """An Axes beside another one."""
    return Figure().subplots(1, 2)[0]


def history(epochs=30, kept=None, latents=4):
    kl = [[2.0 - j + 0.01 * epoch if j < 2 else 0.004 for j in range(latents)] for epoch in range(epochs)]
    return [
        {"epoch": i + 1, "loss": 9.0 - i / 10, "recon": 8.0, "kl": 1.0, "val_loss": 9.5, "kl_per_dim": kl[i]}
        | ({"kept": i + 1 == kept} if kept else {})
        for i in range(epochs)
    ]


def names(legend):
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize(
    "draw",
    [
        lambda axes: panels.curve(axes, history(), "loss"),
        lambda axes: panels.kl_over_time(axes, history()),
        lambda axes: panels.kl_bars(axes, [1.0, 0], [True, False]),
        lambda axes: panels.scatter(axes, np.eye(3), ["a", "b", "c"]),
        lambda axes: panels.scatter(axes, np.eye(3), [0.5, 1, 2]),
        lambda axes: panels.ellipses(axes, np.eye(3), np.eye(3), [0, 1, 0]),
        lambda axes: panels.aggregate(axes, np.eye(3), np.eye(3)),
        lambda axes: panels.grid(axes, {"a": np.eye(4)}, (2, 2), 2),
        lambda axes: panels.grid(axes, {"a": np.eye(4), "b": np.eye(4)}, None, 2),
        lambda axes: panels.by_score(axes, np.eye(4), np.eye(4), np.arange(4.0), (2, 2)),
        lambda axes: panels.parity(axes, [1, 2, 3], [1, 2, 4]),
        lambda axes: panels.histogram(axes, [1, 2, 3], [1, 2, 4]),
    ],
)
def test_each_draws_in_the_axes_it_is_given_alone_and_returns_it(draw):
    axes, before = blank(), dict(matplotlib.rcParams)
    beside = axes.figure.axes[1]
    assert draw(axes) is axes and axes.has_data()
    axes.figure.draw_without_rendering()
    assert not beside.has_data() and len(axes.figure.axes) == 2
    assert not axes.figure.texts and not axes.figure.legends and dict(matplotlib.rcParams) == before


def test_a_curve_is_of_the_quantity_that_is_named():
    axes = panels.curve(blank(), history(kept=20), "recon")
    (train,) = (line for line in axes.lines if str(line.get_label()).startswith("train"))
    np.testing.assert_array_equal(train.get_ydata(), np.full(30, 8.0))
    with pytest.raises(ValueError, match="history has no 'elbo'; name one of its columns"):
        panels.curve(blank(), history(), "elbo")


def test_kl_over_time_names_what_is_active_at_the_epoch_that_was_kept():
    records = history(kept=7)
    records[-1]["kl_per_dim"] = [0.0, 5.0, 3.0, 0.0]  # as it ended is not what is named
    axes = panels.kl_over_time(blank(), records)
    assert names(axes.get_legend()) == ["z1", "z2", "2 more"]
    lines = {line.get_label(): line for line in axes.lines if len(line.get_xdata()) == 30}
    for j, name in enumerate(("z1", "z2")):
        np.testing.assert_array_equal(lines[name].get_ydata(), [record["kl_per_dim"][j] for record in records])
    assert lines["z1"].get_color() != lines["z2"].get_color() != lines["_faint"].get_color()
    assert axes.get_ylim()[0] == 0
    many = panels.kl_over_time(blank(), [{"epoch": 1, "kl_per_dim": np.arange(1.0, 21)}])
    assert names(many.get_legend()) == [*(f"z{j}" for j in range(20, 8, -1)), "8 more"]
    none = panels.kl_over_time(blank(), [{"epoch": 1, "kl_per_dim": [0.0, 0.001]}])
    assert names(none.get_legend()) == ["all 2"]


def test_ellipses_are_one_and_two_sigma_of_the_rows():
    """The third axis of the model is not drawn; few rows are spread over all, and keep the colours of all labels."""
    mu, logvar = RNG.standard_normal((2, 9, 3))
    axes = panels.ellipses(blank(), mu, logvar, np.arange(9) // 3, dims=(2, 0), few=5)
    one, two = axes.collections
    rows, sigma = [0, 2, 4, 6, 8], np.exp(logvar[:, [2, 0]] / 2)
    for drawn, k in ((one, 1), (two, 2)):
        np.testing.assert_array_equal(drawn.get_offsets(), mu[rows][:, [2, 0]])
        np.testing.assert_allclose([drawn.get_widths(), drawn.get_heights()], 2 * k * sigma[rows].T)  # full axes
        assert drawn._units == "xy"
    assert (one.get_facecolors()[:, 3] > 0).all() and (two.get_facecolors()[:, 3] == 0).all()
    assert names(axes.get_legend()) == ["0", "1", "2"]
    colours = [handle.get_color() for handle in axes.get_legend().legend_handles]
    shown = [matplotlib.colors.to_hex(colour) for colour in one.get_facecolors()]
    assert shown == [colours[c].lower() for c in (0, 0, 1, 2, 2)]
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for (x, y), (a, b) in zip(mu[rows][:, [2, 0]], 2 * sigma[rows], strict=True):
        assert low <= x - a and x + a <= high and bottom <= y - b and y + b <= top


def told(axes):
    """What share of the prior the legend says is a hole."""
    return float(names(axes.get_legend())[-1].split(": ")[1].split("%")[0]) / 100


def test_the_aggregate_of_a_perfect_model_is_the_prior():
    """Means spread by 0.75 and posteriors of variance 0.25 make N(0, 1): its lines are the prior's circles, with no hole."""
    from statistics import NormalDist

    q = np.array([NormalDist(0, math.sqrt(0.75)).inv_cdf((i + 0.5) / 60) for i in range(60)])
    mu = np.stack(np.meshgrid(q, q), axis=-1).reshape(-1, 2)
    axes = panels.aggregate(blank(), mu, np.full(mu.shape, math.log(0.25)))
    (image,), (lines,) = axes.images, axes.collections
    p, reach = np.asarray(image.get_array()), image.get_extent()[1]
    at = (np.arange(160) + 0.5) * reach / 80 - reach
    np.testing.assert_allclose(p, np.exp(-(at**2 + at[:, None] ** 2) / 2) / (2 * math.pi), atol=2e-3)
    assert told(axes) == 0
    circles = [np.hypot(*line.get_data())[0] for line in axes.lines]
    np.testing.assert_allclose(circles, np.sqrt([2 * math.log(2), 2 * math.log(20)]))  # P(r > R) = exp(-R^2 / 2)
    for path, radius in zip(lines.get_paths(), circles[::-1], strict=True):
        np.testing.assert_allclose(np.hypot(*path.vertices.T), radius, rtol=0.05)


def test_where_no_row_lies_is_hatched():
    """A model that leaves out the half plane z1 < 0: near half of the prior was never learned, and its share is told."""
    mu = np.abs(RNG.standard_normal((4000, 3))) * [1, 1, 1] + [0.5, 0, 0]
    mu[:, 1] *= RNG.choice([-1, 1], 4000)
    axes = panels.aggregate(blank(), mu, np.full(mu.shape, -6.0))
    assert 0.45 < told(axes) < 0.72
    hatched = axes.collections[-1]
    assert hatched.hatches == ["////"]
    (path,) = hatched.get_paths()
    assert path.contains_point((-1, 0)) and not path.contains_point((1, 0)) and not path.contains_point((-2.6, 0))
    swapped = panels.aggregate(blank(), mu, np.full(mu.shape, -6.0), dims=(1, 0))
    assert swapped.collections[-1].get_paths()[0].contains_point((0, -1)) and swapped.get_xlabel() == "z2"
    thin = panels.aggregate(blank(), np.zeros((1, 2)), np.full((1, 2), -40.0))  # narrower than any cell
    assert np.asarray(thin.images[0].get_array()).sum() * (6 / 160) ** 2 == pytest.approx(1, rel=0.01)


def test_quantiles_are_the_best_the_median_and_the_worst():
    score = RNG.permutation(101).astype(float)
    np.testing.assert_array_equal(score[grids.by_quantile(score, 3)], [100, 99, 98, 51, 50, 49, 2, 1, 0])
    again = grids.by_quantile(score, 3)
    np.testing.assert_array_equal(again[grids.by_quantile(score[again], 3)], again)  # so they may be taken beforehand
    assert len(grids.by_quantile([3.0, 1, 2, 0], 5)) == 3
    with pytest.raises(ValueError, match=r"score has shape \(2,\); pass one for each of 3 rows or more"):
        grids.by_quantile([1.0, 2.0])


@pytest.mark.parametrize("shape", [(2, 2), None])
def test_by_score_pairs_each_original_with_its_reconstruction_over_its_score(shape):
    x, score = RNG.random((7, 4)), np.array([-3.0, -1, -2, -7, -6.25, -5, -4])
    figure = plots.by_score(x, 1 - x, score, shape, "7 test examples", each=2)
    (axes,) = figure.axes
    order = grids.by_quantile(score, 2)
    assert list(score[order]) == [-1, -2, -4, -5, -6.25, -7] or list(score[order]) == [-1, -2, -3, -4, -6.25, -7]
    assert [text.get_text() for text in axes.texts] == [f"{MINUS}{-s:.1f}" for s in score[order]]
    ticks = [tick.get_text() for tick in axes.get_yticklabels()]
    assert any("7 test examples; ELBO in nats below each pair" in text.get_text() for text in figure.texts)
    if shape is None:
        assert ticks == ["best", "median", "worst"] and [line.get_label() for line in axes.lines] == [
            "original",
            "reconstruction",
        ]
        a, b = (line.get_ydata().reshape(6, 5)[:, :4] for line in axes.lines)
        assert np.ptp(a + b, axis=1).max() < 1e-9  # x + (1 - x) is constant in its own cell alone
    else:
        assert ticks == [name for row in ("best", "median", "worst") for name in (f"{row}: original", "reconstruction")]
        canvas = np.ma.filled(axes.images[0].get_array(), np.nan)
        for text, row in zip(axes.texts, order, strict=True):
            across, below = (int(v) for v in text.get_position())
            column = canvas[:, across - 30]
            upper, lower = column[below - 160], column[below - 40]
            assert {upper, lower} and upper + lower == pytest.approx(1)
            assert upper in x[row] and np.isnan(canvas[below + 2 : below + 15, across]).all()
    with pytest.raises(ValueError, match=r"x has shape .* score \(3,\); pass a score for each row"):
        plots.by_score(x, x, score[:3], shape)


def test_the_posterior_and_kl_figures_are_of_these_panels():
    mu, logvar, labels = RNG.standard_normal((80, 5)), np.full((80, 5), -2.0), np.arange(80) % 3
    figure = plots.posterior(mu, logvar, labels, (1, 4), "80 rows", few=10)
    left, right = figure.axes
    assert left.get_xlabel() == right.get_xlabel() == "z2" and left.get_ylabel() == right.get_ylabel() == "z5"
    assert len(left.collections[0].get_offsets()) == 10
    assert "80 rows; latents 2 and 5 of 5" in [text.get_text() for text in figure.texts]
    figure.draw_without_rendering()
    legends = [text for axes in figure.axes for text in axes.get_legend().get_texts()]
    for text in [*figure.texts, *legends]:
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text.get_text()
    bars, lines = plots.kl_per_dimension([1.0, 2], [True, True], "rows", history(latents=2)).axes
    assert len(bars.patches) == 2 and names(lines.get_legend()) == ["z1", "z2"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: panels.ellipses(blank(), np.eye(3), np.eye(2)),
            r"mu has shape \(3, 3\) and logvar \(2, 2\); make them",
        ),
        (
            lambda: panels.aggregate(blank(), np.eye(3), np.eye(2)),
            r"mu has shape \(3, 3\) and logvar \(2, 2\); make them",
        ),
        (
            lambda: panels.aggregate(blank(), np.eye(3), np.eye(3), (0, 3)),
            r"dims \[0, 3\] must name latents from 0 to 2",
        ),
        (lambda: panels.kl_over_time(blank(), []), "history has no records; train for at least one epoch"),
    ],
)
def test_wrong_arguments_get_one_clear_sentence(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
