"""Every kernel of every backend under pytest-benchmark, compared with the reference before it is timed.

    python -m pytest benchmarks/bench_kernels.py

`minivae bench --suite kernels` measures the same calls, each backend in its own process, against the machine's ceilings.
"""

from __future__ import annotations

import pytest

from minivae.bench import configs, kernels
from minivae.kernels import MODULES, availability, load

CASES = {case.name: case for case in kernels.cases(configs.parse(configs.DESIGN[0]))}


@pytest.mark.parametrize("backend", MODULES)
@pytest.mark.parametrize("name", CASES)
def test_kernel(benchmark, name, backend):
    works, reason = availability(backend)
    if not works:
        pytest.skip(f"backend {backend}: {reason}")
    case, module = CASES[name], load(backend)
    assert kernels.case_deviation(module, case) <= configs.TOLERANCE
    call, _ = kernels.bind_case(module, case)
    benchmark.group = name

    def run():
        call()
        module.synchronize()

    benchmark(run)
