"""One file: after a failure, a kill or a loss of power anywhere in a save it is the old one or the new one."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from faults.disk import ERRORS, Disk, Killed, files, materialise
from minivae import VAE
from minivae.storage.durable import write_atomically


@pytest.fixture(scope="module")
def models():
    X = np.random.default_rng(0).random((40, 6)).astype(np.float32)
    return [VAE(hidden_dims=4, epochs=1, backend="numpy", random_state=seed).fit(X) for seed in (0, 1)]


@pytest.fixture
def saved(models, tmp_path):
    """A folder with the old model, the path in it, the bytes of the old and the new one."""
    folder = tmp_path / "models"
    folder.mkdir()
    path = folder / "model.npz"
    models[1].save(path)
    new = path.read_bytes()
    models[0].save(path)
    return folder, path, path.read_bytes(), new


def test_a_loss_of_power_leaves_the_old_file_or_the_new_one_and_the_new_one_once_save_has_returned(
    saved, models, tmp_path
):
    folder, path, old, new = saved
    with Disk(folder) as disk:
        models[1].save(path)
        disk.mark("saved")
    found = set()
    for state, promised in disk.losses(random.Random(0)):
        content = dict(state)[path.name]
        assert content == new if promised else content in (old, new)
        found.add((content == new, promised))
        if len(found) < 3:
            materialise(state, tmp_path / "after")
            VAE.load(tmp_path / "after" / path.name, backend="numpy")
    assert found == {(False, None), (True, None), (True, "saved")}


def test_a_loss_of_power_leaves_no_half_of_a_first_file(models, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    with Disk(folder) as disk:
        models[0].save(folder / "model.npz")
        disk.mark("saved")
    whole = (folder / "model.npz").read_bytes()
    for state, promised in disk.losses(random.Random(0)):
        content = dict(state).get("model.npz")
        assert content == whole or (content is None and not promised)


@pytest.mark.parametrize("number", ERRORS)
def test_whatever_call_of_a_save_fails_the_old_file_stays_and_the_error_names_it(saved, models, number):
    folder, path, old, new = saved
    for n in range(1000):
        asked = []
        with Disk(
            folder,
            lambda i, name, _, n=n, asked=asked: asked.append(name) or (OSError(number, "no") if i == n else None),
        ):
            try:
                models[1].save(path)
                error = None
            except OSError as caught:
                error = caught
        if n >= len(asked):
            break
        renamed = "replace" in asked[:n]  # all that can fail now is to bring the new name to disk
        assert error is not None and error.errno == number and error.filename == str(path), (n, asked)
        assert files(folder) == {path.name: new if renamed else old}, (n, asked)
        models[0].save(path)
    assert error is None and n >= 7 and {"open", "write", "fsync", "replace"} <= set(asked)


def test_a_kill_anywhere_in_a_save_leaves_the_old_file_or_the_new_one(saved, models):
    folder, path, old, new = saved
    for n in range(1000):
        with Disk(folder, lambda i, *_, n=n: Killed() if i == n else None) as disk:
            try:
                models[1].save(path)
                break
            except Killed:
                pass
        assert path.read_bytes() in (old, new), disk.calls
    assert path.read_bytes() == new and n >= 7


def test_why_a_file_was_not_written_is_told_although_its_folder_has_gone(tmp_path):
    (tmp_path / "gone").mkdir()

    def write(file):
        for path in (tmp_path / "gone").iterdir():
            path.unlink()
        (tmp_path / "gone").rmdir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "gone" / "file", write)


def test_a_folder_that_may_be_written_to_but_not_listed_takes_a_file(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("whoever runs this may list every folder")
    (tmp_path / "letters").mkdir(mode=0o300)
    write_atomically(tmp_path / "letters" / "file", lambda file: file.write(b"a letter"))
    (tmp_path / "letters").chmod(0o700)
    assert files(tmp_path / "letters") == {"file": b"a letter"}
