"""Model files from an enemy, one builder each, and from a bad disk: none loads as something else, none raises anything else.

MINIVAE_TRIALS=20 tries the 10,000 flipped bits and 2,000 cut files of which the usual run samples a twentieth.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
import socket
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from attacks import forge

from minivae import VAE
from minivae.storage import modelfile
from minivae.storage.modelfile import ModelFileError

TRIALS = int(os.environ.get("MINIVAE_TRIALS", "1"))
GOLDEN = Path(__file__).parents[1] / "golden" / "model_v1.npz"  # as the last minivae with version 1 wrote it
MiB = 2**20


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model of a table, told labels: it has every part that a file can have. (path, arrays, config, bytes)"""
    X = np.rint(9 * np.random.default_rng(0).random((20, 3))) / [3, 3, 1]
    settings = {"likelihood": "gaussian*2 poisson", "conditional": True, "backend": "numpy", "random_state": 0}
    vae = VAE(2, hidden_dims=(2, 2), epochs=3, **settings).fit(X, y=["a", "b"] * 10)
    path = tmp_path_factory.mktemp("model") / "model.npz"
    vae.save(path)
    return path, forge.entries(path), forge.config(path), path.read_bytes()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A model that is told nothing, of one likelihood."""
    path = tmp_path_factory.mktemp("plain") / "model.npz"
    X = np.random.default_rng(0).random((20, 3))
    VAE(2, hidden_dims=(2,), epochs=1, batch_size=16, backend="numpy", random_state=0).fit(X).save(path)
    return path, forge.entries(path), forge.config(path), path.read_bytes()


def state(path, moments=True):
    vae = VAE.load(path, backend="numpy")
    kept = {name: value for name, value in vars(vae).items() if name not in ("network_", "trainer_", "trained_on_")}
    if moments and vae.__dict__.get("trainer_"):
        kept |= {f"moment {name}": vector.tobytes() for name, vector in vae.trainer_.moments.items()}
    return {name: repr(value) for name, value in kept.items()} | {"p": vae.network_.get_parameters().tobytes()}


def refused(path, words=None):
    """One ModelFileError in one line that names the file; soon, and with no more memory than the file and a little."""
    tracemalloc.start()
    begun = time.monotonic()
    try:
        with pytest.raises(ModelFileError, match=words) as caught:
            VAE.load(path, backend="numpy")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert time.monotonic() - begun < 5 and peak < 64 * MiB


# ---- Archives that are none, or not ours


def empty_directory(count, size):
    return b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, size, 0, 0)


def many_members(blob):
    return forge.archive({f"{i:05}": b"" for i in range(25_000)})


def compressed(blob, method):
    with zipfile.ZipFile(io.BytesIO(blob)) as source:
        return forge.archive({name: source.read(name) for name in source.namelist()}, method)


def twice(blob):
    out = io.BytesIO(blob)
    with zipfile.ZipFile(out, "a") as target, pytest.warns(UserWarning, match="Duplicate"):
        target.writestr("held_rows.npy", target.read("held_rows.npy"))
    return out.getvalue()


def added(name, content):
    def build(blob):
        out = io.BytesIO(blob)
        with zipfile.ZipFile(out, "a") as target:
            target.writestr(name, content)
        return out.getvalue()

    return build


def two_on_one_place(blob):
    offsets = [header for _, header in forge.directory(blob)]
    return forge.patched(blob, 42, "<I", offsets[0], member=1)


CONTAINERS = {
    "nothing": lambda blob: b"",
    "a byte": lambda blob: b"P",
    "zeros": lambda blob: bytes(5000),
    "text": lambda blob: b"not a model\n" * 100,
    "an array": lambda blob: forge.npy(np.zeros(3)),
    "gzip": gzip.compress,
    "an empty archive": lambda blob: empty_directory(0, 0),
    "a directory beyond the file": lambda blob: empty_directory(9, 2**31),
    "members that are not there": lambda blob: empty_directory(65535, 0),
    "a pickle": lambda blob: b"\x80\x04K\x01.",
    "25,000 members": many_members,
    "deflated": lambda blob: compressed(blob, zipfile.ZIP_DEFLATED),
    "bzip2": lambda blob: compressed(blob, zipfile.ZIP_BZIP2),
    "lzma": lambda blob: compressed(blob, zipfile.ZIP_LZMA),
    "called deflated": lambda blob: forge.patched(blob, 10, "<H", 8, local=8),
    "called lzma": lambda blob: forge.patched(blob, 10, "<H", 14, local=8),
    "an unknown method": lambda blob: forge.patched(blob, 10, "<H", 99, local=8),
    "encrypted": lambda blob: forge.patched(blob, 8, "<H", 1, local=6),
    "a patch": lambda blob: forge.patched(blob, 8, "<H", 0x20, local=6),
    "strongly encrypted": lambda blob: forge.patched(blob, 8, "<H", 0x41, local=6),
    "needs a later zip": lambda blob: forge.patched(blob, 6, "<H", 99),
    "no UTF-8 in a name": lambda blob: forge.patched(forge.patched(blob, 8, "<H", 0x800), 46, "<B", 0xFF),
    "zero in a name": lambda blob: forge.patched(blob, 48, "<B", 0),
    "another name inside": lambda blob: forge.patched(blob, 46, "<B", 65, local=None),
    "two names for one": lambda blob: forge.patched(blob, 28, "<H", 3),
    "4 GB declared": lambda blob: forge.patched(blob, 24, "<I", 2**32 - 2),
    "4 GB declared twice": lambda blob: forge.patched(forge.patched(blob, 24, "<I", 2**32 - 2), 20, "<I", 2**32 - 2),
    "64 bits without a field": lambda blob: forge.patched(blob, 24, "<I", 2**32 - 1),
    "a byte less": lambda blob: forge.patched(blob, 24, "<I", 3),
    "begins beyond the file": lambda blob: forge.patched(blob, 42, "<I", 2**31),
    "begins at the end": lambda blob: forge.patched(blob, 42, "<I", len(blob) - 1),
    "begins inside another": two_on_one_place,
    "the wrong checksum": lambda blob: forge.patched(blob, 16, "<I", 7, local=14),
    "a member twice": twice,
    "a name twice, once without .npy": added("held_rows", b"x"),
    "code beside it": added("setup.py", b"import os"),
    "a path": added("../../etc/passwd.npy", forge.npy(np.zeros(3))),
    "bytes before it": lambda blob: blob[:-22] + empty_directory(3, len(blob)),
}


SAID = {  # where another check would find it later
    "25,000 members": "its list of members is longer",
    "encrypted": "is compressed or encrypted",
    "deflated": "is compressed or encrypted",
    "4 GB declared twice": "ends beyond the end|lies over another",
    "begins beyond the file": "struct|unpack|ends beyond",
    "begins inside another": "is there twice, or lies over another",
    "a member twice": "is there twice, or lies over another",
    "a byte less": "cannot have the length",
    "code beside it": "setup.py is no part of this model",
}


@pytest.mark.parametrize("attack", CONTAINERS)
def test_no_archive_but_ours(attack, model, tmp_path):
    (tmp_path / "model.npz").write_bytes(CONTAINERS[attack](model[3]))
    refused(tmp_path / "model.npz", SAID.get(attack))


def link(target):
    def build(path):
        if not os.path.exists(target):
            pytest.skip(f"{target} is not on this system")
        path.symlink_to(target)

    return build


def bind(path):
    os.chdir(path.parent)  # the whole path may be longer than a socket's name can be
    socket.socket(socket.AF_UNIX).bind(path.name)


SPECIAL = {
    "a folder": os.mkdir,
    "a pipe": getattr(os, "mkfifo", None),
    "a socket": bind,
    **{target: link(target) for target in ("/dev/zero", "/dev/null", "/dev/urandom", "/dev/ptmx")},
}


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices are files on POSIX systems only")
@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.filterwarnings("ignore:unclosed.*socket")
def test_what_is_no_regular_file_is_not_waited_for(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SPECIAL[kind](tmp_path / "model.npz")
    refused(tmp_path / "model.npz", None if kind == "a socket" else "not a regular file")


def test_a_file_that_is_missing_or_locked_says_so(tmp_path, model):
    with pytest.raises(FileNotFoundError, match=r"model\.npz"):
        VAE.load(tmp_path / "model.npz")
    (tmp_path / "model.npz").write_bytes(model[3])
    (tmp_path / "model.npz").chmod(0)
    if os.access(tmp_path / "model.npz", os.R_OK):
        pytest.skip("whoever runs this may read every file")
    with pytest.raises(PermissionError, match=r"model\.npz"):
        VAE.load(tmp_path / "model.npz")


# ---- Arrays that are not what they say

ROWS = np.arange(3)
HEADERS = {
    "no magic": b"NOPE" * 50,
    "half a magic": b"\x93NUMP",
    "nothing": b"",
    "version 3": forge.npy(ROWS, version=b"\3\0"),
    "version 9": forge.npy(ROWS, version=b"\x09\0"),
    "no header": b"\x93NUMPY\1\0\0\0",
    "a header beyond the member": b"\x93NUMPY\1\0\xff\x0f{",
    "a header of 4 GB": b"\x93NUMPY\2\0\xff\xff\xff\xff{",
    "a header of 5,000": forge.npy(ROWS, header=b"{" + b" " * 5000 + b"}"),
    "blanks": forge.npy(ROWS, header=" " * 118),
    "an open bracket": forge.npy(ROWS, header="{'descr': '<i8', 'fortran_order': False, 'shape': (3,"),
    "an open string": forge.npy(ROWS, header="{'descr': '<i8"),
    "an open triple string": forge.npy(ROWS, header="'''"),
    "a bad indentation": forge.npy(ROWS, header="if 1:\n  x\n y"),
    "code": forge.npy(ROWS, header="__import__('os').system('true')"),
    "deep brackets": forge.npy(ROWS, header="(" * 3000 + ")" * 1000),
    "deep lists": forge.npy(ROWS, header="[" * 1900 + "]" * 1900),
    "deep minus": forge.npy(ROWS, header="-" * 4000 + "1"),
    "deep dicts": forge.npy(ROWS, header="{1:" * 1000 + "1" + "}" * 1000),
    "a list": forge.npy(ROWS, header="[1, 2, 3]\n"),
    "no shape": forge.npy(ROWS, header="{'descr': '<i8', 'fortran_order': False}\n"),
    "another key": forge.npy(ROWS, header="{'descr': '<i8', 'fortran_order': False, 'shape': (3,), 'x': 1}\n"),
    "no ASCII": forge.npy(ROWS, header=b"{'descr': '<i\xff', 'fortran_order': False, 'shape': (3,), }\n"),
    "a zero byte": forge.npy(ROWS, header=b"{'descr': '<i8\0', 'fortran_order': False, 'shape': (3,), }\n"),
    **{f"shape {s}": forge.npy(ROWS, shape=s) for s in ("(-3,)", "(True,)", "(3.0,)", "'3'", "3", "(None,)", "[3]")},
    **{f"shape {s}": forge.npy(ROWS, shape=s) for s in ("(10**30,)", f"({10**30},)", "(4,)", "(2,)", "(3, 1)", "()")},
    "a shape of 4,000 digits": forge.npy(ROWS, shape="(" + "9" * 3900 + ",)"),
    "nothing times much": forge.npy(ROWS[:0], shape=f"(0, {10**18})"),
    "a shape of 70 sizes": forge.npy(ROWS, shape="(3, " + "1, " * 69 + ")"),
    "a long of Python 2": forge.npy(ROWS, shape="(3L,)"),
    **{
        f"dtype {d}": forge.npy(ROWS, descr=d)
        for d in ("'>i8'", "'<f8'", "'<u8'", "'|V8'", "'<M8[s]'", "'<c8'", "'S8'")
    },
    **{f"dtype {d}": forge.npy(ROWS, descr=d) for d in ("'O'", "'|O8'", "'U0'", "'x'", "8", "None", "[('a','<i8')]")},
    "an array of arrays": forge.npy(ROWS, descr="('<i8', (1,))"),
    "in the order of Fortran": forge.npy(ROWS, order="True"),
    "in no order": forge.npy(ROWS, order="'no'"),
    "a byte too many": forge.npy(ROWS) + b"x",
    "a byte too few": forge.npy(ROWS)[:-1],
}


SAID |= {"a byte too many": "and 93 bytes, not 92", "shape (-3,)": r"an array has the shape \(-3,\)"}
SAID |= {"shape (True,)": r"an array has the shape \(True,\)", "in the order of Fortran": "held_rows has shape"}


@pytest.mark.parametrize("attack", HEADERS)
def test_an_array_is_what_its_header_says_or_nothing(attack, model, tmp_path):
    """Even where the sha256 would agree: it is compared after the arrays were read."""
    with zipfile.ZipFile(model[0]) as source:
        members = {name: source.read(name) for name in source.namelist()}
    (tmp_path / "model.npz").write_bytes(forge.archive(members | {"held_rows.npy": HEADERS[attack]}))
    refused(tmp_path / "model.npz", SAID.get(attack))


# ---- A config or arrays that no model has, with the right sha256


def put(*place_and_value):
    """A change of the config at a place, such as "scale", "given", 1."""

    def change(arrays, config):
        *place, name, value = place_and_value
        for step in place:
            config = config[step]
        config[name] = value

    return change


def without(*place):
    def change(arrays, config):
        *path, name = place
        for step in path:
            config = config[step]
        del config[name]

    return change


def array(name, value):
    return lambda arrays, config: arrays.update({name: np.asarray(value)})


def entry(name, index, value):
    def change(arrays, config):
        arrays[name] = arrays[name].copy()
        arrays[name][index] = value

    return change


def history(column, value):
    def change(arrays, config):
        entry("history", (1, config["history_columns"].index(column)), value)(arrays, config)

    return change


def swapped(arrays, config):
    arrays["encoder.1.b"], arrays["decoder.0.b"] = arrays["decoder.0.b"][:1], arrays["encoder.1.b"]


def training(size, **more):
    def change(arrays, config):
        config["training"] = {"updates": 3}
        arrays.update({"training.best": np.zeros(size, np.float32), **more})

    return change


inf, nan = np.inf, np.nan
VALUES = {
    "settings": [None, [], {}, 1, "x"],
    "data_dim": [None, 0, -1, True, 3.0, "3", 2, 2**31, 10**30, [3]],
    "seed": [None, -1, 2**64, True, 0.0, "0"],
    "scale": [None, {}, [], 1, {"divide_by": 1.0, "given": False}],
    "condition": [None, {}, [], 1, {"classes": ["a", "b"]}],
    "history_columns": [None, {}, 1, [], "epoch", [1] * 18, [None] * 18, ["loss"] * 18],
    "training": [[], 1, "x"],
    "run": [[], 1, "x"],
    "history": [[]],
    "units": [[]],
    "more": [1],
}
SETTINGS = {
    "hidden_dims": [
        None,
        2,
        "2",
        [2, 2.0],
        [2, True],
        [2, -2],
        [0, 2],
        [[2, 2]],
        [2],
        [10**30, 2],
        [1] * 1001,
        [1] * 200000,
    ],
    "latent_dim": [None, "2", 0, 1, True, 10**9],
    "likelihood": [
        "x",
        "",
        1,
        None,
        "gaussian*2",
        "gaussian*999999999999",
        "gaussian " * 100000,
        "gaussian*" + "9" * 5000,
    ],
    "activation": ["x", None, "relu\n"],
    "dtype": ["float64", "float16", "object", "O", 1],
    "optimizer": ["x", None],
    "learning_rate": [nan, -1, 0, "0.1", inf],
    "missing": ["x", "input", 0],
    "conditional": [False, None, 1],
    "sigma": [0.0, nan, "x", None, []],
    "init": ["x", 1],
    "output_bias": ["x"],
    "binarize": ["x", "dynamic"],
    "batch_size": [0, -1, 1.5],
    "epochs": [0, nan, "3"],
    "beta": [nan, -1, []],
    "divide_by": [0, nan, "255"],
    "random_state": [-1, 2**64, 0.5],
    "callbacks": [[]],
    "no_such_setting": [1],
}
SCALES = {
    "divide_by": [0, -1, nan, inf, "255", True, None, 10**400],
    "given": [1, None, "no"],
    "uint8": [0],
    "more": [1],
}
CONDITIONS = {
    "classes": [[], ["a"], ["b", "a"], ["a", "a"], ["a", 1], [1.5, 2.5], [None, None], ["a", ["b"]], "ab", {"a": 1}],
    "shift": [[1.0], None],
    "scale": [[1.0], 1],
    "more": [[]],
}
CHANGES = {
    **{f"{n}={str(v)[:30]}": put(n, v) for n, values in VALUES.items() for v in values},
    **{f"settings {n}={str(v)[:30]}": put("settings", n, v) for n, values in SETTINGS.items() for v in values},
    **{f"scale {n}={str(v)[:30]}": put("scale", n, v) for n, values in SCALES.items() for v in values},
    **{f"condition {n}={str(v)[:30]}": put("condition", n, v) for n, values in CONDITIONS.items() for v in values},
    **{f"no {n}": without(n) for n in ("settings", "data_dim", "seed", "scale", "condition", "history_columns")},
    **{f"no setting {n}": without("settings", n) for n in ("activation", "latent_dim", "verbose")},
    **{f"held rows {v}": array("held_rows", v) for v in ([2, 1], [1, 1], [-1, 1], [0.0, 1.0], [[0, 1]], 1, ["a"])},
    "held rows that are not numbers": array("held_rows", ROWS.astype(np.int32)),
    "another shape": array("encoder.0.W", np.zeros((2, 5), np.float32)),
    "another length": array("encoder.0.b", np.zeros(3, np.float32)),
    "float64": lambda arrays, config: arrays.update({"encoder.0.b": arrays["encoder.0.b"].astype(float)}),
    "NaN": entry("encoder.0.W", (0, 0), nan),
    "infinity": entry("decoder.2.b", 0, -inf),
    "infinite units": entry("units", (0, 0), inf),
    "units of no scale": entry("units", (1, 1), 0),
    "no units": array("units", np.zeros((0, 2))),
    "one unit": array("units", np.ones((1, 2))),
    "no bias": lambda arrays, config: arrays.pop("encoder.0.b"),
    "one more": array("encoder.9.W", np.zeros(3, np.float32)),
    "no history": lambda arrays, config: arrays.pop("history"),
    "a flat history": array("history", np.zeros(18)),
    "a history of text": array("history", np.full((1, 18), "x")),
    "a column less": lambda arrays, config: arrays.update(history=arrays["history"][:, 1:]),
    **{
        f"history {c} {v}": history(c, v)
        for c, v in (("epoch", 1.5), ("step", -1), ("epoch", inf), ("active_units", 0.5))
    },
    **{f"history without {c}": history(c, nan) for c in ("epoch", "loss", "beta", "kept", "kl_1", "seconds")},
    "a training that nobody announced": array("training.best", np.zeros(37, np.float32)),
    "a training of another size": training(3),
    "a training of another kind": training(37, **{"training.x": np.zeros(3)}),
    "a training's trace": training(37, **{"training.trace": np.zeros((3, 9))}),
}


@pytest.mark.parametrize("attack", CHANGES)
def test_no_model_but_one_that_can_be(attack, model, tmp_path):
    arrays, config = dict(model[1]), copy.deepcopy(model[2])
    CHANGES[attack](arrays, config)
    refused(forge.model(tmp_path / "model.npz", arrays, config))


def test_the_forge_itself_makes_models_that_load(model, plain, tmp_path):
    for path, arrays, config, _ in (model, plain):
        again = forge.model(tmp_path / "model.npz", arrays, config)
        assert state(again) == state(path)


TEXTS = {
    "no JSON": b"{",
    "no UTF-8": b'{"a": "\xff"}',
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "a list": b"[1, 2]",
    "null": b"null",
    "nothing": b"",
    "a long number": b'{"format_version": ' + b"9" * 5000 + b"}",
    "9 MiB": b'{"a": "' + b"x" * 9 * 2**20 + b'"}',
    "300,000 values": b'{"a": [' + b"1," * 300_000 + b"1]}",
}


@pytest.mark.parametrize("digest", [True, False], ids=["version 2", "version 1"])
@pytest.mark.parametrize("attack", TEXTS)
def test_a_config_is_one_small_object(attack, digest, model, tmp_path):
    words = {"300,000 values": "more than 262,144 values", "9 MiB": "more than 8,388,608 bytes"}.get(attack)
    refused(forge.model(tmp_path / "model.npz", model[1], TEXTS[attack], digest), words)


@pytest.mark.parametrize("version", [None, 0, 1, 3, 99, "2", 2.0, True, [2]])
def test_the_version_is_a_known_one(version, model, tmp_path):
    config = model[2] | {"format_version": version}
    refused(forge.model(tmp_path / "model.npz", model[1], config), "has format version .* reads versions 1 and 2")


# ---- The sha256


def test_two_parameters_of_one_shape_do_not_change_places(model, tmp_path):
    """Names, types, shapes and checksums are right then: only the sha256 can tell."""
    with zipfile.ZipFile(model[0]) as source:
        members = {name: source.read(name) for name in source.namelist()}
    a, b = "encoder.0.b.npy", "encoder.1.b.npy"
    assert members[a][:128] == members[b][:128] and members[a] != members[b]
    (tmp_path / "model.npz").write_bytes(forge.archive(members | {a: members[b], b: members[a]}))
    refused(tmp_path / "model.npz", "not what its sha256 says")


def test_without_its_sha256_a_file_is_no_model(model, tmp_path):
    refused(forge.model(tmp_path / "model.npz", model[1], model[2], digest=False), "format version 2")
    arrays = model[1] | {"sha256": np.zeros(31, np.uint8)}
    refused(forge.model(tmp_path / "model.npz", arrays, model[2], digest=False), "sha256 has shape")


# ---- Version 1


def test_a_file_of_version_1_loads():
    vae = VAE.load(GOLDEN, backend="numpy")
    assert vae.transform([[1, 2, 3]], "b")[0, 0] == pytest.approx(0.2544673)
    assert vae.history_[1]["loss"] == 8.233243465423584 and vae.history_[1]["kl_per_dim"] == [1.1874194145202637]
    assert vae.held_rows_.tolist() == [7, 8] and vae.units_[0] == (1.55, 0.8709828420302613) and vae.units_[2] == (0, 1)


def test_a_file_of_version_1_without_what_came_later_loads(plain, tmp_path):
    path = forge.first_version(plain[0], tmp_path / "old.npz")
    assert state(path) == state(plain[0], moments=False)
    arrays, config = forge.entries(path), forge.config(path)
    for name in ("sigma", "missing", "conditional", "capacity"):
        del config["settings"][name]
    del config["units"], config["condition"]
    assert state(forge.model(path, arrays, config, digest=False)) == state(plain[0], moments=False)


OLD = {
    **{f"history={str(v)[:30]}": put("history", v) for v in (None, {}, 1, [None], [{}], [[]], "x", [{"epoch": 1}])},
    "a loss of text": put("history", 0, "loss", "low"),
    "no loss": without("history", 0, "loss"),
    "KL of nothing": put("history", 0, "kl_per_dim", None),
    "KL of one latent": put("history", 0, "kl_per_dim", [1.0]),
    "a huge epoch": put("history", 0, "epoch", 10**400),
    "a named column": put("history_columns", []),
    "a divisor of 0": put("scale", "divide_by", 0),
    **{
        f"units={v}": put("units", v)
        for v in (None, [1], [[1, 2]], [["a", "b"]] * 3, [[1, 0]] * 3, [[1, True], [2]], 1)
    },
    "swapped shapes": lambda arrays, config: arrays.update({"encoder.0.b": arrays["encoder.0.W"]}),
    "NaN": entry("encoder.0.W", (0, 0), nan),
    "units as an array": array("units", np.ones((3, 2))),
}


@pytest.mark.parametrize("attack", OLD)
def test_version_1_has_the_same_checks(attack, model, tmp_path):
    path = forge.first_version(model[0], tmp_path / "old.npz")
    arrays, config = forge.entries(path), forge.config(path)
    OLD[attack](arrays, config)
    refused(forge.model(path, arrays, config, digest=False))


# ---- Bad disks


def same_or_refused(path, blob, whole):
    """Whether the damaged file still loads, which it may as the very same model."""
    path.write_bytes(blob)
    try:
        found = state(path)
    except ModelFileError as error:
        assert str(path) in str(error)
        return False
    assert found == whole
    return True


@pytest.mark.parametrize(
    ("version", "repair"), [(1, False), (2, False), (2, True)], ids=["1", "2", "2, checksum corrected"]
)
def test_flipped_bits_are_found(version, repair, model, tmp_path):
    path = tmp_path / "model.npz"
    blob = GOLDEN.read_bytes() if version == 1 else model[3]
    path.write_bytes(blob)
    whole, loaded, trials = state(path), 0, 500 * TRIALS if version == 2 else 100 * TRIALS
    for bit in np.random.default_rng(version).choice(8 * len(blob), min(trials, 8 * len(blob)), replace=False):
        damaged = bytearray(blob)
        damaged[bit // 8] ^= 1 << bit % 8
        if repair:
            try:
                damaged = forge.repaired(bytes(damaged))
            except (struct.error, ValueError):
                continue  # it hit the directory itself
        loaded += same_or_refused(path, damaged, whole)
    assert loaded < trials / 4  # dates and attributes of members mean nothing


def test_a_cut_file_is_found(model, tmp_path):
    blob, path = model[3], tmp_path / "model.npz"
    path.write_bytes(blob)
    whole, lengths = (
        state(path),
        np.random.default_rng(0).choice(len(blob), min(100 * TRIALS, len(blob)), replace=False),
    )
    assert not any(same_or_refused(path, blob[:length], whole) for length in lengths)


# ---- What a model brings along


def test_records_keep_their_types_and_what_is_no_number_stays_here(tmp_path):
    def more(vae, record):
        record |= {"note": "text", "ratio": np.float32(0.5), "list": [1], "none": None, "kl_9": 1.0}

    X = np.random.default_rng(0).random((20, 3))
    vae = VAE(2, hidden_dims=(2,), epochs=2, backend="numpy", random_state=0, callbacks=[more]).fit(X)
    vae.save(tmp_path / "model.npz")
    loaded = VAE.load(tmp_path / "model.npz", backend="numpy").history_
    for before, after in zip(vae.history_, loaded, strict=True):
        expected = {n: v for n, v in before.items() if n not in ("note", "list", "none", "kl_9")}
        assert after == expected and list(after) == list(expected)
        kinds = {"epoch": int, "step": int, "n_samples": int, "active_units": int, "kept": bool, "kl_per_dim": list}
        assert {n: type(v) for n, v in after.items()} == dict.fromkeys(after, float) | kinds


@pytest.mark.parametrize("labels", [["x" * 100] * 90_000, [0] * 300_000], ids=["long", "many"])
def test_labels_that_are_too_many_for_a_file_are_named_when_it_is_written(labels, model, tmp_path):
    with pytest.raises(ValueError, match="too many for"):
        modelfile.save(tmp_path / "model.npz", {}, {"condition": labels})
    assert not list(tmp_path.iterdir()) and json.dumps(model[2])
