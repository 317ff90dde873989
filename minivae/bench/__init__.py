"""minivae bench: how fast a training step, a kernel and a whole training are here, and how far from the limit.

Step: each contender (our backends; PyTorch and JAX where they are installed) runs in its own process, from the same
weights, on the same batches and noise, and prints its first losses. Only where they agree with the NumPy reference is it
timed. Contenders take turns, because machines drift, and a turn starts from the initial weights. A row gives the median
over the rounds, the least and the largest, and the ratio to the floor: all matrix products of this step and nothing else,
on NumPy's BLAS, in the same round.

Kernels: each kernel of each backend is compared with the reference, then timed, and set against the machine's measured
ceilings: a large copy in GB/s, a large matrix product in GFLOP/s.

End to end: whole processes, start-up included: PyTorch's VAE example against `minivae train mnist`; peak memory, installed
size, import time.

    configs -> contenders, peers, kernels -> worker (one process) -> runner (all of them) -> endtoend, report
"""
