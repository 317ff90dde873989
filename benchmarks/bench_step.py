"""The training step of every contender under pytest-benchmark, its losses compared with the reference before it is timed.

    python -m pytest benchmarks/bench_step.py -k 64-64-2

One measured round is a block of ready batches. All contenders share this process and its thread pools: good for watching
one backend change; to compare contenders use `minivae bench`, which gives each its own process.
"""

from __future__ import annotations

import functools

import pytest

from minivae.bench import configs, contenders

pytestmark = pytest.mark.filterwarnings("default")  # the peers' own deprecations are not ours to fix


@functools.cache
def reference_losses(name):
    return contenders.create("numpy", configs.parse(name)).losses()


@pytest.mark.parametrize("contender", contenders.NAMES)
@pytest.mark.parametrize("name", configs.DESIGN)
def test_step(benchmark, name, contender):
    config = configs.parse(name)
    try:
        made = contenders.create(contender, config)
    except contenders.Unavailable as reason:
        pytest.skip(f"{contender}: {reason}")
    made.choose_threads()
    made.compile()
    assert configs.deviation(made.losses(), reference_losses(name)) <= configs.TOLERANCE
    benchmark.group = f"{name}, {made.steps} steps"

    def run():
        made.block()
        if made.wait is not None:
            made.wait()

    benchmark.pedantic(run, setup=made.reset, rounds=10, warmup_rounds=1)
