"""A new run takes an old one's place: what a reader finds, and who writes next, is one of the two, never a mixture."""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress

import pytest

from faults.disk import ERRORS, Disk, Killed, files, materialise
from minivae.storage import folders
from minivae.storage.durable import write_atomically
from minivae.storage.folders import CHECKPOINT, CONFIG, HISTORY, LOCK, MODEL, NEW, Busy, Folder, claim, current

ALL = (MODEL, CHECKPOINT, HISTORY, CONFIG)
OLD = {name: f"old {name}".encode() for name in (*ALL, "figures/loss.png", "figures/latent.png")}
WITH_FIGURES = {name: f"new {name}".encode() for name in (*ALL, "figures/loss.png", "figures/manifold.png")}
BARE = {name: f"new {name}".encode() for name in ALL}
MINE = {"notes.txt": b"mine", "figures/mine.png": b"mine"}


def write(folder, run):
    for name, content in run.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, lambda file, content=content: file.write(content))


def replace(path, run, disk=None):
    """What `train --overwrite` does, but for the training."""
    with claim(str(path), "data", overwrite=True) as folder:
        write(folder.place, run)
        if disk is not None:
            disk.mark("written")
        folder.publish()
        if disk is not None:
            disk.mark("published")


def check(path, new, promised=None):
    """A reader finds one run here, and who comes next does too, with nothing left over. Whether it is the new one."""
    for finished in (False, True):
        read = {name: file.read_bytes() for name in ALL if (file := current(path, name)).exists()}
        assert read in ({name: run[name] for name in ALL} for run in (OLD, new)), (finished, sorted(files(path)))
        is_new = read[MODEL] == new[MODEL]
        assert is_new or promised != "published"
        with Folder(path) as folder:
            assert folder.occupied() == "a model"
    found = files(path)
    left = {name: content for name, content in found.items() if name.startswith(NEW)}
    assert {n: c for n, c in found.items() if n not in left} == (new if is_new else OLD) | MINE
    assert not left or not is_new
    if promised == "written" and not is_new:  # what --resume goes on with
        assert left.items() >= {f"{NEW}/{name}": new[name] for name in ALL}.items()
    return is_new


@pytest.fixture
def run(tmp_path):
    write(tmp_path / "run", OLD | MINE)
    return tmp_path / "run"


@pytest.mark.parametrize("new", [WITH_FIGURES, BARE], ids=["figures", "bare"])
def test_a_loss_of_power_leaves_one_run(run, new, tmp_path):
    with Disk(run) as disk:
        replace(run, new, disk)
    states, found = list(disk.losses(random.Random(0))), set()
    for state, promised in states:
        materialise(state, tmp_path / "after")
        found.add((check(tmp_path / "after", new, promised), promised))
    assert found == {(False, None), (False, "written"), (True, "written"), (True, "published")}
    assert len(states) > 40


def test_a_kill_at_any_call_leaves_one_run_and_the_next_call_finishes_what_was_begun(run, tmp_path):
    begin, found = frozenset((n, c) for n, c in files(run).items()), []
    for n in range(1000):
        materialise({("figures", None), *begin}, run)
        with Disk(run, lambda i, *_, n=n: Killed() if i == n else None):
            try:
                replace(run, WITH_FIGURES)
                break
            except Killed:
                pass
        if n % 3:  # who comes next is killed as well
            with Disk(run, lambda i, *_, n=n: Killed() if i == n % 40 else None), suppress(Killed):
                Folder(run).close()
        found.append(check(run, WITH_FIGURES))
    assert found == sorted(found) and {False, True} == set(found) and n > 60


def test_any_failure_in_taking_the_place_surfaces_and_leaves_one_run(run):
    begin = frozenset((n, c) for n, c in files(run).items())
    for n in range(1000):
        materialise({("figures", None), *begin}, run)
        error = None
        number = ERRORS[n % 3]
        with Disk(run, lambda i, *_, n=n, number=number: OSError(number, "no") if i == n else None) as disk:
            try:
                replace(run, WITH_FIGURES)
            except OSError as caught:
                error = caught
        if n >= len(disk.calls):
            break
        is_new = check(run, WITH_FIGURES)
        # what may fail without harm: taking away what is left over and the lock
        assert error is not None or (is_new and disk.calls[n][0] in ("unlink", "rmdir")), disk.calls[n]
    assert is_new and n > 60


def test_a_folder_made_for_a_run_is_on_disk_before_what_lies_in_it(tmp_path):
    with Disk(tmp_path) as disk, claim(str(tmp_path / "runs" / "first"), "data", overwrite=False) as folder:
        write(folder.place, BARE)
        disk.mark("written")
        folder.publish()
    for state, promised in disk.losses(random.Random(0)):
        if promised:
            assert {name: dict(state).get(f"runs/first/{name}") for name in ALL} == BARE


def test_stale_files_of_killed_processes_go_and_those_of_others_stay(run):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    for folder in ("", "figures/", ".new/", ".new/figures/"):
        (run / folder).mkdir(exist_ok=True)
        (run / f"{folder}.minivae-{child}-0123").write_bytes(b"half")
        (run / f"{folder}.minivae-{10**30}-0123").write_bytes(b"of no process")
        (run / f"{folder}.minivae-{os.getpid()}-0123").write_bytes(b"half")
        (run / f"{folder}.minivae-{os.getppid()}-0123").write_bytes(b"half")
        (run / f"{folder}.minivae-{os.getppid()}-4567").write_bytes(b"of one killed before, whose number it has")
        hours_ago = time.time() - 7200
        os.utime(run / f"{folder}.minivae-{os.getppid()}-4567", (hours_ago, hours_ago))
    Folder(run).close()
    left = {path.name for path in run.rglob(".minivae-*")}
    assert left == {f".minivae-{os.getppid()}-0123", f".minivae-{10**30}-0123"}


def test_a_folder_that_was_removed_is_held_anew_but_not_where_another_run_is_by_now(tmp_path):
    path = tmp_path / "run"
    mine = claim(str(path), "data", overwrite=False)

    def remove():
        for name in path.iterdir():
            name.unlink()
        path.rmdir()

    remove()
    mine.hold()
    with pytest.raises(Busy, match=f"process {os.getpid()} on"):
        Folder(path)
    remove()
    other = claim(str(path), "data", overwrite=False)
    with pytest.raises(Busy):
        mine.hold()
    write(other.place, BARE)
    other.close()
    with pytest.raises(FileExistsError, match="holds another one now"):
        mine.hold()
    with pytest.raises(FileExistsError, match="holds another one now"):
        mine.hold()
    mine.close()
    assert files(path) == BARE
    Folder(path).close()


def test_a_lock_whose_file_is_deleted_at_the_moment_it_is_taken_is_none(run, monkeypatch):
    """By who held it until then; the next to come would make a file of its own, and hold that."""
    take, taken = folders._take, []

    def late(handle):
        if not taken:
            (run / LOCK).unlink()
        taken.append(handle)
        take(handle)

    monkeypatch.setattr(folders, "_take", late)
    with Folder(run), pytest.raises(Busy):
        Folder(run)
    assert len(taken) == 3


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("digits", "digits"),
        ("a/b/my table.v2.csv", "my-table.v2"),
        ("/", "run"),
        ("ü ö.npy", "ü-ö"),
        ("a\nb.csv", "a-b"),
        ("..", "run"),
    ],
)
def test_a_run_is_named_after_its_data(name, stem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = claim(None, name, False), claim(None, name, False)
    assert [str(folder.path) for folder in (first, second)] == [f"runs/{stem}", f"runs/{stem}-2"]
    second.close()
    first.close()
    assert not list(tmp_path.iterdir())  # made for nothing
