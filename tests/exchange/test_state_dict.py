"""State-dicts without PyTorch: what is written PyTorch reads, and what PyTorch writes is read; nothing in it is run."""

from __future__ import annotations

import os
import pickle
import zipfile

import numpy as np
import pytest
from wild_models import GREY, LIKELIHOODS, REAL, RNG, Z, wild

from minivae import VAE, DataError
from minivae.exchange import torch as exchange
from minivae.kernels.reference import ACTIVATIONS
from minivae.storage.modelfile import ModelFileError

TRIALS = int(os.environ.get("MINIVAE_TRIALS", "1"))


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="needs torch")


def pasted(torch, vae, path):
    """What the printed lines make."""
    names = {}
    exec(vae.export(path), names)
    return names["vae"]


def check(torch, vae, path, X, y=None):
    """The pasted module gives what the model does."""
    module = pasted(torch, vae, path)
    side = () if y is None else (torch.from_numpy(vae.condition_.columns(y, len(X), np.float64)),)
    z = Z.astype(vae.network_.dtype)
    with torch.no_grad():
        found = [*module.encode(torch.from_numpy(X), *side), module.decode(torch.from_numpy(z), *side)]
    right, close = [*vae.posterior(X, y), vae.inverse_transform(z, y)], 1e-12 if vae.dtype == "float64" else 1e-5
    for a, b in zip(found, right, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=close, atol=close)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_pasted_module_has_the_activations(torch, tmp_path, activation, dtype):
    check(torch, wild(8 * GREY, likelihood="gaussian", activation=activation, dtype=dtype), tmp_path / "m.pt", 8 * GREY)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("X, parameters", LIKELIHOODS)
def test_the_pasted_module_has_the_likelihoods(torch, tmp_path, X, parameters, dtype):
    check(torch, wild(X, **parameters | {"dtype": dtype}), tmp_path / "m.pt", X)


@pytest.mark.parametrize("missing", ["ignore", "input"])
def test_the_pasted_module_knows_missing_cells(torch, tmp_path, missing):
    X = np.where(RNG.random(REAL.shape) < 0.3, np.float32(np.nan), REAL)
    check(torch, wild(X, likelihood="gaussian", missing=missing), tmp_path / "m.pt", X)


def test_the_pasted_module_takes_bytes_times_and_conditions(torch, tmp_path):
    X = (255 * GREY).astype(np.uint8)
    check(torch, wild(X), tmp_path / "m.pt", X)
    seconds = 1.7e9 + 3600 * REAL.astype(np.float64)
    check(torch, wild(seconds, likelihood="gaussian", standardize=True), tmp_path / "m.pth", seconds)
    y = np.array(["a", "b"])[np.arange(40) % 2]
    check(torch, wild(GREY, y, conditional=True), tmp_path / "m.pt", GREY, y)
    y = RNG.normal(size=(40, 2))
    check(torch, wild(GREY, y, conditional=True), tmp_path / "m.pt", GREY, y)


# ---- Reading


def dense(n=4):
    """Named arrays as a small state-dict has them."""
    rng = np.random.default_rng(0)
    shapes = {"fc1": (5, n), "fc21": (2, 5), "fc22": (2, 5), "fc3": (5, 2), "fc4": (n, 5)}
    found = {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return found | {f"{name}.bias": rng.normal(size=shape[0]).astype(np.float32) for name, shape in shapes.items()}


def forged(path, pickled, **members):
    """A .pt of this pickle, with storages 0, 1, ... of 8 floats each."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for key in range(2):
            archive.writestr(f"a/data/{key}", np.arange(8, dtype="<f4").tobytes())
        for name, data in members.items():
            archive.writestr(f"a/{name}", data)
    return path


def tensor(shape, strides, offset=0, size=8, key="0", kind="torch FloatStorage"):
    """The pickle of {"w": a tensor}, whatever its numbers are."""
    value, call = exchange._value, exchange._global
    storage = exchange._tuple(value("storage"), exchange._global(kind), value(key), value("cpu"), value(size))
    numbers = [exchange._tuple(*map(value, part)) for part in (shape, strides)]
    made = exchange._tuple(storage + b"Q", value(offset), *numbers, b"\x89", call(exchange.DICTS[0], b")R"))
    return b"\x80\x02}" + value("w") + call(exchange.TENSORS[0], made + b"R") + b"s."


def test_what_is_written_is_read(tmp_path):
    arrays = dense() | {"scale": np.arange(3.0)}
    (tmp_path / "m.pt").write_bytes(exchange.file(arrays))
    found, config = exchange.read(tmp_path / "m.pt")
    assert [*found] == [*arrays] and not config
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and (found[name] == array).all()


def test_what_pytorch_writes_is_read(torch, tmp_path):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    kinds = (
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.int64,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
    tensors = {str(kind): (4 * base).to(kind) for kind in kinds}
    tensors |= {"turned": base.T, "part": base[2:5, ::2], "one": base[1, 1], "empty": base[:0]}
    tensors["parameter"] = torch.nn.Parameter(base)
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    checkpoint = {"epoch": 3, "loss": 0.5, "optimizer": optimizer.state_dict(), "state_dict": tensors}
    for saved in (tensors, checkpoint):
        torch.save(saved, tmp_path / "m.pt")
        found = exchange.read(tmp_path / "m.pt")[0]
        assert found.keys() == tensors.keys()
        for name, array in found.items():
            right = tensors[name].detach()
            assert array.shape == tuple(right.shape)
            assert (array == (right.float() if "bfloat16" in name else right).numpy()).all()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_no_code_of_a_pickle_is_run(tmp_path, protocol):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    pickled = pickle.dumps({"fc1.weight": Evil()}, protocol)
    with pytest.raises(ModelFileError, match="it holds no state-dict"):
        VAE.from_weights(forged(tmp_path / "m.pt", pickled))
    whole = pickle.dumps(Evil(), protocol)
    with pytest.raises(
        ModelFileError, match=f"it holds a whole {os.name}.mkdir, .* its layers; write one by torch.save"
    ):
        VAE.from_weights(forged(tmp_path / "m.pt", whole))
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickled)  # what would have been
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "pickled, reason",
    [
        (tensor((2, 4), (4, 1), offset=1), "does not lie inside"),
        (tensor((2, 4), (5, 1)), "does not lie inside"),
        (tensor((2**40, 2**40), (0, 0)), "larger than its storage"),
        (tensor((9, 1), (0, 0)), "larger than its storage"),
        (tensor((2, 4), (4,)), "larger than its storage"),
        (tensor((2, 1), (1, 1), size=2**50), "32 bytes, not"),
        (tensor((2, 1), (1, 1), key="9"), "no member"),
        (tensor((2, 1), (1, 1), key="../../x"), "no member"),
        (tensor((2, 1), (1, 1), kind="torch FloatTensor"), "its 'w' is a torch.FloatTensor"),
        (tensor((2, 1), (1, 1)).replace(b"\x8a\x09" + bytes(9), b"J\xff\xff\xff\xff"), "larger than its storage"),
        (b"\x80\x02}" + exchange._value("w") + exchange._value(1) + b"s.", "no state-dict"),
        (b"\x80\x04\x8f.", "it holds a whole set"),
        (b"\x80\x02(ios\nmkdir\n.", "opcode INST"),
        (b"\x80\x02]q\x00h\x00a.", "no state-dict"),  # a list in itself
        (b"\x80\x02}r\xff\xff\xff\x7f.", "no state-dict"),  # pickle itself would make a memo of 2^31 places
        (b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.", "no state-dict"),  # whose hash would go as deep
        (b"\x80\x02}", "pickle"),
        (b"\x80\x02.", "pop from empty list"),
    ],
)
def test_a_forged_pickle_is_told(tmp_path, pickled, reason):
    with pytest.raises(ModelFileError, match=f"m.pt cannot be read .*{reason}"):
        VAE.from_weights(forged(tmp_path / "m.pt", pickled))


def test_big_numbers_of_other_machines_are_turned(tmp_path):
    path = forged(
        tmp_path / "m.pt",
        tensor((2, 1), (1, 1), key="big"),
        byteorder="big",
        **{"data/big": np.arange(8, dtype=">f4").tobytes()},
    )
    assert exchange.read(path)[0]["w"].tolist() == [[0], [1]]


def damaged(whole, rng):
    """A byte changed, left out or put in, mostly one that is an opcode; or the end cut off."""
    place, byte = (
        rng.integers(len(whole)),
        bytes([rng.choice([*map(ord, "}]()tRQXJKUuesbacqhjN."), rng.integers(256)])]),
    )
    rest = [whole[place:], whole[place + 1 :], whole[place + 1 :], whole[place + 2 :], b""]
    return whole[:place] + byte + rest[rng.integers(len(rest))]


def test_a_damaged_file_is_told_wherever_it_is_damaged(tmp_path):
    """The whole file, whose checksums tell, and the pickle alone, under a right one."""
    path, rng, told = tmp_path / "m.pt", np.random.default_rng(0), 0
    path.write_bytes(exchange.file(dense()))
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for trial in range(600 * TRIALS):
        path.write_bytes(damaged(whole, rng))
        if trial % 2:
            with zipfile.ZipFile(path, "w") as archive:
                for name, data in members.items():
                    archive.writestr(name, damaged(data, rng) if name.endswith("pkl") else data)
        try:
            VAE.from_weights(path, backend="numpy")
        except (ModelFileError, DataError) as error:
            told += str(path) in str(error) and "\n" not in str(error)
    assert told > 450 * TRIALS  # some bytes mean nothing, such as a date


def test_a_huge_pickle_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "MOST", 10)
    with pytest.raises(ModelFileError, match=r"no data.pkl of at most 10 bytes"):
        VAE.from_weights(forged(tmp_path / "m.pt", tensor((2, 1), (1, 1))))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "m.pt")
    with pytest.raises(ModelFileError, match="not a regular file"):
        VAE.from_weights(tmp_path / "m.pt")
