"""Pictures of every mode and format that Pillow writes, read by the rules that pictures.py states, or refused by name."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib

import numpy as np
import pytest

from minivae import VAE, DataError, load_dataset
from minivae.app.cli import main
from minivae.app.runs import open_run
from minivae.data import pictures
from minivae.storage import persistence
from minivae.storage.modelfile import ModelFileError

Image = pytest.importorskip("PIL.Image", reason="Pillow reads pictures: pip install 'minivae[images]'")
from PIL import ImageMode, ImageOps  # noqa: E402

TRIALS = int(os.environ.get("MINIVAE_TRIALS", "1"))
FORMATS = {"PNG": "png", "TIFF": "tif", "GIF": "gif", "WEBP": "webp", "JPEG": "jpg", "BMP": "bmp", "PPM": "ppm"}
MODES = [
    *("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "La", "RGBa", "RGBX"),
    *("I;16", "I;16B", "I;16L", "I;16N"),
]
GREY = {"1", "L", "LA", "La"}
DEEP = {"I": np.int32, "F": np.float32, "I;16": np.uint16, "I;16B": np.uint16}


def refuses(path, words, **how):
    with pytest.raises(DataError, match=words) as caught:
        load_dataset(path, **how)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def drawn(rng, mode, size=(5, 4)):
    """A picture [H, W] of any mode with random content; in part transparent, where the mode can say so."""
    width, height = size
    count = width * height
    if mode == "P":
        image = Image.frombytes("P", size, rng.integers(0, 256, count, np.uint8).tobytes())
        image.putpalette(rng.integers(0, 256, 768, np.uint8).tobytes())
        return image
    if mode in ("I", "F"):
        values = rng.integers(-70000, 70000, (height, width))
        return Image.fromarray(values.astype(np.int32) if mode == "I" else (values / 7).astype(np.float32))
    each = 2 if mode.startswith("I;16") else len(ImageMode.getmode(mode).bands)
    if mode == "1":
        return Image.fromarray(rng.integers(0, 2, (height, width)).astype(bool))
    image = Image.frombytes(mode, size, rng.integers(0, 256, each * count, np.uint8).tobytes())
    if mode == "PA":
        image.putpalette(rng.integers(0, 256, 768, np.uint8).tobytes())
    return image


def ruled(file, mode, background):
    """What the stated rule makes of the first picture in a file, by Pillow and plain sums."""
    with open(file, "rb") as raw, Image.open(raw) as image:  # by its name, Pillow 13 turns TIFFs 5 to 8 twice
        if mode in DEEP:
            return np.asarray(ImageOps.exif_transpose(image)).astype(DEEP[mode]), 0
        image = ImageOps.exif_transpose(image)
        if not image.has_transparency_data:
            return np.asarray(image.convert(mode) if image.mode in GREY else image.convert("RGB").convert(mode)), 0
        rgba = np.asarray(image.convert("RGBA"), float)
        alpha = rgba[..., 3:] / 255
        laid = np.rint(rgba[..., :3] * alpha + (background or 0) * (1 - alpha)).astype(np.uint8)
        return np.asarray(Image.fromarray(laid).convert(mode)), 1  # Pillow's own rounding may differ by one


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", FORMATS)
def test_every_mode_in_every_format(kind, mode, tmp_path):
    """Over two hundred PNGs, and some of each other: plain, with a key of transparency, turned, with a colour profile."""
    rng = np.random.default_rng(MODES.index(mode))
    written = []
    for trial in range((8 if kind == "PNG" else 2) * TRIALS):
        for extra in (
            {},
            {"transparency": 3},
            {"exif": turned(1 + (trial + MODES.index(mode)) % 8)},
            {"icc_profile": b"not applied"},
        ):
            image, out = drawn(rng, mode), io.BytesIO()
            if extra.get("transparency") and (mode not in ("L", "P", "I;16") or kind not in ("PNG", "GIF")):
                continue
            try:
                image.save(out, kind, **extra)
            except (OSError, ValueError, KeyError):  # a mode that this format does not have
                continue
            folder = tmp_path / f"{len(written)}"
            folder.mkdir()
            (folder / f"a.{FORMATS[kind]}").write_bytes(out.getvalue())
            written.append(folder)
    for folder in written:
        (file,) = folder.iterdir()
        data = load_dataset(folder)
        with Image.open(file) as image:
            stored = image.mode
            grey = stored in GREY or (stored == "P" and is_grey(image.getpalette("RGB")))
        read = data.reading["mode"]
        assert read == ("I;16" if stored.startswith("I;16") else stored if stored in DEEP else "L" if grey else "RGB")
        expected, within = ruled(file, read, data.reading.get("background"))
        if "transparency" in image.info and read == "I;16":
            expected = np.where(expected == image.info["transparency"], 65535, expected)
        got = data.train.reshape(data.image_shape)
        assert got.shape == expected.shape
        assert np.abs(got.astype(float) - expected).max() <= within
    if (kind, mode) in SURE:
        assert written


SURE = {("PNG", m) for m in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16")} | {
    ("JPEG", "CMYK"),
    ("TIFF", "LAB"),
    ("TIFF", "F"),
}


def is_grey(palette):
    return all(palette[i] == palette[i + 1] == palette[i + 2] for i in range(0, len(palette), 3))


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def save(folder, arrays, ending="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{i:02}.{ending}")
    return folder


def said(data, words):
    return any(words in note for note in data.notes)


GREYS = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)


def icons(shade, shape=(4, 6, 6)):
    """Shapes of one shade that lie in the alpha channel alone."""
    pixels = np.zeros((*shape, 4), np.uint8)
    pixels[..., :3] = shade
    pixels[:, 1:4, 2:5, 3] = 255
    return pixels


@pytest.mark.parametrize(("shade", "ground"), [(0, 255), (120, 255), (255, 0), (230, 0)])
def test_icons_do_not_vanish_in_their_background(shade, ground, tmp_path):
    data = load_dataset(save(tmp_path / "icons", icons(shade)))
    pictures = data.train.reshape(4, 6, 6, 3)
    assert (pictures[:, 1:4, 2:5] == shade).all() and (pictures[:, 0] == ground).all()
    assert said(data, f"pictures transparent in part, laid on {'white' if ground else 'black'}: 4 of 4")
    assert said(data, "all pictures are grey, though stored in colour")
    other = load_dataset(save(tmp_path / "other", icons(255 - shade)), **data.reading)  # as a run reads its other data
    assert (other.train.reshape(4, 6, 6, 3)[:, 0] == ground).all()
    assert load_dataset(tmp_path / "icons", background=0).train[0, 0] == 0


def test_pictures_without_transparent_pixels_have_no_background(tmp_path):
    opaque = icons(9)
    opaque[..., 3] = 255
    data = load_dataset(save(tmp_path / "a", opaque))
    assert data.reading.get("background") is None and not said(data, "transparent")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_once(kind, orientation, tmp_path):
    picture = np.zeros((8, 16), np.uint8)
    picture[:4, :4] = 255  # the first corner, which goes where the standard (CIPA DC-008, tag 0x0112) puts it
    Image.fromarray(picture).save(tmp_path / f"a.{FORMATS[kind]}", kind, exif=turned(orientation), quality=100)
    data = load_dataset(tmp_path)
    upright = data.train.reshape(data.image_shape)
    upright = upright if upright.ndim == 2 else upright[..., 0]
    turns = {2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}
    down, right = turns.get(orientation, (0, 0))
    assert upright.shape == ((16, 8) if orientation > 4 else (8, 16))
    corner = upright[-2 if down else 1, -2 if right else 1]
    assert corner > 200 and (upright > 128).sum() == 16
    assert said(data, "turned as their EXIF orientation says") == (orientation > 1)


@pytest.mark.parametrize(("kind", "how"), [("TIFF", {}), ("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_every_page_and_frame_is_a_row(kind, how, tmp_path):
    pages = [Image.fromarray(page) for page in GREYS]
    path = tmp_path / f"stack.{FORMATS[kind]}"
    pages[0].save(path, kind, save_all=True, append_images=pages[1:], **how)
    data = load_dataset(path)
    rows = data.train.reshape(3, 4, 5, -1)
    np.testing.assert_array_equal(rows, np.broadcast_to(GREYS[..., None], rows.shape))
    assert said(data, "further pages or frames of their file: 2 of 3")
    save(tmp_path / "all" / "b", GREYS[:2])
    (tmp_path / "all" / "a").mkdir()
    path.rename(tmp_path / "all" / "a" / path.name)
    data = load_dataset(tmp_path / "all")
    assert data.train_labels.tolist() == ["a"] * 3 + ["b"] * 2 and len(data.train) == 5


def test_one_picture_is_no_data_and_a_thumbnail_is_no_row(tmp_path):
    (path,) = save(tmp_path, GREYS[:1]).iterdir()
    refuses(path, "is one picture, and a model learns from many; pass the folder that holds them")
    path.unlink()
    pages = [Image.fromarray(page) for page in (GREYS[0], GREYS[1, :2])]
    pages[0].save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=pages[1:])
    data = load_dataset(tmp_path)
    assert len(data.train) == 1 and data.image_shape == (4, 5) and said(data, "which are left out")


def test_sizes_that_differ_are_counted_or_made_one(tmp_path):
    pictures = [*GREYS, *GREYS[:, :3], GREYS[0].T]
    folder = save(tmp_path / "sizes", pictures)
    words = (
        "are not alike .4 x 5 pixels: 3, 3 x 5 pixels: 3, 5 x 4 pixels: 1; see 06.png.; bring all to one with --resize"
    )
    refuses(folder, words)
    data = load_dataset(folder, resize=(8, 10))
    assert data.image_shape == (8, 10) and data.reading["resize"] == [8, 10]
    assert said(data, "pictures resized to 8 x 10: 7 of 7") and said(data, "of other proportions before that: 4 of 7")
    for row, picture in zip(data.train, pictures, strict=True):
        expected = Image.fromarray(picture).resize((10, 8), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(row.reshape(8, 10), expected)
    np.testing.assert_array_equal(
        load_dataset(save(tmp_path / "one", GREYS), resize=(4, 5)).train, GREYS.reshape(3, 20)
    )
    for wrong in ((0, 4), (4,), "44", (2.0, 2), (2**12, 2**12), (True, 4)):
        refuses_resize = pytest.raises(DataError, match="is no size of a picture")
        with refuses_resize:
            load_dataset(folder, resize=wrong)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_pictures_keep_their_values(dtype, tmp_path):
    pictures = (np.arange(60).reshape(3, 4, 5)[..., ::-1] ** 3 % 60000).astype(dtype)
    data = load_dataset(save(tmp_path / "deep", pictures, "tif"))
    np.testing.assert_array_equal(data.train, pictures.reshape(3, 20))
    assert said(data, f"read as {np.dtype(dtype)}")
    data = load_dataset(tmp_path / "deep", resize=(7, 3))
    expected = [Image.fromarray(p.astype(np.float32)).resize((3, 7), Image.Resampling.LANCZOS) for p in pictures]
    exact = np.stack([np.asarray(image).ravel() for image in expected])
    np.testing.assert_array_equal(data.train, exact if dtype == np.float32 else np.rint(np.maximum(exact, -(2**31))))
    flat = load_dataset(save(tmp_path / "flat", [np.full((4, 5), 60_000, dtype)] * 2, "tif"), resize=(7, 2))
    assert (flat.train == 60_000).all() and flat.image_shape == (7, 2)
    Image.fromarray(GREYS[0]).save(tmp_path / "deep" / "x.png")
    refuses(tmp_path / "deep", r"not alike \(.*: 3, grey: 1; see x.png\); convert all to one kind")
    refuses(save(tmp_path / "grey", GREYS), "are grey, and should be 16 bits of grey", mode="I;16")


def test_a_tiff_of_16_bits_whose_white_is_0(tmp_path):
    values = np.arange(20, dtype=np.uint16).reshape(4, 5)
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={262: 0})
    np.testing.assert_array_equal(load_dataset(tmp_path).train[0], 65535 - values.ravel())


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bits_a_colour_are_cut_to_8_and_said(kind, channels, tmp_path):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    pixels = (np.arange(20 * channels).reshape(4, 5 * channels) * 500).astype(">u2")
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 4, 16, kind, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    data = load_dataset(tmp_path)
    assert said(data, "pictures of 16 bits a colour, of which Pillow reads 8: 1 of 1")
    if channels == 3:
        np.testing.assert_array_equal(data.train[0], pixels.ravel() >> 8)


def test_a_key_of_transparency_in_16_bits_is_white_or_black(tmp_path):
    values = np.arange(20, dtype=np.uint16).reshape(4, 5) * 700
    Image.fromarray(values).save(tmp_path / "a.png", transparency=1400)
    data = load_dataset(tmp_path)
    np.testing.assert_array_equal(data.train[0], np.where(values == 1400, 65535, values).ravel())
    assert said(data, "transparent in part, laid on white: 1 of 1")
    assert load_dataset(tmp_path, background=0).train[0, 2] == 0


@pytest.mark.parametrize("mode", ["LAB", "CMYK", "RGB"])
def test_any_colour_can_be_read_as_grey(mode, tmp_path):
    image = drawn(np.random.default_rng(0), mode)
    image.save(tmp_path / "a.tif")
    data = load_dataset(tmp_path, mode="L")
    np.testing.assert_array_equal(data.train[0].reshape(4, 5), image.convert("RGB").convert("L"))
    assert said(data, f"of {mode}, made RGB: 1") == (mode != "RGB")


def test_grey_and_colour_in_one_folder(tmp_path):
    colour = np.stack([GREYS, GREYS + 60, GREYS + 120], -1)
    save(tmp_path / "a", [*GREYS[:2], *colour[2:]])
    data = load_dataset(tmp_path / "a")
    np.testing.assert_array_equal(data.train.reshape(3, 4, 5, 3)[:2], np.stack([GREYS[:2]] * 3, -1))
    np.testing.assert_array_equal(data.train.reshape(3, 4, 5, 3)[2], colour[2])
    assert said(data, "pictures in grey, made colour as others are: 2 of 3") and not said(
        data, "though stored in colour"
    )
    grey = load_dataset(tmp_path / "a", mode="L")
    assert grey.image_shape == (4, 5) and said(grey, "pictures in colour, made grey as others are: 1 of 3")
    np.testing.assert_array_equal(grey.train[2].reshape(4, 5), Image.fromarray(colour[2]).convert("L"))
    assert load_dataset(save(tmp_path / "b", GREYS), **data.reading).image_shape == (4, 5, 3)
    for wrong in ({"mode": "HSV"}, {"background": 7}):
        with pytest.raises(DataError, match="pass one of L, RGB, I;16, I, F, and 255 or 0"):
            load_dataset(tmp_path / "a", **wrong)


def test_class_folders_are_labels(tmp_path):
    save(tmp_path / "zebra", GREYS[:1])
    save(tmp_path / "Ant", GREYS[1:])
    save(tmp_path / ".hidden", GREYS)
    save(tmp_path / "__MACOSX", GREYS)
    (tmp_path / "zebra" / "notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    data = load_dataset(tmp_path)
    np.testing.assert_array_equal(data.train, GREYS[[1, 2, 0]].reshape(3, 20))
    assert data.train_labels.tolist() == ["Ant", "Ant", "zebra"] and said(data, "names of the 2 folders")
    assert said(data, "4 that are no images by their names (.hidden, __MACOSX, empty, ...)")
    save(tmp_path, GREYS)
    refuses(tmp_path, r"holds 3 images beside folders of 3 \(Ant, ...\)")
    save(tmp_path / "deep" / "train" / "cat", GREYS)
    refuses(tmp_path / "deep", r"holds no images \(train\); .* name a folder inside it")


def test_what_files_are_read_and_what_is_left_out(tmp_path):
    folder = save(tmp_path / "a", GREYS)
    (folder / "02.png").rename(folder / "B.PNG")  # capitals come first
    (folder / "00.png").rename(folder / "b.jpg")  # what it holds counts
    (folder / ".secret.png").write_bytes(b"no picture")
    for name in ("notes.md", "c.heic", "d.svg"):
        (folder / name).write_text("no picture")
    data = load_dataset(folder)
    np.testing.assert_array_equal(data.train, GREYS[[1, 2, 0]].reshape(3, 20))
    assert data.notes == ("left out of a: 4 that are no images by their names (.secret.png, c.heic, d.svg, ...)",)
    if os.name == "posix":
        (folder / "e.png").symlink_to(folder / "01.png")
        np.testing.assert_array_equal(load_dataset(folder).train[3], GREYS[1].ravel())
        (folder / "f.png").symlink_to(folder / "gone.png")
        refuses(folder, "cannot read the image .*f.png")
        (folder / "f.png").unlink()
    (folder / "f.gif").write_text("a page about pictures")
    refuses(folder, "f.gif .Pillow cannot identify it as PNG, JPEG, .* PPM of a kind that it reads.; remove it")
    content = (folder / "01.png").read_bytes()
    for length in range(0, len(content) - 16, 7):
        (folder / "f.gif").write_bytes(content[:length])
        with contextlib.suppress(DataError):  # or all of its pixels are there
            np.testing.assert_array_equal(load_dataset(folder).train[-1], GREYS[1].ravel())


def test_blank_pictures_are_counted(tmp_path):
    data = load_dataset(save(tmp_path, [*GREYS, np.zeros((4, 5), np.uint8)]))
    assert data.notes == ("pictures of one colour throughout: 1 of 4",)


def test_a_run_reads_other_pictures_as_its_own(tmp_path, capfd, monkeypatch):
    """Resized, in colour and on black, as the set it was trained on made it: the other is grey, larger and dark."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "icons", icons(255, (12, 9, 6)) + np.arange(12, dtype=np.uint8)[:, None, None, None] % 2)
    options = ["--resize", "8", "6", "--epochs", "1", "--hidden-dims", "4", "--latent-dim", "1", "--no-figures"]
    assert main(["train", "icons", *options, "--out", "run"]) == 0
    told = capfd.readouterr().err
    assert "pictures resized to 8 x 6: 12 of 12" in told and "laid on black" in told
    save(tmp_path / "other", [*np.tile(GREYS, (1, 3, 3)), *icons(0, (1, 20, 20))])
    with pytest.raises(DataError, match="12 x 15 pixels: 3"):
        load_dataset("other")
    run = open_run("run")
    assert run.config["reading"] == {"resize": [8, 6], "mode": "RGB", "background": 0}
    other = run.dataset("other")
    assert other.image_shape == (8, 6, 3) and (other.train[-1] == 0).all()
    assert "pictures in grey, made colour" in capfd.readouterr().err
    assert main(["train", "--resume", "run", "--epochs", "2", "--no-figures", "--quiet"]) == 0
    assert open_run("run").config["reading"]["resize"] == [8, 6]
    assert main(["train", "digits", "--resize", "8", "8", "--out", "run2"]) == 1
    assert "--resize has no meaning for digits" in capfd.readouterr().err and not (tmp_path / "run2").exists()


@pytest.mark.parametrize("resize", [(), ("--resize", "6", "8")])
def test_a_run_of_opaque_pictures_is_read_again(tmp_path, monkeypatch, resize):
    """Nothing was decided of their size or background, and a model's file says nothing of what was not."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "grey", np.arange(720, dtype=np.uint8).reshape(12, 6, 10))
    options = ["--epochs", "1", "--hidden-dims", "4", "--no-figures", "--quiet"]
    assert main(["train", "grey", *resize, *options, "--out", "run"]) == 0
    assert None not in (reading := open_run("run").config["reading"]).values() and reading["mode"] == "L"
    assert main(["evaluate", "run", "--n-samples", "2", "--quiet"]) == 0
    assert main(["encode", "run", "--out", "z.csv", "--quiet"]) == 0
    assert main(["train", "--resume", "run", "--epochs", "2", "--no-figures", "--quiet"]) == 0


def test_a_run_that_says_something_else_of_its_pictures(tmp_path):
    """An older run says nothing; one from an enemy may say anything."""
    here = str(save(tmp_path / "a", GREYS))
    vae = VAE(latent_dim=1, hidden_dims=(2,), epochs=1, verbose=0, validation_fraction=0).fit(
        load_dataset(tmp_path / "a").train
    )
    known = {"id": "", "image_shape": None, "condition": None, "watch_test": False}
    known |= {"backend": "numpy", "versions": {}, "stopped": ""}
    for reading in ({}, {"reading": {"resize": [6, 6], "mode": "RGB", "background": None}}):
        persistence.save(vae, tmp_path / "model.npz", run=known | reading)
        assert open_run(tmp_path / "model.npz").dataset(here).train.shape[1] == (108 if reading else 20)
    for wrong in ({"resize": "66"}, {"resize": [2**40, 2**40]}, {"mode": []}, {"background": []}):
        persistence.save(vae, tmp_path / "model.npz", run=known | {"reading": wrong})
        with pytest.raises((DataError, ModelFileError)):
            open_run(tmp_path / "model.npz").dataset(here)
    persistence.save(vae, tmp_path / "model.npz", run=known | {"reading": {"download": True}})
    with pytest.raises(ModelFileError, match="is not what train writes"):
        open_run(tmp_path / "model.npz")


def test_a_file_that_changes_while_it_is_read_leaves_no_row_empty(tmp_path, monkeypatch):
    pages = [Image.fromarray(page) for page in GREYS]
    path = tmp_path / "a.gif"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    looked = pictures._look
    monkeypatch.setattr(pictures, "_look", lambda *a: (looked(*a), pages[0].save(path)))
    refuses(tmp_path, "a.gif .it changed while it was read")
