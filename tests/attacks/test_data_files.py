"""Data files from an enemy, one builder each: every one is a DataError in one line, soon, and takes little memory."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import socket
import struct
import time
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from attacks import forge

from minivae import DataError, load_dataset, processors
from minivae.data import text

MiB = 2**20
TRIALS = int(os.environ.get("MINIVAE_TRIALS", "1"))


def refused(path, words=None):
    begun = time.monotonic()
    with pytest.raises(DataError, match=words) as caught:
        load_dataset(path)
    assert time.monotonic() - begun < 5
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 1500
    tracemalloc.start()  # makes it several times slower
    try:
        with contextlib.suppress(DataError):
            load_dataset(path)
        assert tracemalloc.get_traced_memory()[1] < 64 * MiB
    finally:
        tracemalloc.stop()


X = np.arange(12.0).reshape(3, 4)


def deflated(content, size, crc=0, name=b"X.npy"):
    """An archive of one deflated member that declares this size."""
    head = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, crc, len(content), size, len(name), 0)
    local = b"PK\3\4" + head + name + content
    entry = b"PK\1\2" + struct.pack("<H", 20) + head + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    return local + entry + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local), 0)


def bomb(declared, content=None):
    header = forge.npy(np.empty(0), descr="|u1", shape=(declared,))
    packer = zlib.compressobj(9, wbits=-15)
    body = packer.compress(header) + packer.compress(bytes(MiB)) + packer.flush()
    return deflated(body, len(header) + declared if content is None else content)


def many(count):
    return forge.archive({f"{i:05}.npy": b"" for i in range(count)})


HEADERS = {
    "no magic": b"NOPE" * 50,
    "version 3": forge.npy(X, version=b"\3\0"),
    "a header of 4 GB": b"\x93NUMPY\2\0\xff\xff\xff\xff{",
    "an open bracket": forge.npy(X, header="{'descr': '<f8', 'fortran_order': False, 'shape': (3,"),
    "an open string": forge.npy(X, header="'''"),
    "deep brackets": forge.npy(X, header="(" * 3000),
    "deep minus": forge.npy(X, header="-" * 4000 + "1"),
    "code": forge.npy(X, header="__import__('os').system('true')"),
    "negative": forge.npy(X, shape="(-3, 4)"),
    "true": forge.npy(X, shape="(True, 12)"),
    "4 EB": forge.npy(X, shape=f"(2, {2**60})"),
    "more than a number holds": forge.npy(X, shape=f"(2, {10**30})"),
    "more digits than Python reads": forge.npy(X, shape="(" + "9" * 3900 + ",)"),
    "100 dimensions": forge.npy(X, shape="(" + "1, " * 99 + "12)"),
    "a row too many": forge.npy(X, shape="(4, 4)"),
    "objects": forge.npy(X, descr="'|O8'"),
    "records": forge.npy(X, descr="[('a', '<f8')]"),
    "no bytes each": forge.npy(X, descr="'U0'", shape=f"({2**62}, 4)"),
    "void": forge.npy(X, descr="'V8'"),
    "text": forge.npy(X, descr="'<U2'"),
    "complex": forge.npy(X, descr="'<c8'", shape="(3, 4)"),
    "no rows": forge.npy(X[:0], shape="(0, 4)"),
    "nothing times much": forge.npy(X[:0], shape=f"(0, {10**18})"),
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "no bytes": b"",
}
ARCHIVES = {
    "8 EB behind a small member": lambda: forge.archive({"X.npy": forge.npy(X, shape=f"(2, {2**60})")}),
    "1 GB that 1 MiB cannot become": lambda: bomb(2**30),
    "a size that is a lie": lambda: bomb(2**20, content=2**19),
    "30,000 members": lambda: many(30_000),
    "bzip2": lambda: forge.archive({"X.npy": forge.npy(X)}, zipfile.ZIP_BZIP2),
    "lzma": lambda: forge.archive({"X.npy": forge.npy(X)}, zipfile.ZIP_LZMA),
    "encrypted": lambda: forge.patched(forge.archive({"X.npy": forge.npy(X)}), 8, "<H", 1, local=6),
    "an unknown method": lambda: forge.patched(forge.archive({"X.npy": forge.npy(X)}), 10, "<H", 99, local=8),
    "a later zip": lambda: forge.patched(forge.archive({"X.npy": forge.npy(X)}), 6, "<H", 99),
    "called deflated": lambda: forge.patched(forge.archive({"X.npy": forge.npy(X)}), 10, "<H", 8, local=8),
    "the wrong checksum": lambda: forge.patched(forge.archive({"X.npy": forge.npy(X)}), 16, "<I", 1, local=14),
    "beyond the file": lambda: forge.patched(forge.archive({"X.npy": forge.npy(X)}), 20, "<I", 2**31),
    "begins beyond the file": lambda: forge.patched(forge.archive({"X.npy": forge.npy(X)}), 42, "<I", 2**31),
    "two names": lambda: forge.archive({"X.npy": forge.npy(X), "X": forge.npy(X)}),
    "labels of another length": lambda: forge.archive({"X.npy": forge.npy(X), "y.npy": forge.npy(X[0])}),
    "labels that are objects": lambda: forge.archive({"X.npy": forge.npy(X), "y.npy": forge.npy(X[:, 0], descr="'O'")}),
    "nothing that is data": lambda: forge.archive({f"{'a' * 60000}.npy": forge.npy(X), "b.npy": forge.npy(X)}),
    "text": lambda: b"not an archive\n" * 9,
}


@pytest.mark.parametrize("attack", HEADERS)
@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.npz, deflated"])
def test_npy(attack, name, tmp_path):
    blob, path = HEADERS[attack], tmp_path / name[:5]
    method = zipfile.ZIP_DEFLATED if "deflated" in name else zipfile.ZIP_STORED
    path.write_bytes(blob if name == "x.npy" else forge.archive({"X.npy": blob}, method))
    refused(path)


SAID = {  # where another check would find it later
    "30,000 members": "list of members is longer",
    "1 GB that 1 MiB cannot become": "cannot have the length",
    "encrypted": "compressed or encrypted",
    "beyond the file": "ends beyond the end",
    "the wrong checksum": "CRC",
    "PostScript": "cannot identify",
}


@pytest.mark.parametrize("attack", ARCHIVES)
def test_npz(attack, tmp_path):
    (tmp_path / "x.npz").write_bytes(ARCHIVES[attack]())
    refused(tmp_path / "x.npz", SAID.get(attack))


def test_an_archive_under_another_name_and_a_file_that_is_packed_but_true(tmp_path):
    (tmp_path / "x.npy").write_bytes(forge.archive({"X.npy": forge.npy(X)}))
    refused(tmp_path / "x.npy", "rename it to end in .npz")
    np.savez_compressed(tmp_path / "x.npz", X=np.asfortranarray(X), y=np.array(["a", "b", "c"]))
    data = load_dataset(tmp_path / "x.npz")
    np.testing.assert_array_equal(data.train, X)
    assert data.train_labels.tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["x.npz", "x.csv", "x.csv.gz", "x-idx2", "x-idx2.gz"])
def test_what_does_not_fit_into_memory_is_refused_before_it_is_unpacked(name, tmp_path, monkeypatch):
    limit, path = 16 * MiB, tmp_path / name
    monkeypatch.setattr(processors, "memory_limit", lambda: limit)
    table = np.zeros((1, 9 * MiB), np.uint8)
    content = struct.pack(">BBBBII", 0, 0, 8, 2, *table.shape) + table.tobytes() if "idx" in name else b"0,0\n" * MiB
    if name == "x.npz":
        np.savez_compressed(path, X=table)
    else:
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    del table, content
    refused(path, r"accepted")
    monkeypatch.setattr(processors, "memory_limit", lambda: 64 * MiB)
    if name != "x.csv.gz":
        assert load_dataset(path).train.size >= 2 * MiB


# ---- IDX


def idx(code, *sizes, tail=b""):
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, code, len(sizes), *sizes) + tail


IDX = {
    "nothing": b"",
    "no type": idx(7, 2, 2, tail=b"abcd"),
    "no dimension": idx(8),
    "255 dimensions": struct.pack(">BBBB", 0, 0, 8, 255) + b"\0\0\0\1" * 255 + b"x",
    "8 EB": idx(14, 2**20, 2**20, 2**20),
    "more than a number holds": idx(14, *[2**32 - 1] * 8),
    "an empty dimension": idx(8, 0, 2**32 - 1),
    "a byte too few": idx(8, 2, 2, tail=b"abc"),
    "a byte too many": idx(8, 2, 2, tail=b"abcde"),
    "a cut header": idx(8, 2, 2)[:9],
    "a gigabyte of nothing": idx(8, 2**10, 2**20),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("attack", IDX)
def test_idx(attack, packed, tmp_path):
    (tmp_path / "x-idx2").write_bytes(gzip.compress(IDX[attack]) if packed else IDX[attack])
    refused(tmp_path / "x-idx2")


# ---- Text

TEXT = {
    "nothing": b"",
    "blank lines": b"\n \n" * 10_000,
    "a line of 8 million cells": b"0," * 8 * MiB,
    "a line of 8 million empty cells": b"," * 8 * MiB,
    "a line of 8 million blanks": b" " * 8 * MiB + b"1",
    "a number of 8 million digits": b"9" * 8 * MiB,
    "names without end": b"a," * 8 * MiB,
    "a long second line": b"1,2\n" + b"3," * 8 * MiB,
    "wide letters without end": "\N{GRINNING FACE}".encode() * 5 * MiB,
    "many names, then a word": b"name," * (MiB // 8) + b"\nx\n",
    "many cells, one bad": b"0," * (MiB // 8) + b"x",
    "a number of a million digits, then none": b"1." + b"1" * MiB + b",x",
    "an open quote": b'1,"2\n' + b"1,2\n" * 10_000,
    "quotes only": b'"' * 100_000,
    "no UTF-8": b"1,2\n\xff",
    "UTF-16 cut short": "1,2\n3,4".encode("utf-16")[:-1],
    "zeros": bytes(100_000),
    "ragged": b"1,2\n3\n",
    "words": b"1,two\n",
    "hexadecimal": b"1,0x10\n",
    "binary": b"\x89PNG\r\n" + bytes(range(256)) * 100,
    "carriage returns": b"1,2\r3\r" * 1000,
    "a header alone": b"a,b\n",
    "an archive": forge.archive({"X.npy": forge.npy(X)}),
}


@pytest.mark.parametrize("attack", TEXT)
@pytest.mark.parametrize("name", ["x.csv", "x.txt", "x.csv.gz"])
def test_text(attack, name, tmp_path):
    (tmp_path / name).write_bytes(gzip.compress(TEXT[attack], 1) if name.endswith("gz") else TEXT[attack])
    refused(tmp_path / name)


def test_gzip_of_more_text_than_tables_have(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PACKED", (MiB, 100))
    (tmp_path / "x.csv").write_bytes(gzip.compress(b"0,0,0,0\n" * MiB))
    refused(tmp_path / "x.csv", "unpacks to over 100 times its size")


GZIP = {
    "cut": lambda blob: blob[: len(blob) // 2],
    "only a header": lambda blob: blob[:10],
    "only magic": lambda blob: blob[:2],
    "an unknown method": lambda blob: blob[:2] + b"\x07" + blob[3:],
    "a wrong checksum": lambda blob: blob[:-8] + b"abcd" + blob[-4:],
    "a wrong length": lambda blob: blob[:-4] + b"abcd",
    "no deflate": lambda blob: blob[:10] + b"\xff" * 50,
    "something behind": lambda blob: blob + b"behind",
    "a name without end": lambda blob: blob[:3] + b"\x08" + blob[4:10] + b"n" * 100_000,
}


@pytest.mark.parametrize("attack", GZIP)
@pytest.mark.parametrize("name", ["x.csv.gz", "x-idx2.gz"])
def test_gzip(attack, name, tmp_path):
    content = b"1,2\n" * 1000 if "csv" in name else idx(8, 40, 100, tail=bytes(4000))
    (tmp_path / name).write_bytes(GZIP[attack](gzip.compress(content)))
    refused(tmp_path / name)


# ---- Folders of images, and what is no file


def png(width=4, height=4, body=None):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 20) if body is None else body
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


IMAGES = {
    "nothing": b"",
    "text": b"not an image",
    "cut": png()[:45],
    "no body": png(body=b""),
    "a body that is no zlib": png(body=b"abcd"),
    "4 billion pixels a side": png(2**31 - 1, 2**31 - 1),
    "200 million pixels": png(20_000, 10_000),
    "80 million pixels": png(10_000, 8_000),
    "no pixel": png(0, 0),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n(%stdin) run\n",
    "a huge PPM": b"P5 999999 999999 255\n",
    "a PPM of words": b"P5 four four 255\n",
    "a BMP without end": b"BM" + bytes(50),
    "a GIF without end": b"GIF89a\xff\xff\xff\xff\0\0\0",
    "a TIFF that points at itself": b"II*\0\x08\0\0\0\1\0\0\1\3\0\1\0\0\0\1\0\0\0\x08\0\0\0",
}


@pytest.mark.parametrize("attack", IMAGES)
def test_images(attack, tmp_path):
    pytest.importorskip("PIL.Image", reason="Pillow reads image folders: pip install 'minivae[images]'")
    (tmp_path / "a.png").write_bytes(IMAGES[attack])
    refused(tmp_path, SAID.get(attack))


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices are files on POSIX systems only")
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device"])
@pytest.mark.parametrize("name", ["images/a.png", "x.npy", "x.npz", "x.csv", "x-idx2.gz"])
def test_what_is_no_file_is_not_waited_for(name, kind, tmp_path, monkeypatch):
    pytest.importorskip("PIL.Image", reason="Pillow reads image folders: pip install 'minivae[images]'")
    (tmp_path / "images").mkdir()
    monkeypatch.chdir((tmp_path / name).parent)
    path, short = tmp_path / name, os.path.basename(name)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as here:
        if kind == "device" and not os.path.exists("/dev/zero"):
            pytest.skip("/dev/zero is not on this system")
        made = {
            "pipe": os.mkfifo,
            "socket": here.bind,
            "folder": os.mkdir,
            "device": lambda n: os.symlink("/dev/zero", n),
        }
        made[kind](short)
        refused(path.parent if "images" in name else path)


# ---- Bad disks


def test_flipped_bits_of_data_are_found_or_harmless(tmp_path):
    """In .npy nothing is there to tell: but the array is read or refused, whatever its header has become."""
    out = io.BytesIO()
    np.savez_compressed(out, X=X, y=np.arange(3))
    rng = np.random.default_rng(0)
    for name, blob in (("x.npz", out.getvalue()), ("x.npy", forge.npy(X))):
        for bit in rng.choice(8 * len(blob), min(150 * TRIALS, 8 * len(blob)), replace=False):
            damaged = bytearray(blob)
            damaged[bit // 8] ^= 1 << bit % 8
            (tmp_path / name).write_bytes(damaged)
            with contextlib.suppress(DataError):
                found = load_dataset(tmp_path / name).train
                assert name == "x.npy" or np.array_equal(found, X)
