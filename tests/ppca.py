"""Probabilistic PCA in closed form (Tipping and Bishop 1999), which is what a VAE of identity layers is (Lucas et al. 2019).

p(x|z) = N(x; W z + m, s^2 I).   With the eigenvalues e_1 >= e_2 >= ... and eigenvectors U of the data's covariance (by n)
W_j = u_j sqrt(e_j - s^2), or 0 where e_j <= s^2;   at its best s^2 is the mean of e_{Z+1}, ..., e_D
q(z_j|x) = N( w_j (x - m) / e_j, s^2 / e_j ), the posterior itself, whose covariance is diagonal as the W_j are orthogonal
"""

from __future__ import annotations

import math

import numpy as np

from minivae.architecture import Architecture
from minivae.network import Bound, Network, backward_program, forward_program
from minivae.parameters import views


class Optimum:
    """Of data x [n, D] with Z latents, at the best s^2 or at a given one: log_p (nats per row), s2, used [Z], kl [Z], W."""

    def __init__(self, x, Z, s2=None):
        self.x, self.Z, D = x, Z, x.shape[1]
        self.mean = x.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
        self.e, self.U = values[::-1], vectors[:, ::-1]
        self.fixed, self.s2 = s2, self.e[Z:].mean() if s2 is None else s2
        e = np.maximum(self.e[:Z], self.s2)  # of x's covariance under the model
        self.used = self.e[:Z] > self.s2
        self.W = (self.U[:, :Z] * np.sqrt(e - self.s2)).T
        self.encoder, self.logvar = (self.W / e[:, None]).T, np.log(self.s2 / e)
        self.kl = 0.5 * np.log(e / self.s2)  # mean over the rows of KL( q(z_j|x) || p(z_j) )
        model = np.concatenate([e, np.full(D - Z, self.s2)])
        self.log_p = -0.5 * (D * math.log(2 * math.pi) + np.sum(np.log(model) + self.e / model))

    def architecture(self):
        sigma = "learned" if self.fixed is None else math.sqrt(self.fixed)
        return Architecture(self.x.shape[1], self.Z, (), "identity", "gaussian", sigma)

    def network(self, kernels, shift=0.0, widen=1.0):
        """The optimum as a network in float64; q's mean shifted, and its sigma widened, by so many of its sigmas."""
        network, Z = Network(self.architecture(), kernels, "float64"), self.Z
        flat = np.zeros(network.parameters.size)
        named = views(flat, network.layout)
        named["encoder.0.W"][:, :Z], named["decoder.0.W"][...], named["decoder.0.b"][...] = (
            self.encoder,
            self.W,
            self.mean,
        )
        named["encoder.0.b"][:Z] = -self.mean @ self.encoder + shift * np.exp(self.logvar / 2)
        named["encoder.0.b"][Z:] = self.logvar + 2 * math.log(widen)
        if self.fixed is None:
            named["log_sigma"][...] = 0.5 * math.log(self.s2)
        network.set_parameters(flat)
        return network


def density(x, W, m, s2):
    """The mean over the rows of log N(x; m, W^T W + s^2 I), which is log p(x) of any linear VAE."""
    covariance = W.T @ W + s2 * np.eye(x.shape[1])
    distance = np.mean(np.sum((x - m) @ np.linalg.inv(covariance) * (x - m), axis=1))
    return -0.5 * (np.linalg.slogdet(2 * np.pi * covariance)[1] + distance)


def exact(network, x):
    """A function of the flat parameters: the loss in expectation over q, and its gradient, without an error of sampling.

    Of a linear decoder nll is quadratic in eps, so that any points do that have the mean 0 and the covariance I of eps: the
    2 Z points +-sqrt(Z) e_j.
    """
    Z = network.arch.latent_dim
    bound = Bound(n_samples=2 * Z)
    program = forward_program(network.arch, bound) + backward_program(network.arch, bound)
    work = network.workspace(program, len(x), 2 * Z)
    work.put("x", x)
    work.put("eps", np.tile(math.sqrt(Z) * np.concatenate([np.eye(Z), -np.eye(Z)]), (len(x), 1)))

    def loss_and_gradient(parameters):
        network.set_parameters(parameters)
        work.run(len(x), beta=1.0)
        loss = float(np.mean(work.get("nll")) + np.sum(work.get("kl_mean")))
        return loss, np.array(network.kernels.to_host(network.gradient))

    return loss_and_gradient


def with_spectrum(e, n=12, seed=0):
    """Data [n, D] whose covariance (by n) has exactly these eigenvalues, and some mean."""
    rng = np.random.default_rng(seed)
    white = rng.normal(size=(n, len(e)))
    white = np.linalg.qr(white - white.mean(axis=0))[0] * math.sqrt(n)
    turn = np.linalg.qr(rng.normal(size=(len(e), len(e))))[0]
    return (white * np.sqrt(e)) @ turn + rng.normal(size=len(e))
