"""What a run keeps on disk while it trains."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from minivae.progress import say
from minivae.storage import persistence
from minivae.storage.checkpoints import Checkpoints
from minivae.storage.durable import write_atomically
from minivae.storage.folders import CHECKPOINT, CONFIG, FIGURE_NAMES, FIGURES, HISTORY, MODEL, Folder
from minivae.storage.modelfile import json_text


class Recorder(Checkpoints):
    """Keeps config.json, history.csv, model.npz (the best epoch so far) and checkpoint.npz of a run up to date.

    What cannot be written (a full disk, a folder that was removed) is said once and tried again, while the training goes on.
    """

    def __init__(
        self, folder: Folder, run: dict[str, Any], config: dict[str, Any], announce: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(folder.place / CHECKPOINT)
        self.folder, self.run, self.config, self.announce = folder, run, config, announce
        self.trouble = self.locked = False  # whether another program keeps history.csv from being written
        self.told = 0  # epochs in history.csv
        self.names: dict[str, None] = {}  # its columns

    # ---- While it trains

    def begin(self, examples: Any, val: Any) -> None:
        super().begin(examples, val)
        self.announce()

    def offer(self, vae: Any, trace: Any, moment: str) -> None:
        if moment != "step":
            self.attempt(lambda: self.add_to_history(vae.history_))
        super().offer(vae, trace, moment)

    def write(self, vae: Any, trace: Any) -> None:
        self.keep(vae, trace)
        if self.attempt(lambda: self.save_all(vae)) and self.trouble:
            say("minivae: saved again")
            self.trouble = False

    def save_all(self, vae: Any) -> None:
        """Everything that belongs together, in a folder that may have been removed."""
        self.folder.hold()
        place = self.folder.place
        if self.told == 0 or not (place / CONFIG).exists():
            for name in FIGURE_NAMES:  # of the model before it was trained on
                (place / FIGURES / f"{name}.png").unlink(missing_ok=True)
            self.write_texts(vae)
        if vae.history_:
            persistence.save(vae, place / MODEL, parameters=vae.trainer_.best.parameters, run=self.run)
        self.save(vae, self.run)

    def attempt(self, act: Callable[[], None]) -> bool:
        """Whether it could be done; otherwise one line says why not."""
        try:
            act()
        except OSError as error:
            if not self.trouble:
                found = f"{error.strerror or error}: {error.filename}" if error.filename else error
                say(f"minivae: cannot save ({found}); the training goes on, and it is tried again")
            self.trouble = True
            return False
        return True

    # ---- Its files

    def write_texts(self, vae: Any) -> None:
        """config.json, and history.csv from its first line on."""
        text = json_text(self.config | {"seed": vae.seed_}, indent=2) + "\n"
        write_atomically(self.folder.place / CONFIG, lambda file: file.write(text.encode()))
        self.told = 0
        self.add_to_history(vae.history_)

    def add_to_history(self, history: list[dict[str, Any]]) -> None:
        """The lines of history.csv that are missing. Written whole after each epoch, its bytes would grow as a square.

        On Windows a program that shows a file keeps others from writing it. That ends no training: the model has it all.
        """
        path = self.folder.place / HISTORY
        try:
            new = [flat(record) for record in history[self.told :]]
            if self.told == 0 or self.told > len(history) or any(row.keys() - self.names for row in new):
                rows = [flat(record) for record in history]
                self.names = dict.fromkeys(name for row in rows for name in row)  # older records have fewer
                text = table(self.names, [{name: name for name in self.names}, *rows])
                write_atomically(path, lambda file: file.write(text.encode()))
            elif new:
                lines, self.told = table(self.names, new), 0  # where it fails it may hold half a line
                with open(path, "a", newline="") as file:
                    file.write(lines)
        except PermissionError as error:
            if not path.exists() or not os.access(path.parent, os.W_OK):
                raise
            if not self.locked:
                why = f"({error.strerror}), close the program that has it open; {MODEL} has it too"
                say(f"minivae: {path} cannot be written {why}")
            self.locked = True
            return
        self.told, self.locked = len(history), False

    def complete(self, vae: Any) -> None:
        """After the training: all files. Where that fails the model is saved where it can be, and OSError says so."""
        self.run["stopped"] = vae.stopped_
        try:
            self.folder.hold()
            self.write_texts(vae)
            persistence.save(vae, self.folder.place / MODEL, run=self.run)
            if self.pending is not None:
                self.save(vae, self.run)
        except OSError as error:
            where = ""
            with suppress(OSError):
                aside = Path(tempfile.gettempdir()) / f"minivae-{self.folder.path.name}-{os.getpid()}.npz"
                persistence.save(vae, aside, run=self.run)
                where = f"; the model is in {aside}"
            raise OSError(f"{self.folder.path} cannot be written ({error.strerror or error}){where}") from error


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """kl_per_dim becomes the columns kl_0, kl_1, ..."""
    parts = {f"kl_{j}": value for j, value in enumerate(record["kl_per_dim"])}
    return {name: value for name, value in record.items() if name != "kl_per_dim"} | parts


def table(names: Iterable[str], rows: list[dict[str, Any]]) -> str:
    """Rows as CSV, without a head."""
    text = io.StringIO()
    csv.DictWriter(text, [*names], lineterminator="\n").writerows(rows)
    return text.getvalue()
