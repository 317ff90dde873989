"""One contender in one process, so that no thread pool meets another: `python -m minivae.bench.worker CONTENDER CONFIG`.

It prepares the contender and prints one line of JSON: its first losses and a note, or why it is unavailable. Then each
line "run N" on standard input times at least N steps and prints seconds per step. It ends when its input does.
"kernels:BACKEND", "profile" and "ceilings" are contenders as well; their answer to "run N" is a dict.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO

from minivae.bench import configs, contenders, kernels, profile


def prepare(name: str, config: configs.Config) -> contenders.Contender:
    if name == "ceilings":
        return kernels.Ceilings()
    if name == "profile":
        return profile.Profile(config)
    if name.startswith("kernels:"):
        return kernels.Ladder(name.removeprefix("kernels:"), config)
    return contenders.create(name, config)


def work(name: str, config_name: str, lines: TextIO, answers: TextIO) -> None:
    def say(answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        contender = prepare(name, configs.parse(config_name))
        first: dict[str, Any] = {"status": "ready", "note": contender.note, "losses": contender.losses()}
        if isinstance(contender, kernels.Ladder):
            first["deviations"] = contender.deviations
            first["costs"] = {case.name: (case.bytes, case.flops) for case in contender.cases}
        say(first)
    except contenders.Unavailable as reason:
        return say({"status": "unavailable", "note": str(reason)})
    for line in lines:
        command, number = line.split()
        if command != "run" or int(number) < 1:
            raise ValueError(f"{line.strip()!r} is not a command; write run N with N at least 1")
        say(contender.run(int(number)))


def main() -> None:
    # Libraries may print: whatever they say goes to standard error, and the answers have standard output to themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    work(sys.argv[1], sys.argv[2], sys.stdin, answers)


if __name__ == "__main__":
    main()
