"""Pictures in an Axes of the user's: what is drawn is what was given, in the axes that were given, and nowhere else."""

from __future__ import annotations

import itertools
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
    at = (np.arange(400) + 0.5) * reach / 200 - reach
    np.testing.assert_allclose(p, np.exp(-(at**2 + at[:, None] ** 2) / 2) / (2 * math.pi), atol=2e-3)
    assert told(axes) == 0
    circles = [np.hypot(*line.get_data())[0] for line in axes.lines if len(line.get_xdata())]
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
    assert np.asarray(thin.images[0].get_array()).sum() * (6 / 400) ** 2 == pytest.approx(1, rel=0.01)


def gaussians(at, mu, sigma):
    """The exact mixture at points [m, Z], one after the other."""
    square = (((at[:, None] - mu) / sigma) ** 2).sum(axis=2)
    return np.exp(-square / 2).mean(axis=1) / (math.sqrt(2 * math.pi) * sigma) ** mu.shape[1]


@pytest.mark.parametrize(
    ("n", "sigma", "far", "latents"), [(300, 0.02, 0, 2), (300, 0.3, 9, 2), (400, 0.06, 0, 2), (9, 0.3, 0, 1)]
)
def test_the_share_that_was_never_learned_is_that_of_the_exact_mixture(n, sigma, far, latents):
    """However narrow q(z|x) is, and however far away a few rows lie: beside 20,000 draws from the prior."""
    rng = np.random.default_rng(n)
    mu = rng.standard_normal((n, latents))
    mu[:far] += 60
    share = told(panels.aggregate(blank(), mu, np.full(mu.shape, 2 * math.log(sigma))))
    z = rng.standard_normal((20_000, latents))
    z = z[(np.sqrt((z**2).sum(axis=1)) < {1: 1.959964, 2: 2.447747}[latents])]
    prior, q = (gaussians(z, *of) for of in ((np.zeros((1, latents)), 1), (mu, sigma)))
    assert share == pytest.approx((q < prior / 10).sum() / 20_000, abs=0.01)


def test_its_lines_hold_half_and_95_percent_of_narrow_posteriors():
    from matplotlib.path import Path

    mu, sigma = RNG.standard_normal((30, 2)), 0.03
    lines = panels.aggregate(blank(), mu, np.full(mu.shape, 2 * math.log(sigma))).collections[0]
    z = mu[RNG.integers(30, size=20_000)] + sigma * RNG.standard_normal((20_000, 2))
    for path, share in zip(lines.get_paths(), (0.95, 0.5), strict=True):
        inside = np.logical_or.reduce([Path(part).contains_points(z) for part in path.to_polygons()])
        assert inside.mean() == pytest.approx(share, abs=0.02)


def test_one_latent_has_both_densities_as_curves_and_its_rows_as_lines():
    mu, logvar = np.array([[-1.0], [2.0]]), np.log([[0.25], [1.0]])
    axes = panels.aggregate(blank(), mu, logvar)
    q, p = axes.lines
    at = q.get_xdata()
    exact = [gaussians(at[:, None], row, s) for row, s in zip(mu[:, None], (0.5, 1), strict=True)]
    np.testing.assert_allclose(q.get_ydata(), np.mean(exact, axis=0), atol=1e-12)
    np.testing.assert_allclose(p.get_ydata(), gaussians(at[:, None], np.zeros((1, 1)), 1))
    assert names(axes.get_legend())[:2] == ["q(z)", "p(z)"] and axes.get_ylim()[1] > q.get_ydata().max()
    one, two = panels.ellipses(blank(), mu, logvar).collections
    np.testing.assert_allclose([path.vertices[:, 0] for path in one.get_paths()], [[-1.5, -0.5], [1, 3]])
    np.testing.assert_allclose([path.vertices[:, 0] for path in two.get_paths()], [[-2, 0], [0, 4]])
    assert plots.posterior(mu, logvar).axes[1].get_xlabel() == "z1"


@pytest.mark.parametrize(("face", "light"), [("black", True), ("#222222", True), ("white", False), ("none", False)])
def test_words_are_light_on_a_dark_figure_and_dark_on_paper(face, light):
    figure = Figure(facecolor=face)
    first, second, third = figure.subfigures(1, 2)[0].subplots(3, 1)
    panels.scatter(first, np.eye(3), ["a", "b", "c"])
    panels.curve(second, history())
    panels.grid(third, {"a": np.eye(4)}, (2, 2), 2, ["t"] * 4, [(0, "x")]).set_title("title")
    figure.draw_without_rendering()
    words = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text()]
    assert len(words) > 12
    assert {sum(matplotlib.colors.to_rgb(word.get_color())) > 1.5 for word in words if word.get_text() != "title"} == {
        light
    }


def test_panels_fit_axes_that_share_their_limits_and_images_keep_their_shape():
    left, right = (figure := Figure()).subplots(1, 2, sharex=True, sharey=True)
    panels.scatter(left, np.eye(3))
    panels.ellipses(right, np.eye(3), np.eye(3))
    figure.draw_without_rendering()
    axes = panels.grid(blank(), {"a": np.ones((6, 8))}, (2, 4), 3)
    axes.figure.draw_without_rendering()
    (image,) = axes.images
    height, width = image.get_array().shape
    assert axes.bbox.width / axes.bbox.height == pytest.approx(width / height)


@pytest.mark.parametrize("latents", [4, 30, 64, 128])
@pytest.mark.parametrize("width", [2.5, 6.4])
def test_names_of_latents_do_not_overlap(latents, width):
    axes = panels.kl_bars(Figure((width, 3)).add_subplot(), np.arange(latents), np.ones(latents))
    axes.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.get_xticklabels()]
    assert len(boxes) >= min(latents, 4) and all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_legends_are_there_unless_they_are_unwanted():
    """Within three small panels under a title they leave room, and what is labelled can go into a legend elsewhere."""
    figure = Figure((7, 2.5), layout="constrained")
    for axes in figure.subplots(1, 3):
        panels.aggregate(axes, np.eye(3), np.eye(3)).set_title("of mine", loc="left")
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert axes.bbox.height > 0.6 * figure.bbox.height and axes.bbox.containsx(
            axes.get_legend().get_window_extent().x1
        )
        assert axes.get_legend().get_window_extent().y1 <= axes.bbox.y1
    mu = np.eye(3)
    for draw in (
        lambda **on: panels.aggregate(blank(), mu, mu, **on),
        lambda **on: panels.curve(blank(), history(), **on),
        lambda **on: panels.histogram(blank(), [1, 2], [3], **on),
    ):
        assert draw(legend=False).get_legend() is None and len(names(draw().get_legend())) > 1
    assert panels.curve(blank(), history(), "kl").get_ylabel() == "kl, nats per example"
    axes = panels.parity(blank(), [1, 2], [1, 2])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("original", "reconstruction")


def test_every_layer_and_every_part_is_drawn_in_a_colour_of_its_own():
    axes = panels.grid(blank(), {name: np.eye(4) for name in "abcd"}, None, 2)
    assert names(axes.get_legend()) == [*"abcd"]
    parts = [record | {f"p{i}_loss": 1.0 for i in range(3)} for record in history()]
    for lines, count in ((axes.lines, 4), (panels.curve(blank(), parts).lines, 5)):
        assert len(lines) == len({line.get_color() for line in lines}) == count
    many = panels.grid(blank(), {str(i): np.eye(4) for i in range(20)}, None, 2)
    assert len(many.lines) == 20 and len({line.get_color() for line in many.lines}) == 13


def test_tick_labels_are_words_whatever_stood_in_the_axes_before():
    axes = blank()
    axes.figure.draw_without_rendering()  # the first ticks are made by matplotlib's settings
    panels.grid(axes, {"$a$": np.eye(4), "b": np.eye(4)}, (2, 2), 2, x_ticks=[(0, "$5 and $6"), (1, "$x$")])
    assert not any(text.get_parse_math() for text in (*axes.get_xticklabels(), *axes.get_yticklabels()))


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
            r"dims \[0, 3\] must name two latents from 0 to 2",
        ),
        (
            lambda: panels.scatter(blank(), [[0, 1], [0, np.nan]]),
            "mu is not finite in row 1, from 0; leave such rows out",
        ),
        (lambda: panels.aggregate(blank(), np.eye(2), [[0, 0], [np.inf, 0]]), "logvar is not finite in row 1"),
        (lambda: panels.ellipses(blank(), np.full((3, 2), np.nan), np.ones((3, 2))), "mu is not finite in row 0"),
        (lambda: panels.kl_bars(blank(), [1, np.nan], [True, True]), "kl is not finite in row 1"),
        (lambda: panels.by_score(blank(), np.eye(3), np.eye(3), [0, 1, np.nan], None), "score is NaN in row 2"),
        (lambda: panels.scatter(blank(), np.eye(3), dims=(1,)), r"dims \[1\] must name two latents from 0 to 2"),
        (lambda: panels.parity(blank(), [1, 2], [1]), r"x has shape \(2,\) and x_hat \(1,\); pass one column"),
        (lambda: panels.kl_over_time(blank(), []), "history has no records; train for at least one epoch"),
    ],
)
def test_wrong_arguments_get_one_clear_sentence(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
