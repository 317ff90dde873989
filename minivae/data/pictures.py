"""Pictures as people have them: a folder, a folder of class folders, a file of several pages or frames.

The rules hold for the whole set, and what they decided is said in its notes:

- Files are taken in the order of their names, character by character (img10 before img2); every page or frame of a file
  is a row, but of an MPO, which is a photograph with its thumbnail. A class folder's name is the label of its pictures.
- Grey pictures of 8 bits or fewer become uint8 [H, W]; all others of 8 bits, whatever their colours are stored as, RGB
  [H, W, 3]; one in colour makes the set colour. Pictures of 16 or 32 bits or floating-point ones stay what they are, if
  all are; but Pillow reads colour of 16 bits as 8.
- What is transparent is laid on white; on black where the shapes themselves are almost white.
- The orientation that a camera noted (EXIF) is applied; colour profiles and gamma are not.
- Pictures of several sizes are refused, unless all are to be resized (Pillow's LANCZOS, each side on its own).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minivae.data.opening import KINDS, Array, DataError, Stored, library, require_room
from minivae.storage.archives import open_regular, reason

PIXELS, SHRUNK = 2**23, 2**26  # of one picture: a first layer for more has billions of parameters; of one to be resized
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # what those are; others may start programs
LIGHT = 192  # of 255: shapes brighter than this, on average, are laid on black
DEEP = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
WORDS = {"L": "grey", "RGB": "colour", "I;16": "16 bits of grey", "I": "32 bits of grey", "F": "floating-point"}


def read_pictures(
    path: Path, resize: Any = None, mode: str | None = None, background: int | None = None, **_: Any
) -> Stored:
    """Read a folder of pictures, or a file of several. Needs Pillow: `pip install "minivae[images]"`.

    resize: (H, W) for all; mode, of WORDS, and background, 255 or 0, win over what the set would make of itself. Returns
    [N, H, W] uint8, uint16, int32 or float32, or [N, H, W, 3] uint8. Raises DataError where there are no pictures, and
    for one that cannot be read, is too large, or is of another size or kind than the others, naming it.
    """
    if mode not in (None, *WORDS) or background not in (None, 0, 255):
        raise DataError(f"mode={mode!r} and background={background!r}: pass one of {', '.join(WORDS)}, and 255 or 0")
    if resize is not None and not (
        isinstance(resize, (list, tuple)) and len(resize) == 2 and all(type(n) is int and n > 0 for n in resize)
        and math.prod(resize) <= PIXELS
    ):  # fmt: skip
        raise DataError(f"resize={resize!r} is no size of a picture; pass height and width, at most {PIXELS:,} pixels")
    files, labels, notes = _listed(path) if path.is_dir() else ([path], None, [])
    library("PIL", f"reading the images in {path}", 'Pillow: pip install "minivae[images]"')
    found = _Found()
    for file in files:
        _look(file, found, SHRUNK if resize else PIXELS)
    n = sum(found.rows)
    if n == 1 and path.is_file():
        raise DataError(f"{path} is one picture, and a model learns from many; pass the folder that holds them")
    mode = _mode(found, mode, path)
    if resize is None:
        fix = "bring all to one with --resize H W (resize=(H, W))"
        _one_of(found, found.sizes, lambda size: f"{size[0]} x {size[1]} pixels", path, fix)
    height, width = resize or next(iter(found.sizes))
    if found.clear and background is None:
        background = 0 if found.light > LIGHT * found.alpha else 255
    shape = (n, height, width, *((3,) if mode == "RGB" else ()))
    images = _filled(path, files, found, mode, 255 if background is None else background, resize, shape)
    found.said |= {
        f"transparent in part, laid on {'white' if background else 'black'}": found.clear,
        f"resized to {height} x {width}": n - found.sizes[height, width],
        "of other proportions before that": sum(k for (h, w), k in found.sizes.items() if h * width != w * height),
        "that are further pages or frames of their file": n - len(files),
    }
    notes += [f"pictures {words}: {k:,} of {n:,}" for words, k in found.said.items() if k]
    if found.grey:
        notes.append("all pictures are grey, though stored in colour; stored in grey, they have a third of the columns")
    if mode in DEEP:
        notes.append(f"pictures of {WORDS[mode]}, read as {images.dtype}; divide_by (--divide-by) says what 1 is")
    if labels is not None:
        notes.append(f"the names of the {len(set(labels)):,} folders in {path.name} are the labels of their pictures")
    reading = {"resize": resize and list(resize), "mode": mode, "background": background}
    reading = {name: value for name, value in reading.items() if value is not None}
    told = None if labels is None else np.repeat(labels, found.rows)
    return Stored(images, told, tuple(notes), reading=reading)


def _filled(
    path: Path, files: list[Path], found: _Found, mode: str, background: int, resize: Any, shape: tuple[int, ...]
) -> Array:
    """The pictures, once there is room for all of them."""
    dtype = np.dtype(DEEP.get(mode, np.uint8))
    fix = "make them smaller, for example with --resize H W"
    require_room(f"the images in {path} need", math.prod(shape) * dtype.itemsize, fix)
    images, row, found.grey = np.empty(shape, dtype), 0, mode == "RGB"
    for file, count in zip(files, found.rows, strict=True):
        with _opened(file) as image:
            for frame in _frames(image):
                pixels = _pixels(frame, mode, background, resize)
                images[row] = pixels
                found.said["of one colour throughout"] += bool((pixels == pixels[0, 0]).all())
                found.grey = found.grey and bool((pixels == pixels[..., :1]).all())
                row, count = row + 1, count - 1
            if count:
                raise ValueError("it changed while it was read")
    return images


@dataclass
class _Found:
    """What a first look has found: the rows of each file, and how many pictures are of each size, kind and note."""

    rows: list[int] = field(default_factory=list)
    sizes: Counter[Any] = field(default_factory=Counter)
    kinds: Counter[Any] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)
    first: dict[Any, Path] = field(default_factory=dict)  # file of a size or a kind
    clear: int = 0  # how many are transparent in part; of these, the sum of alpha, and of brightness times alpha
    alpha: float = 0
    light: float = 0
    grey: bool = False  # all are, though they are stored in colour


def _listed(path: Path) -> tuple[list[Path], list[str] | None, list[str]]:
    """The pictures of a folder, or of the folders in it, with the names of these; and what is left out, in words."""

    def sorted_(folder: Path) -> list[Path]:
        return sorted(folder.iterdir(), key=lambda entry: entry.name)

    try:
        entries = sorted_(path)
        below = [f for e in entries if e.is_dir() and not e.name.startswith((".", "__")) for f in sorted_(e)]
    except OSError as error:
        raise DataError(f"cannot read the folder {error.filename} ({error.strerror}); check its permissions") from error
    top, inner = ([f for f in part if _is_picture(f)] for part in (entries, below))
    if top and inner:
        raise DataError(
            f"{path} holds {len(top):,} images beside folders of {len(inner):,} ({inner[0].parent.name}, ...); pass a "
            "folder of images, or one in which every image lies in a folder that is its label"
        )
    known = {*top, *inner, *(f.parent for f in inner)}
    rest = [str(e.relative_to(path)) for e in entries + (below if inner else []) if e not in known]
    named = f" ({', '.join(rest[:3])}{', ...' * (len(rest) > 3)})" if rest else ""
    if not known:
        fix = f"put .png or .jpg files in it, name a folder inside it, or pass one of: {KINDS}"
        raise DataError(f"the folder {path} holds no images{named}; {fix}")
    notes = [f"left out of {path.name}: {len(rest):,} that are no images by their names{named}"] if rest else []
    return top or inner, [f.parent.name for f in inner] or None, notes


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and not file.is_dir()


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A picture's file; whatever is wrong with it or with what is done meanwhile is a DataError that names it."""
    from PIL import Image, UnidentifiedImageError

    try:
        with open_regular(file) as raw, Image.open(raw, formats=FORMATS) as image:
            yield image
    except DataError:
        raise
    except Exception as error:  # Pillow's many decoders raise many types for a damaged image
        unknown = f"Pillow cannot identify it as {', '.join(FORMATS)} of a kind that it reads"
        why = unknown if isinstance(error, UnidentifiedImageError) else reason(error)
        raise DataError(f"cannot read the image {file} ({why}); remove it or save it again") from error


def _frames(image: Any) -> Iterator[Any]:
    for frame in range(1 if image.format == "MPO" else getattr(image, "n_frames", 1)):
        image.seek(frame)
        yield image


def _look(file: Path, found: _Found, limit: int) -> None:
    """Look into a file: of most pictures at their headers only, of those with transparency at their pixels."""
    with _opened(file) as image:
        if image.format == "MPO":
            found.said["with others in their file, such as thumbnails, which are left out"] += 1
        found.rows.append(0)
        for frame in _frames(image):
            tile = frame.tile[0].args if frame.tile else ""  # how the file has its pixels, until they are read
            turn = frame.getexif().get(0x0112, 1)
            width, height = frame.size if frame.format == "TIFF" or turn < 5 else frame.size[::-1]
            if height * width > limit:
                fix = f"make it smaller{'' if limit == SHRUNK else ', for example with --resize H W'}"
                raise DataError(f"{file} has {height} x {width} pixels, more than {limit:,}; {fix}")
            kind = _kind(frame)
            for key in ((height, width), kind):
                found.first.setdefault(key, file)
            found.rows[-1] += 1
            found.sizes[height, width] += 1
            found.kinds[kind] += 1
            found.said["turned as their EXIF orientation says"] += turn in range(2, 9)
            found.said["of 16 bits a colour, of which Pillow reads 8"] += ";16" in str(tile) and kind not in DEEP
            found.said["with a colour profile, which is not applied"] += "icc_profile" in frame.info
            if frame.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
                found.said[f"of {frame.mode}, made RGB"] += 1
            if frame.has_transparency_data and kind not in DEEP:
                rgba = frame.convert("RGBA")
                alpha = np.asarray(rgba.getchannel("A"), float)
                if alpha.min() < 255:
                    found.clear += 1
                    found.alpha += float(alpha.sum())
                    found.light += float(np.sum(alpha * np.asarray(rgba.convert("RGB").convert("L"))))
            elif frame.has_transparency_data:
                found.clear += 1


def _kind(image: Any) -> str:
    """One of WORDS."""
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        return "L" if (palette == palette[:, :1]).all() else "RGB"
    if image.mode in ("1", "L", "LA", "La"):
        return "L"
    return "I;16" if image.mode.startswith("I;16") else image.mode if image.mode in DEEP else "RGB"


def _mode(found: _Found, mode: str | None, path: Path) -> str:
    """What all pictures are read as."""
    kinds = set(found.kinds)
    if kinds & DEEP.keys():
        _one_of(found, found.kinds, WORDS.get, path, "convert all to one kind")
    if mode is not None and (kinds | {mode}) & DEEP.keys() and kinds != {mode}:
        raise DataError(f"the images in {path} are {WORDS[kinds.pop()]}, and should be {WORDS[mode]}; convert them")
    mode = mode or ("L" if kinds == {"L"} else "RGB" if kinds <= {"L", "RGB"} else kinds.pop())
    if mode in ("L", "RGB"):
        other = "RGB" if mode == "L" else "L"
        found.said[f"in {WORDS[other]}, made {WORDS[mode]} as others are"] = found.kinds[other]
    return mode


def _one_of(found: _Found, counts: Counter[Any], words: Any, path: Path, fix: str) -> None:
    """Raise DataError where pictures are not all of one size, or kind."""
    if len(counts) > 1:
        told = ", ".join(f"{words(key)}: {k:,}" for key, k in counts.most_common(4))
        more = f", {len(counts) - 4:,} more kinds" if len(counts) > 4 else ""
        odd = found.first[min(counts, key=counts.__getitem__)].name
        raise DataError(f"the images in {path} are not alike ({told}{more}; see {odd}); {fix}, or remove the odd ones")


def _pixels(image: Any, mode: str, background: int, resize: Any) -> Array:
    """A picture as the set wants it: [H, W] or [H, W, 3]."""
    from PIL import Image, ImageOps

    clear = image.info.get("transparency")
    inverted = image.format == "TIFF" and image.tag_v2.get(262) == 0  # 0 is white, which Pillow heeds for 8 bits only
    turned = ImageOps.exif_transpose(image)
    if mode in DEEP:
        array = np.asarray(turned).astype(DEEP[mode])
        if mode == "I;16":
            laid = np.where(array == clear, np.uint16(257 * background), array) if isinstance(clear, int) else array
            array = np.uint16(65535) - laid if inverted else laid
        if resize is not None:
            array = np.asarray(Image.fromarray(array.astype(np.float32)).resize(resize[::-1], Image.Resampling.LANCZOS))
            if mode != "F":
                array = np.clip(np.rint(array), *((0, 65535) if mode == "I;16" else (-(2**31), 2**31 - 1)))
        return array
    if turned.has_transparency_data:
        ground = Image.new("RGBA", turned.size, (background,) * 3 + (255,))
        turned = Image.alpha_composite(ground, turned.convert("RGBA"))
    if turned.mode not in ("1", "L") or mode == "RGB":
        turned = turned.convert("RGB")
    turned = turned.convert(mode)
    return np.asarray(turned if resize is None else turned.resize(resize[::-1], Image.Resampling.LANCZOS))
