"""The explorer's page in a browser, without a network: its numbers are Python's, its controls work, and nothing leaves it.

They need Chromium (Debian: apt-get install chromium; or MINIVAE_CHROMIUM names it) and `pip install playwright`.
"""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from test_explorer import EVIL, KINDS, RNG, TABLE, fitted

from minivae.kernels.reference import ACTIVATIONS
from minivae.parameters import views
from minivae.watching import Step

driver = pytest.importorskip("playwright.sync_api", reason="the explorer's page is driven by playwright, not installed")
CHROMIUM = os.environ.get("MINIVAE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; install it, or name it in MINIVAE_CHROMIUM")

COUNTS = RNG.poisson(3, (60, 5))
UNIT = RNG.uniform(size=(60, 5)).astype(np.float32)
LABELS = np.array(["a", EVIL, "c"])[RNG.integers(3, size=60)]
CASES = {
    "bernoulli": (UNIT, None, {"likelihood": "bernoulli"}),
    "continuous_bernoulli": (UNIT, None, {"likelihood": "continuous_bernoulli"}),
    "gaussian": (UNIT, None, {"likelihood": "gaussian", "hidden_dims": ()}),
    "elementwise": (UNIT, None, {"likelihood": "gaussian", "sigma": "elementwise"}),
    "poisson": (COUNTS, None, {"likelihood": "poisson"}),
    "negative_binomial": (COUNTS, None, {"likelihood": "negative_binomial"}),
    "categorical": (np.eye(4)[RNG.integers(4, size=60)], None, {"likelihood": "categorical"}),
    "a table": (TABLE, None, {"likelihood": KINDS, "standardize": True, "hidden_dims": (9, 4)}),
    "told a label": (UNIT, LABELS, {"likelihood": "bernoulli", "conditional": True, "latent_dim": 1}),
    "told numbers": (UNIT, RNG.normal(7, 3, (60, 2)), {"likelihood": "bernoulli", "conditional": True}),
}


@pytest.fixture(scope="module")
def browser():
    with driver.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, tmp_path):
    """A function that opens a page without a network; at the end it has said nothing, and asked for nothing but itself."""
    contexts, said, asked = [], [], []

    def show(html, **options):
        path = tmp_path / "page.html"
        path.write_text(html)
        contexts.append(browser.new_context(**{"offline": True, "viewport": {"width": 1280, "height": 800}} | options))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: "readback" in message.text or said.append(message.text))  # which is ours
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto(path.as_uri())
        page.wait_for_selector("main:not([hidden])")
        page.wait_for_timeout(100)
        return page

    yield show
    for context in contexts:
        context.close()
    assert not said and set(asked) == {(tmp_path / "page.html").as_uri()}


def shown(page):
    """z, after the frame that shows it."""
    return page.evaluate(
        "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done([...explorer.z]))))"
    )


@pytest.mark.parametrize(
    "name, precision", [(name, "single") for name in CASES] + [(n, "half") for n in ("bernoulli", "poisson", "a table")]
)
def test_the_decoder_gives_pythons_numbers(name, precision, opened):
    X, y, settings = CASES[name]
    activation = list(ACTIVATIONS)[list(CASES).index(name) % len(ACTIVATIONS)]
    vae = fitted(X, y, activation=activation, epochs=3, **settings)
    z = np.random.default_rng(2).normal(size=(100, vae.latent_dim)) * 2
    told = None if y is None else y[np.resize(np.arange(60), 100)]
    side = [[]] * 100 if y is None else np.asarray(vae._side(told, 100), float).tolist()
    page = opened(vae.to_html(X, y, precision=precision))
    found = np.array(
        page.evaluate("([z, side]) => z.map((one, i) => [...explorer.mean(one, side[i])])", [z.tolist(), side])
    )
    expected = vae.inverse_transform(z, told)
    error = np.abs(found - expected) / np.maximum(np.ptp(np.asarray(X, float), axis=0), np.maximum(abs(expected), 1))
    assert error.max() < {"single": 1e-5, "half": 1e-3}[precision]
    known = [page.evaluate("[...original(7)]"), page.evaluate("[...explorer.mean(embedded(7), sideOf(7))]")]
    again = vae.reconstruct(X[:8], None if y is None else y[:8])[7]
    np.testing.assert_allclose(known[0], X[7], rtol=1e-6)
    np.testing.assert_allclose(known[1], again, atol=3e-3 * max(1, float(np.ptp(X))))


def test_every_control_does_what_it_says(opened):
    X = RNG.integers(0, 256, (60, 6, 8)).astype(np.uint8).reshape(60, 48)
    vae = fitted(X, LABELS, likelihood="bernoulli", latent_dim=4, conditional=True)
    page = opened(vae.to_html(X, LABELS, image_shape=(6, 8), title=EVIL))
    plane = page.locator("#plane")
    box = plane.bounding_box()
    assert page.locator("h1 #title").inner_text() == EVIL and page.locator("img").count() == 0
    assert page.locator("#legend > span").all_inner_texts() == sorted({*LABELS})

    def place(script):
        left, up = page.evaluate(script)
        return box["x"] + left, box["y"] + up

    # drag: z follows the pointer, and the picture z
    dims, picture = page.evaluate("explorer.dims"), "document.querySelector('#mean canvas').toDataURL()"
    before = page.evaluate(picture)
    page.mouse.move(*place("explorer.plane.toScreen(0, 0)"))
    page.mouse.down()
    page.mouse.move(*place("explorer.plane.toScreen(1, -1.5)"), steps=5)
    z = shown(page)
    page.mouse.up()
    np.testing.assert_allclose([z[j] for j in dims], [1, -1.5], atol=0.02)
    assert page.evaluate(picture) != before
    data = page.evaluate("[...document.querySelector('#mean canvas').getContext('2d').getImageData(0, 0, 8, 6).data]")
    grey = np.reshape(data, (48, 4))[:, 0] / 255
    np.testing.assert_allclose(grey, vae.inverse_transform([z], [sorted({*LABELS})[0]])[0], atol=0.01)

    # keys
    plane.focus()
    for key, change in (
        ("ArrowRight", (1, 0)),
        ("ArrowUp", (0, 1)),
        ("Shift+ArrowLeft", (-5, 0)),
        ("ArrowDown", (0, -1)),
    ):
        before, step = shown(page), page.evaluate("explorer.plane.view.radius / 40")
        page.keyboard.press(key)
        np.testing.assert_allclose(np.subtract(shown(page), before)[dims], np.multiply(step, change), atol=1e-9)
    radius = page.evaluate("explorer.plane.view.radius")
    for act, factor in (
        (lambda: page.keyboard.press("+"), 1 / 1.4), (lambda: page.keyboard.press("-"), 1),
        (lambda: page.click("#in"), 1 / 1.4), (lambda: page.click("#out"), 1),
        (lambda: page.click("#in"), 1 / 1.4), (lambda: page.click("#home"), 1),
    ):  # fmt: skip
        act()
        assert page.evaluate("explorer.plane.view.radius") == pytest.approx(radius * factor)
    before = place("explorer.plane.toScreen(1, 1)")
    page.mouse.move(*before)
    page.mouse.wheel(0, -100)
    page.wait_for_function("(radius) => explorer.plane.view.radius < 0.8 * radius", arg=radius)
    np.testing.assert_allclose(
        place("explorer.plane.toScreen(1, 1)"), before, atol=1
    )  # what lies under the pointer stays
    page.click("#home")

    # the view is moved, and z is not
    z = shown(page)
    page.check("#pan")
    page.mouse.move(box["x"] + 300, box["y"] + 300)
    page.mouse.down()
    page.mouse.move(box["x"] + 340, box["y"] + 270, steps=3)
    page.mouse.up()
    assert shown(page) == z
    view, scale = page.evaluate("explorer.plane.view"), page.evaluate("explorer.plane.scale")
    np.testing.assert_allclose([view["x"], view["y"]], [-40 / scale, -30 / scale], rtol=1e-6)
    page.uncheck("#pan")
    page.click("#home")

    # further latents, what is told, z as a whole
    others = [
        int(j) for j in page.locator("#sliders input").evaluate_all("(all) => all.map((one) => one.dataset.latent)")
    ]
    assert sorted(others + dims) == [0, 1, 2, 3]
    for j in others:
        page.locator(f"#sliders input[data-latent='{j}']").fill("1.5")
        assert shown(page)[j] == 1.5
    page.locator("#told select").select_option(EVIL)
    assert page.evaluate("[...explorer.side]") == [float(label == EVIL) for label in sorted({*LABELS})]
    page.locator("#axes select").nth(0).select_option(f"z{others[0] + 1}")
    assert page.evaluate("explorer.dims") == [others[0], dims[1]]
    page.locator("#axes select").nth(1).select_option(f"z{others[0] + 1}")  # which is taken: they change places
    assert page.evaluate("explorer.dims") == [dims[1], others[0]]
    page.click("#random")
    assert 0 not in shown(page)
    page.click("#zero")
    assert shown(page) == [0, 0, 0, 0]

    # examples: hover, type, step; then two points and the walk between them
    for i in (11, 30):
        at = place(f"explorer.plane.toScreen(explorer.plane.x[{i}], explorer.plane.y[{i}])")
        page.mouse.move(*at)
        i = page.evaluate("explorer.shown")  # the nearest
        x, y = place(f"explorer.plane.toScreen(explorer.plane.x[{i}], explorer.plane.y[{i}])")
        assert np.hypot(x - at[0], y - at[1]) < 1 and shown(page) == [0, 0, 0, 0]
    page.fill("#which", "21")
    page.keyboard.press("Enter")
    np.testing.assert_allclose(shown(page), vae.transform(X[20:21], LABELS[20:21])[0], atol=2e-3)
    assert page.evaluate("[...explorer.side]").index(1) == sorted({*LABELS}).index(LABELS[20])
    assert f"label {LABELS[20]}" in page.locator("#of").inner_text()
    page.click("#next")
    page.click("#previous")
    page.click("#previous")
    assert page.evaluate("explorer.shown") == 19
    for typed, found in (("-5", 1), ("0", 1), ("999", 60), ("20", 20)):
        page.fill("#which", typed)
        page.keyboard.press("Enter")
        assert page.locator("#which").input_value() == str(found)
    plane.focus()
    page.keyboard.press("n")
    page.keyboard.press("Enter")
    page.keyboard.press("p")
    page.keyboard.press("Enter")
    assert page.evaluate("explorer.ends") == [20, 19] and page.locator("#strip button").count() == 9
    page.locator("#along").fill("0.5")
    ends = vae.transform(X[19:21], LABELS[19:21])
    np.testing.assert_allclose(shown(page), ends.mean(axis=0), atol=2e-3)
    page.locator("#strip button").nth(0).click()
    np.testing.assert_allclose(shown(page), ends[1], atol=2e-3)
    page.mouse.click(*place("explorer.plane.toScreen(explorer.plane.x[3], explorer.plane.y[3])"))
    assert len(page.evaluate("explorer.ends")) == 1 and page.locator("#strip button").count() == 0

    # background and points on and off, and the other tabs, by mouse and keys
    for box_id, canvas in (("background", 0), ("dots", 1)):
        inked = "(k) => document.querySelectorAll('#plane canvas')[k].getContext('2d').getImageData(99, 99, 300, 300)"
        inked += ".data.some(Boolean)"
        page.wait_for_function(inked, arg=canvas)
        page.uncheck(f"#{box_id}")
        assert not page.evaluate(inked, canvas)
        page.check(f"#{box_id}")
    page.click("#tab-training")
    assert page.locator("#curves svg").count() == 3 and not page.locator("#latent").is_visible()
    page.keyboard.press("ArrowRight")
    assert page.locator("#step").is_visible()
    page.keyboard.press("ArrowRight")
    assert "51 \u2013 7 \u2013 8" in page.locator("#words").inner_text()  # 48 pixels, and which of three labels
    assert page.locator("#kl li").count() == 4


def test_a_step_is_watched_and_a_weight_moves_what_follows(opened):
    vae = fitted(UNIT, likelihood="bernoulli", hidden_dims=(7,))
    page = opened(vae.to_html(UNIT))
    page.click("#tab-step")
    step, weights = Step(vae, UNIT[:16]), page.locator("#weight select option").all_inner_texts()
    assert weights[2].startswith("encoder.1.W[") and len(weights) == 8

    def told():
        """The texts of the row of each array, without its name."""
        rows = page.locator("#calls tbody tr:has(th[scope])").all_inner_texts()
        return [row.replace("\u2212", "-").split("\t")[1:] for row in rows]

    loss, seen, moved = step.look()
    for row, one in zip(told(), seen, strict=True):
        assert row[0] == " \u00d7 ".join(map(str, one.values.shape))
        assert [float(text) for text in row[1:4]] == pytest.approx(
            [one.told[name] for name in ("mean", "spread", "norm")], rel=6e-3, abs=1e-12
        )
        assert (row[5] == "") == (one.error is None)
    assert f"Loss {loss:.7g} nats" in page.locator("#step-loss").inner_text()
    page.locator("#weight select").select_option(weights[2])
    page.locator("#weight-value").fill("12")
    entry, value = step.entry(weights[2]), float(page.locator("#step label output").inner_text().replace("\u2212", "-"))
    other, then, moved = step.look({entry: vae_value(step, entry) + 0.5}, check=False)
    assert value == pytest.approx(vae_value(step, entry) + 0.5, abs=1e-3)
    for row, one, before in zip(told(), then, seen, strict=True):
        assert [float(text) for text in row[1:4]] == pytest.approx(
            [one.told[name] for name in ("mean", "spread", "norm")], rel=6e-3, abs=1e-12
        )
        assert (row[5] != "") == (one.values != before.values).any()
    names = page.locator("#calls tr.moved th").all_inner_texts()
    assert names[0] == "h" and "encoder.0.dW" in names and "encoder.0.y" not in names  # in the book's order
    assert f"\u2192 {other:.7g} nats" in page.locator("#step-loss").inner_text()
    changes = [row.split("\t")[3] for row in page.locator("#parameters tbody tr").all_inner_texts()]
    told_then = [float(text.replace("\u2212", "-")) for text in changes]
    assert told_then == pytest.approx([one.change for one in moved], rel=6e-3)
    page.locator("summary", has_text="sample_backward").click()
    assert "def sample_backward(dh, dz" in page.locator("details[open] pre").inner_text()
    page.click("#weight-back")
    assert page.locator("#calls tr.moved").count() == 0


def vae_value(step, entry):
    name, index = entry
    return views(step.parameters, step.network.layout)[name][index]


def test_tab_reaches_everything_and_everything_has_a_name(opened):
    page = opened(fitted(UNIT, LABELS, latent_dim=4, conditional=True).to_html(UNIT, LABELS))
    wanted = page.locator("button:visible, input:visible, select:visible, #plane").evaluate_all(
        "(all) => all.filter((one) => one.tabIndex >= 0).map((one, i) => { one.dataset.stop = i; return i; })"
    )
    reached = set()
    for _ in range(len(wanted) + 3):
        page.keyboard.press("Tab")
        stop, ring = page.evaluate(
            "[document.activeElement.dataset.stop, getComputedStyle(document.activeElement).outlineStyle]"
        )
        if stop is not None:
            reached.add(int(stop))
            assert ring == "solid"
    assert reached == set(wanted)
    names = "(all) => all.map((one) => [one.ariaLabel, one.textContent, one.labels?.[0]?.textContent].join('').trim())"
    assert all(page.locator("button, input, select, #plane").evaluate_all(names))


def test_numbers_are_short_and_ticks_tell_apart(opened):
    page = opened(fitted(UNIT, np.array(["", *"b" * 59])).to_html(UNIT, np.array(["", *"b" * 59])))
    minus, told = (
        "\u2212",
        {0.12345: "0.123", -1234567: "-1234567", 1.7e9: "1700000000", -1.246e29: "-1.25e+29", 0: "0"},
    )
    for value, text in told.items():
        assert page.evaluate("(value) => number(value)", value) == text.replace("-", minus)
    assert page.evaluate("labelled(ticks(2.1801, 2.1839)).map((pair) => pair[1])") == ["2.181", "2.182", "2.183"]
    assert page.evaluate("labelled(ticks(-1, 1)).map((pair) => pair[1])") == [
        f"{minus}1.0",
        f"{minus}0.5",
        "0.0",
        "0.5",
        "1.0",
    ]
    assert page.evaluate("labelled(ticks(-9, 9)).map((pair) => pair[1])") == [f"{minus}5", "0", "5"]
    assert page.locator("#legend > span").all_inner_texts() == ["(empty)", "b"]


def test_one_latent_is_a_line_and_numbers_are_told_by_sliders(opened):
    y = CASES["told numbers"][1]
    vae = fitted(UNIT, y, conditional=True, latent_dim=1)
    page = opened(vae.to_html(UNIT, y))
    box = page.locator("#plane").bounding_box()
    page.mouse.click(box["x"] + 300, box["y"] + 3)
    assert shown(page) == [page.evaluate("explorer.plane.toLatent(300, 3)[0]")]
    inputs = page.locator("#told input")
    assert inputs.count() == 2 and page.locator("#told output").all_inner_texts() == [
        f"{v:.3g}" for v in y.mean(axis=0)
    ]
    inputs.nth(1).fill("-1.5")
    assert page.evaluate("[...explorer.side]") == [0, -1.5]
    told = y.mean(axis=0) - [0, 1.5] * y.std(axis=0)
    assert page.locator("#told output").all_inner_texts()[1] == f"{told[1]:.3g}".replace("-", "\u2212")
    np.testing.assert_allclose(
        page.evaluate("[...explorer.mean(explorer.z)]"), vae.inverse_transform([shown(page)], told[None])[0], atol=1e-3
    )


def test_a_table_shows_names_units_and_holes_as_text(opened):
    X = TABLE.copy()
    X[0, :2] = np.nan
    vae = fitted(X, likelihood=KINDS, missing="ignore", standardize=True)
    page = opened(vae.to_html(X, X[:, 0]))
    assert page.locator("#mean th").all_inner_texts() == ["x0", "x1", "x2", "x3", "x4 to x6"]
    assert page.locator("#pair .told").all_inner_texts()[:3] == ["missing", "missing", f"{X[0, 2]:g}"]
    mean = vae.inverse_transform(np.zeros((1, 2)))[0]
    page.click("#zero")
    shown(page)
    told = page.locator("#mean .value").all_inner_texts()
    assert float(told[0]) == pytest.approx(mean[0], rel=1e-5)
    assert told[4] == f"x{4 + mean[4:].argmax()} {100 * mean[4:].max():.0f} %"
    page.locator("#axes select").select_option("x2")
    assert page.evaluate("explorer.shade.name") == "x2"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_one_finger_draws_and_two_zoom(scheme, opened):
    X = RNG.normal(size=(60, 20)).astype(np.float32)
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "color_scheme": scheme}
    page = opened(fitted(X, likelihood="gaussian").to_html(X, np.arange(60) / 7), **phone)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    box, finger = page.locator("#plane").bounding_box(), page.context.new_cdp_session(page)

    def touch(kind, *places):
        points = [{"x": box["x"] + x, "y": box["y"] + y, "id": i} for i, (x, y) in enumerate(places)]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (100, 100))
    touch("touchMove", (120, 80))
    touch("touchEnd")
    np.testing.assert_allclose(shown(page), page.evaluate("explorer.plane.toLatent(120, 80)"), atol=1e-6)
    radius, z = page.evaluate("explorer.plane.view.radius"), shown(page)
    touch("touchStart", (150, 150))
    touch("touchMove", (150, 150))
    z = shown(page)
    touch("touchStart", (150, 150), (200, 150))
    touch("touchMove", (100, 150), (250, 150))
    touch("touchEnd")
    assert page.evaluate("explorer.plane.view.radius") == pytest.approx(radius / 3, rel=0.05) and shown(page) == z
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) == (scheme == "dark")


def test_frames_while_dragging_are_told(opened):
    X = np.zeros((50, 784), np.uint8)
    X[:, 300:400] = RNG.integers(0, 256, (50, 100))
    page = opened(fitted(X, hidden_dims=(500,), likelihood="bernoulli").to_html(X, image_shape=(28, 28)))
    page.evaluate("window.times = []; (function next(t) { times.push(t); requestAnimationFrame(next); })(0)")
    box = page.locator("#plane").bounding_box()
    page.mouse.move(box["x"] + 99, box["y"] + 99)
    page.mouse.down()
    page.mouse.move(box["x"] + 400, box["y"] + 400, steps=60)
    page.mouse.up()
    gaps = np.diff(page.evaluate("times.slice(1)"))
    many = "for (let i = 0; i < 50; i++) explorer.mean([i / 25, 1]);"
    each = page.evaluate(f"(() => {{ const t = performance.now(); {many} return (performance.now() - t) / 50; }})()")
    median, most = np.quantile(gaps, [0.5, 0.95])
    print(f"784-500-2: {len(gaps)} frames, median {median:.1f} ms, 95 % below {most:.1f} ms; one decode {each:.2f} ms")
