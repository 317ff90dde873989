"""Figures: what is drawn is what was given, cells lie where they should, files are whole and repeatable."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from statistics import NormalDist

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'minivae[plot]'")

from minivae.figures import grids, plots  # noqa: E402
from minivae.figures import layout as plot_layout  # noqa: E402

MINUS = "\N{MINUS SIGN}"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def make_history(epochs=8, held_out="val", beta=lambda epoch: 1.0, first=None):
    records = []
    for epoch in range(1, epochs + 1):
        record = {"epoch": epoch, "loss": 100 + 10 / epoch, "recon": 90 + 8 / epoch, "kl": 10 + 2 / epoch}
        record |= {"beta": beta(epoch), "kl_per_dim": [0.5, 0.001, 3.0, 0.02]}
        if held_out:
            record |= {f"{held_out}_{name}": record[name] + 1 for name in ("loss", "recon", "kl")}
        records.append(record)
    if first is not None:
        records[0]["loss"] = first
    return records


def texts(figure):
    """Every text in the figure, titles and legends included."""
    return [found.get_text() for found in figure.findobj(matplotlib.text.Text) if found.get_text()]


def canvas(figure):
    (image,) = figure.axes[0].images
    return np.ma.filled(image.get_array().astype(float), np.nan)


def cell(figure, row, column, rows, columns, gap=2):
    """The pixels of one cell of a grid figure."""
    whole = canvas(figure)
    down, across = (whole.shape[0] + gap) // rows, (whole.shape[1] + gap) // columns
    top, left = row * down, column * across
    return whole[top : top + down - gap, left : left + across - gap]


def enlarged(image, scale):
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def drawn(figure):
    """The pixels that the figure shows, [height, width, RGBA]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    agg = FigureCanvasAgg(figure)
    agg.draw()
    return np.asarray(agg.buffer_rgba())


class Recorder:
    """A decoder that keeps what it was asked, and gives a known function of z."""

    def __init__(self, data_dim=4):
        self.data_dim = data_dim

    def __call__(self, z):
        self.z = np.array(z)
        return 1 / (1 + np.exp(-z.sum(axis=1, keepdims=True) - np.arange(self.data_dim)))


# ---- Training


def test_loss_curves_draw_the_history():
    history = make_history()
    figure = plots.loss_curves(history)
    for axes, quantity in zip(figure.axes, ("loss", "recon", "kl"), strict=True):
        train, held_out = axes.lines
        for line, key in ((train, quantity), (held_out, f"val_{quantity}")):
            np.testing.assert_array_equal(line.get_xdata(), range(1, 9))
            np.testing.assert_array_equal(line.get_ydata(), [record[key] for record in history])
        assert train.get_label().startswith("train") and held_out.get_label().startswith("val")
    assert {"nats per example", "epoch"} <= set(texts(figure))
    assert len(figure.legends[0].get_texts()) == 2


def test_loss_curves_name_the_held_out_part_or_do_without():
    assert [line.get_label()[:4] for line in plots.loss_curves(make_history(held_out="test")).axes[0].lines][
        1
    ] == "test"
    assert len(plots.loss_curves(make_history(held_out=None)).axes[0].lines) == 1


def test_a_resumed_history_may_lack_held_out_records():
    history = make_history(3, held_out=None) + make_history(6)[3:]
    line = plots.loss_curves(history).axes[0].lines[1]
    assert np.isnan(line.get_ydata()[:3]).all() and line.get_ydata()[3] == history[3]["val_loss"]


def test_beta_is_drawn_where_it_varies():
    assert len(plots.loss_curves(make_history()).axes) == 3
    figure = plots.loss_curves(make_history(beta=lambda epoch: min(1, epoch / 5)))
    np.testing.assert_allclose(figure.axes[3].lines[0].get_ydata(), [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])
    assert "beta" in figure.axes[3].get_ylabel()


def test_the_title_says_what_the_loss_is():
    elbo, weighted = make_history(3), [record | {"n_samples": 5} for record in make_history(3)]
    assert "loss: reconstruction + beta KL" in texts(plots.loss_curves(elbo))
    assert "loss: the bound of K = 5 samples" in texts(plots.loss_curves(weighted))
    assert "loss: the bound of K = 1, 5 samples" in texts(plots.loss_curves(elbo + weighted))


def test_a_huge_first_epoch_is_cut_and_named():
    figure = plots.loss_curves(make_history(first=5432.1))
    assert figure.axes[0].get_ylim()[1] < 120
    assert "starts at 5.43e+03" in texts(figure)
    assert figure.axes[0].lines[0].get_ydata()[0] == 5432.1
    steady = plots.loss_curves([record | {"loss": 100 - record["epoch"]} for record in make_history(held_out=None)])
    assert steady.axes[0].get_ylim()[1] > 99 and not steady.axes[0].texts


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_epochs_are_whole_numbers(epochs):
    figure = plots.loss_curves(make_history(epochs))
    drawn(figure)
    for axes in figure.axes:
        ticks = axes.get_xticks()
        assert len(ticks) and (ticks == np.round(ticks)).all()
        low, high = axes.get_xlim()
        assert low < 1 and high > epochs


def test_loss_curves_pass_infinities():
    drawn(plots.loss_curves(make_history(first=np.inf)))


def test_kl_per_dimension_is_sorted_and_counts_what_it_is_given():
    figure = plots.kl_per_dimension([0.5, 0.001, 3.0, 0.02], [True, False, True, False], "7 test examples")
    bars = figure.axes[0].patches
    assert [bar.get_height() for bar in bars] == [3.0, 0.5, 0.02, 0.001]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["z3", "z1", "z4", "z2"]
    assert "Active latent dimensions: 2 of 4" in texts(figure)
    assert any(text.startswith("7 test examples; mean KL 3.52 nats\nactive: variance") for text in texts(figure))
    colours = [bar.get_facecolor() for bar in bars]
    assert colours[0] == colours[1] != colours[2] == colours[3]


@pytest.mark.parametrize("latents", [1, 2, 4, 20])
def test_no_title_is_cut(latents):
    rows = "the first 5,000 of 60,000 validation examples"
    for figure in (
        plots.kl_per_dimension(np.ones(latents), np.ones(latents, bool), rows),
        plots.traversals(Recorder(), (2, 2), np.ones((3, latents)), rows=rows, told="; the model is told a long word"),
    ):
        drawn(figure)
        assert all(text.get_window_extent().x1 <= figure.bbox.x1 for text in figure.texts)


def test_the_kept_epoch_is_marked_and_told():
    history = [record | {"kept": record["epoch"] in (2, 5)} for record in make_history()]
    figure = plots.loss_curves(history)
    for axes in figure.axes:
        (line,) = (line for line in axes.lines if line.get_label() == "_kept")
        assert list(line.get_xdata()) == [5, 5]
    assert "nats per example; the model is of epoch 5, the dotted line" in texts(figure)
    assert len(figure.legends[0].get_texts()) == 2


def test_an_empty_history_is_refused():
    with pytest.raises(ValueError, match="history has no records; train for at least one epoch"):
        plots.loss_curves([])


# ---- Grids of images


def test_samples_put_image_k_in_its_place():
    images = np.random.default_rng(0).random((11, 6))
    figure = plots.samples(images, (2, 3), columns=4)
    for k in range(11):
        np.testing.assert_array_equal(cell(figure, k // 4, k % 4, 3, 4), enlarged(images[k].reshape(2, 3), 40))
    assert np.isnan(cell(figure, 2, 3, 3, 4)).all()
    assert np.isnan(canvas(figure)[80:82]).all()  # the separator below the first row of 2 * 40 pixels
    assert "11 samples" in texts(figure)


def test_tile_takes_the_layers_in_turn():
    layers = np.arange(2 * 3 * 2 * 2, dtype=float).reshape(2, 3, 2, 2, 1)
    tiled = grids.tile_cells(layers, 2, 1)[..., 0]
    assert tiled.shape == (4 * 3 - 1, 2 * 3 - 1)
    for layer, k in itertools.product(range(2), range(3)):
        top, left = (k // 2 * 2 + layer) * 3, k % 2 * 3
        np.testing.assert_array_equal(tiled[top : top + 2, left : left + 2], layers[layer, k, ..., 0])
    assert np.isnan(tiled[2]).all() and np.isnan(tiled[:, 2]).all() and np.isnan(tiled[6:, 3:]).all()
    np.testing.assert_array_equal(grids.tile_cells(layers[:1, :2], 2, 0)[..., 0], np.hstack(layers[0, :2, ..., 0]))
    apart = grids.tile_cells(layers, 2, 1, 3)[..., 0]
    assert apart.shape == (2 * 9 - 1, 2 * 3 - 1) and np.isnan(apart[5:9]).all()
    np.testing.assert_array_equal(
        apart[[*range(6), *range(9, 15)]], np.pad(tiled, ((0, 1), (0, 0)), constant_values=np.nan)
    )


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (5, 9)])
def test_every_pixel_is_shown_sharp(shape):
    """What is on the screen is the canvas, pixel by pixel: nothing blurred, dropped or doubled."""
    images = np.random.default_rng(0).integers(0, 256, (7, np.prod(shape))) / 255
    figure = plots.samples(images, shape)
    pixels, wanted, axes = drawn(figure), canvas(figure), figure.axes[0]
    box = axes.get_window_extent()
    left, top = round(box.x0), pixels.shape[0] - round(box.y1)
    shown = pixels[top : top + wanted.shape[0], left : left + wanted.shape[1], 0]
    np.testing.assert_allclose(shown, np.nan_to_num(wanted, nan=1) * 255, atol=1)  # to one level of grey


def test_grey_range():
    (probabilities,) = plots.samples(np.full((2, 4), 0.5), (2, 2)).axes[0].images
    assert probabilities.get_clim() == (0, 1)
    (others,) = plots.samples(np.array([[-3.0, 0, 1, 2], [5, 0, 1, 2]]), (2, 2)).axes[0].images
    assert others.get_clim() == (-3, 5)
    (with_nan,) = plots.samples(np.array([[-3.0, np.nan, np.inf, 2]]), (2, 2)).axes[0].images
    assert with_nan.get_clim() == (-3, 2)


def test_colour_images_are_clipped_unless_they_have_another_range():
    images = np.array([[-1, 0.5, 1.0] * 4, [0.1, 0.2, 0.3] * 4])
    assert cell(plots.samples(images, (2, 2, 3), columns=2), 0, 0, 1, 2)[0, 0].tolist() == [0, 0.75, 1]
    images[0] = [-0.5, 0.25, 1.5] * 4
    figure = plots.samples(images, (2, 2, 3), columns=2)
    np.testing.assert_allclose(cell(figure, 0, 0, 1, 2), np.broadcast_to([0, 0.25, 1], (120 // 2 * 2, 120, 3)))
    np.testing.assert_allclose(cell(figure, 0, 1, 1, 2)[0, 0], [0.1, 0.2, 0.3])
    assert canvas(plots.samples(images[:, :4], (2, 2, 1))).ndim == 2


def test_many_large_images_are_shrunk_to_fit():
    figure = plots.samples(np.random.default_rng(0).random((100, 150 * 150), np.float32), (150, 150))
    width, height = figure.get_size_inches() * plot_layout.DPI
    assert width < 1100 and height < 1100


def test_reconstructions_come_in_pairs_of_rows():
    rng = np.random.default_rng(0)
    x, x_hat = rng.random((13, 4)), rng.random((13, 4))
    figure = plots.reconstructions(x, x_hat, (2, 2))
    for k in range(13):
        for which, values in enumerate((x, x_hat)):
            shown = cell(figure, k // 10 * 2 + which, k % 10, 4, 10)
            np.testing.assert_array_equal(shown, enlarged(values[k].reshape(2, 2), 37))
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert names == ["original", "reconstruction"] * 2
    assert cell(plots.reconstructions(*np.zeros((2, 99, 4)), (2, 2)), 5, 9, 6, 10).shape == (74, 74)


def test_manifold_asks_for_the_quantiles_of_the_prior():
    decode = Recorder()
    figure = plots.manifold(decode, (2, 2), latent_dim=3, size=5)
    wanted = [NormalDist().inv_cdf(p) for p in (0.1, 0.3, 0.5, 0.7, 0.9)]
    z = decode.z.reshape(5, 5, 3)
    np.testing.assert_allclose(z[..., 0], np.tile(wanted, (5, 1)))
    np.testing.assert_allclose(z[..., 1], np.tile(wanted[::-1], (5, 1)).T)  # z2 grows upwards
    assert (z[..., 2] == 0).all()
    axes = figure.axes[0]
    np.testing.assert_array_equal(cell(figure, 1, 3, 5, 5, gap=1), enlarged(decode(z[1, 3:4]).reshape(2, 2), 60))
    labels = [f"{MINUS}1.28", f"{MINUS}0.52", "0", "0.52", "1.28"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == labels
    by_height = dict(zip(axes.get_yticks(), [tick.get_text() for tick in axes.get_yticklabels()], strict=True))
    assert [by_height[y] for y in sorted(by_height, reverse=True)] == labels  # the y axis points down
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


@pytest.mark.parametrize(("latent_dim", "size"), [(1, 7), (2, 1), (2, 20)])
def test_manifold_of_other_sizes(latent_dim, size):
    decode = Recorder()
    drawn(plots.manifold(decode, (2, 2), latent_dim, size))
    assert decode.z.shape == (size**latent_dim, latent_dim)


def test_traversals_move_one_latent_at_a_time():
    decode, rng = Recorder(), np.random.default_rng(0)
    mu = rng.standard_normal((50, 3)) * [0.1, 2, 1] + [5, 6, 7]
    figure = plots.traversals(decode, (2, 2), mu, steps=5, span=2.0)
    z = decode.z.reshape(3, 5, 3)
    for row, j in enumerate((1, 2, 0)):  # most variance first
        np.testing.assert_allclose(z[row, :, j], [-2, -1, 0, 1, 2])
        others = [i for i in range(3) if i != j]
        np.testing.assert_allclose(z[row][:, others], np.tile(mu.mean(axis=0)[others], (5, 1)))
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["z2", "z3", "z1"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [f"{MINUS}2", f"{MINUS}1", "0", "1", "2"]
    assert axes.get_xlabel() == "standard deviations of the prior"
    plots.traversals(decode, (2, 2), mu, dims=[2], steps=5)
    np.testing.assert_allclose(decode.z[:, 2], [-3, -1.5, 0, 1.5, 3])
    plots.traversals(decode, (2, 2), rng.standard_normal((5, 14)))
    assert decode.z.shape == (10 * 11, 14)
    some = texts(
        plots.traversals(decode, (2, 2), rng.standard_normal((5, 14)), rows="5 test examples", told="; told 3")
    )
    most = "the 10 of 14 latents that vary most, most first; the others at their mean over 5 test examples; told 3"
    assert most in some


def test_interpolations_are_straight_lines():
    decode, rng = Recorder(), np.random.default_rng(0)
    start, end = rng.standard_normal((2, 3, 4))
    figure = plots.interpolations(decode, start, end, (2, 2), steps=5)
    z = decode.z.reshape(3, 5, 4)
    np.testing.assert_array_equal(z[:, 0], start)
    np.testing.assert_array_equal(z[:, -1], end)
    np.testing.assert_allclose(np.diff(z, axis=1), np.broadcast_to((end - start)[:, None] / 4, (3, 4, 4)))
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["start", "end"]


# ---- Rows that are not images


def test_lines_show_the_rows_to_scale():
    x, x_hat = np.random.default_rng(0).standard_normal((2, 5, 3))
    figure = plots.reconstructions(x, x_hat, None)
    original, reconstruction = figure.axes[0].lines
    assert [original.get_label(), reconstruction.get_label()] == ["original", "reconstruction"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["original", "reconstruction"]
    tops = np.repeat([0, 0, 0, 0, 1], 3).reshape(5, 3)  # four cells in the first row, one in the second
    for line, values in ((original, x), (reconstruction, x_hat)):
        y = line.get_ydata().reshape(5, 4)
        assert np.isnan(y[:, 3]).all()  # no line leads from one cell to the next
        (slope, row, _), residual, *_ = np.linalg.lstsq(
            np.stack([values.ravel(), tops.ravel(), np.ones(15)], axis=1), y[:, :3].ravel(), rcond=None
        )
        assert slope < 0 < row and residual[0] < 1e-15 * row**2
    assert f"columns 1 to 3, values {plot_layout.short_number(min(x.min(), x_hat.min()))}" in " ".join(texts(figure))


@pytest.mark.parametrize("image_shape", [None, (6,), (3, 2, 1, 1), (1, 3, 2)])
def test_what_is_not_an_image_is_drawn_as_lines(image_shape):
    rows, decode = np.random.default_rng(0).standard_normal((40, 6)), Recorder(6)
    for figure, cells in [
        (plots.samples(rows, image_shape), 36),
        (plots.reconstructions(rows, rows, image_shape), 12),
        (plots.manifold(decode, image_shape), 64),
        (plots.traversals(decode, image_shape, rows[:, :2]), 22),
        (plots.interpolations(decode, rows[:3], rows[3:6], image_shape), 33),
    ]:
        drawn(figure)
        line = figure.axes[0].lines[0]
        assert len(line.get_xdata()) == cells * 7
        (low, high), (bottom, top) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
        assert low < np.nanmin(line.get_xdata()) and np.nanmax(line.get_xdata()) < high
        assert top < np.nanmin(line.get_ydata()) and np.nanmax(line.get_ydata()) < bottom


def test_one_column_and_constant_rows():
    drawn(plots.samples(np.ones((1, 1)), None))
    drawn(plots.reconstructions(np.full((2, 5), 7), np.full((2, 5), 7), None))
    drawn(plots.samples(np.full((1, 1), np.nan), (1, 1)))


# ---- The latent space


def test_scatter_shows_the_points_and_a_legend():
    mu, labels = np.random.default_rng(0).standard_normal((30, 3)), np.arange(30) % 3
    figure = plots.latent_scatter(mu, labels, title="Here", dims=(2, 0))
    axes = figure.axes[0]
    (points,) = axes.collections
    np.testing.assert_array_equal(points.get_offsets(), mu[:, [2, 0]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z3 (posterior mean)", "z1 (posterior mean)")
    assert axes.get_aspect() == 1 and "Here" in texts(figure)
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["0", "1", "2"]
    for label, handle in enumerate(legend.legend_handles):
        shown = matplotlib.colors.to_rgb(handle.get_color())
        np.testing.assert_array_equal(points.get_facecolors()[labels == label, :3], np.tile(shown, (10, 1)))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.arange(60) % 12, [str(c) for c in range(12)]),
        (np.arange(60.0) % 2, ["0", "1"]),
        (np.arange(60) % 2 == 0, ["False", "True"]),
        (["cat", "dog", "eel"] * 20, ["cat", "dog", "eel"]),
        (np.array([None, "dog"] * 30, object), ["None", "dog"]),
        (np.zeros(60, np.uint8), ["0"]),
        ([0, 1, 2, np.nan] * 15, ["0", "1", "2", "missing"]),
        (np.full(60, np.nan), ["missing"]),
        (
            np.where(np.arange(65) % 13 == 12, np.nan, np.arange(65) % 13)[:60],
            [*(str(c) for c in range(12)), "missing"],
        ),
        (["experiment_long_B1", "experiment_long_B2"] * 30, ["exper...ng_B1", "exper...ng_B2"]),
        (["experiment_long", "b"] * 30, ["b", "experiment..."]),
    ],
)
def test_few_classes_have_a_legend(labels, names):
    figure = plots.latent_scatter(np.random.default_rng(0).standard_normal((60, 2)), labels)
    assert len(figure.axes) == 1
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == names
    shown = [matplotlib.colors.to_hex(handle.get_color()) for handle in legend.legend_handles]
    assert len(set(shown)) == len(names) and ("missing" in names) == ("#bbbbbb" in shown)


def test_names_are_cut_where_they_stay_apart():
    assert plot_layout.shortened(["a" * 20, "b"], 8) == ["aaaaa...", "b"]
    assert plot_layout.shortened(["one/long/run", "b"], 8, keep_end=True) == ["...g/run", "b"]
    assert plot_layout.shortened(["aaaaaaXaaaaaa", "aaaaaaYaaaaaa"], 8) == ["aaaaaaXaaaaaa", "aaaaaaYaaaaaa"]
    assert plot_layout.shortened(["a" * 20 + "1", "a" * 20 + "1"], 8) == ["aaaaa..."] * 2  # one name twice
    assert plot_layout.short_number(-0.0004, ".2f") == "0.00" and plot_layout.short_number(-1.5, ".1f") == f"{MINUS}1.5"


@pytest.mark.parametrize(
    "labels", [np.arange(60) % 30, np.linspace(0, 1, 60), [f"c{i % 30}" for i in range(60)], [0.5, np.nan] * 30]
)
def test_many_classes_and_quantities_have_a_colour_bar(labels):
    figure = plots.latent_scatter(np.random.default_rng(0).standard_normal((60, 2)), labels)
    drawn(figure)
    (axes,) = figure.axes
    (bar,) = axes.child_axes
    assert axes.get_legend() is None and bar.get_yticks().size > 1
    colours = axes.collections[0].get_facecolors()
    viridis = matplotlib.colormaps["viridis"]
    if isinstance(labels, np.ndarray):
        np.testing.assert_allclose(colours[:, :3], viridis((labels - labels.min()) / np.ptp(labels))[:, :3])
        assert bar.get_ylim() == (labels.min(), labels.max())
    elif not isinstance(labels[0], str):
        assert len(np.unique(colours, axis=0)) == 2 and matplotlib.colors.to_hex(colours[1]) == "#bbbbbb"  # of no label
    elif isinstance(labels[0], str):
        assert bar.get_yticklabels()[0].get_text() == "c0"


def test_scatter_without_labels_and_with_one_latent():
    mu = np.random.default_rng(0).standard_normal((20, 2))
    figure = plots.latent_scatter(mu)
    (points,) = figure.axes[0].collections
    assert len(np.unique(points.get_facecolors(), axis=0)) == 1
    assert figure.axes[0].get_legend() is None and len(figure.axes) == 1
    one = plots.latent_scatter(mu[:, :1]).axes[0]
    np.testing.assert_array_equal(one.collections[0].get_offsets(), np.stack([mu[:, 0], np.arange(20)], axis=1))
    assert one.get_ylabel() == "example"


def test_class_colours_differ():
    assert len(set(plot_layout.CLASSES)) == 12
    rgb = np.array([matplotlib.colors.to_rgb(colour) for colour in plot_layout.CLASSES])
    distance = np.linalg.norm(rgb[:, None] - rgb, axis=2)[~np.eye(12, dtype=bool)]
    assert distance.min() > 0.2


# ---- Files


def small_figure():
    return plots.samples(np.random.default_rng(0).random((4, 4)), (2, 2))


@pytest.mark.parametrize(("suffix", "signature"), [(".png", PNG_SIGNATURE), (".PNG", PNG_SIGNATURE), (".pdf", b"%PDF")])
def test_saved_files_repeat_and_have_no_date(tmp_path, suffix, signature):
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    plots.save(small_figure(), first)
    plots.save(small_figure(), str(second))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(signature)
    assert b"Software" not in first.read_bytes() and b"CreationDate" not in first.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, second.name]


def test_svg_can_be_saved(tmp_path):
    plots.save(small_figure(), tmp_path / "a.svg")
    assert b"<svg" in (tmp_path / "a.svg").read_bytes() and b"<dc:date>" not in (tmp_path / "a.svg").read_bytes()


@pytest.mark.parametrize("where", ["savefig", "replace"])
def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch, where):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    figure = small_figure()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(*((figure, "savefig") if where == "savefig" else (os, "replace")), fail)
    with pytest.raises(OSError, match="disk full"):
        plots.save(figure, path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.hologram", "a", ".png"])
def test_an_unknown_suffix_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"has no suffix of a figure format; end it in \.png"):
        plots.save(small_figure(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_no_folder_is_made(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing, where a\.png should go, is not a folder; create it first"):
        plots.save(small_figure(), tmp_path / "missing" / "a.png")
    assert not list(tmp_path.iterdir())


# ---- Manners


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (
        lambda: plots.loss_curves(make_history()),
        lambda: plots.kl_per_dimension([1.0], [True]),
        lambda: plots.samples(np.ones((1, 4)), (2, 2)),
        lambda: plots.latent_scatter(np.ones((2, 2))),
    ):
        with pytest.raises(ImportError, match=r'^figures need matplotlib .*; run pip install "minivae\[plot\]"$'):
            draw()


def test_import_is_lazy_and_pyplot_never_comes_in():
    code = (
        "import sys; from minivae.figures import plots; assert 'matplotlib' not in sys.modules;"
        "plots.samples([[0, 1]], (1, 2)); plots.latent_scatter([[0, 1]], [3]);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_global_settings_stay(tmp_path):
    before = dict(matplotlib.rcParams)
    plots.save(plots.loss_curves(make_history()), tmp_path / "a.png")
    plots.save(small_figure(), tmp_path / "b.png")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", ["$5 and $6", "_hidden", r"\alpha $", "a_b^c"])
def test_names_are_drawn_as_they_are_and_the_user_s_settings_do_not_reach_the_figures(name, tmp_path):
    """LaTeX for all text, which is not here, would end a run; two dollars would be mathematics, an underscore nothing."""

    def files(folder, at):
        folder.mkdir()
        labels = [at, at, "b"]
        plots.save(plots.latent_scatter(np.eye(3), labels), folder / "a.png")
        plots.save(plots.histograms(np.eye(2), np.eye(2), [at, "b"]), folder / "b.png")
        plots.save(plots.samples(np.ones((2, 4)), (2, 2), 2, "", [at, "b"]), folder / "c.png")
        return [path.read_bytes() for path in sorted(folder.iterdir())]

    plain = files(tmp_path / "plain", name)
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30, "axes.facecolor": "red", "savefig.dpi": 30}):
        assert files(tmp_path / "set", name) == plain
        assert matplotlib.rcParams["text.usetex"] is True
    figure = plots.latent_scatter(np.eye(3), [name, name, "b"])
    assert sorted(text.get_text() for text in figure.axes[0].get_legend().get_texts()) == sorted([name, "b"])
    assert not any(text.get_parse_math() for text in figure.axes[0].get_legend().get_texts())
    assert len(set(plain)) == 3 and files(tmp_path / "other", "b2")[0] != plain[0]


def test_threads_draw_the_same_files(tmp_path):
    def work(i):
        plots.save(small_figure(), tmp_path / f"{i % 2}.png")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["0.png", "1.png"]
    assert files[0].read_bytes() == files[1].read_bytes()


ones, DECODE = np.ones, Recorder()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.samples(ones((2, 5)), (2, 2)), r"image_shape \(2, 2\) does not fit rows of 5 values"),
        (lambda: plots.samples(ones((2, 4)), (-2, -2)), r"image_shape \(-2, -2\) does not fit rows of 4 values"),
        (lambda: plots.samples(ones(4), (2, 2)), r"images has shape \(4,\) and dtype float64; pass numbers"),
        (lambda: plots.samples(ones((0, 4)), (2, 2)), "images has shape"),
        (lambda: plots.samples([["a"]], None), "images has shape .* dtype <U1"),
        (lambda: plots.samples(ones((2, 4)), (2, 2), 0), "columns must be at least 1, not 0"),
        (lambda: plots.reconstructions(ones((2, 4)), ones((3, 4)), (2, 2)), "x has shape .* and x_hat"),
        (lambda: plots.manifold(DECODE, (2, 2), size=0), "size and latent_dim must be at least 1, not 0 and 2"),
        (lambda: plots.manifold(lambda z: z[:1], None), "decode returned 1 rows for 64 latent points"),
        (lambda: plots.traversals(DECODE, (2, 2), ones((2, 2)), dims=[2]), r"dims \[2\] must name latents from 0"),
        (lambda: plots.traversals(DECODE, (2, 2), ones((2, 2)), steps=1), "steps must be at least 2"),
        (lambda: plots.interpolations(DECODE, ones((2, 2)), ones((3, 2)), (2, 2)), "z_start has shape .* z_end"),
        (lambda: plots.interpolations(DECODE, ones((2, 2)), ones((2, 2)), (2, 2), 1), "steps must be at least 2"),
        (lambda: plots.kl_per_dimension(ones((2, 1)), ones(2)), r"kl has shape \(2, 1\); pass one number for each"),
        (
            lambda: plots.kl_per_dimension(ones(2), ones(3)),
            r"kl has shape \(2,\) and active \(3,\); make them the same",
        ),
        (lambda: plots.latent_scatter(ones((3, 2)), [1, 2]), r"labels have shape \(2,\); pass one for each of the 3"),
        (lambda: plots.latent_scatter(ones((3, 2)), dims=(0, -1)), r"dims \[0, -1\] must name two latents from 0 to 1"),
    ],
)
def test_wrong_arguments_get_one_clear_sentence(draw, message):
    with pytest.raises(ValueError, match=message) as caught:
        draw()
    assert "\n" not in str(caught.value)


# ---- Tables


def test_panels_have_the_names_of_their_columns_and_leave_out_what_is_missing():
    x = np.array([[1, np.nan, 3], [2, 5, 3], [4, 7, 3.0]])
    figure = plots.parity(x, x + [0, 1, 0], ["a", "price in $ and $", "c" * 40], "3 test examples")
    drawn(figure)
    second = figure.axes[1]
    np.testing.assert_array_equal(second.collections[0].get_offsets(), [[5, 6], [7, 8]])
    titles = [[axes.get_title(loc="left"), *(text.get_text() for text in axes.texts)] for axes in figure.axes]
    assert titles == [["a", "R² 1.00"], ["price in $ and $", "R² 0.00"], [f"{'c' * 19}..."]]  # a constant has none
    assert "3 test examples" in texts(figure)
    for values in (np.full((2, 3), np.nan), np.ones((1, 3))):
        drawn(plots.histograms(values, x, ["a", "b", "c"]))
    wide = plots.histograms(x[:, :1], x[:, :1], ["a"], "500 validation examples; samples are drawn from p(x|z), " * 3)
    drawn(wide)
    assert all(text.get_window_extent().x1 <= wide.bbox.x1 for text in wide.texts)
    with pytest.raises(ValueError, match="there are 2 names for 3 columns; pass one for each"):
        plots.parity(x, x, ["a", "b"])
    with pytest.raises(ValueError, match="x has 3 columns and drawn 2; make them the same"):
        plots.histograms(x, x[:, :2], ["a", "b", "c"])
