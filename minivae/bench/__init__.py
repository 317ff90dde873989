"""minivae bench: how fast a training step, a kernel and a whole training are here, and how far from the limit.

Contenders run in processes of their own, from the same weights, on the same batches and noise. Where their first losses
agree with the NumPy reference they are timed, in turns, as machines drift, each turn from the initial weights. Beside them,
in the same round, the roofline: what the multiply-adds and the bytes of a step take at least on this machine.

    configs -> contenders, peers, kernels -> runner -> tables -> report
"""
