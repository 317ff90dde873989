"""minivae bench: how fast a training step, a kernel and a whole training are here, and how far from the limit.

Contenders run in processes of their own, from the same weights, on the same batches and noise. Where their first losses
agree with the NumPy reference they are timed, in turns, as machines drift, each turn from the initial weights. The floor
below them: the matrix products of the step and nothing else, on NumPy's BLAS, in the same round.

    configs -> contenders, peers, kernels -> runner -> report
"""
