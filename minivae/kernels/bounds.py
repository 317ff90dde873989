"""The book's third chapter: K samples of z for each example, and the importance-weighted bound that they give.

S = K B samples in all: sample k of example b is row s = b K + k, so that the samples of an example are neighbours. What the
decoder does, it does to S rows; the encoder sees each example once. K = S / B is read off the arrays.

    w_s = p(x|z_s) p(z_s) / q(z_s|x)      L_K = E[ log (1/K) sum_k w_k ]:   L_1 = ELBO <= L_2 <= ... <= log p(x)

L_K is Burda et al. (2016), the estimators of the encoder's gradient Roeder et al. (2017), "stl", and Tucker et al. (2019),
"dreg". With missing cells, where nll is that of the observed ones, this is MIWAE (Mattei and Frellsen 2019).
"""

from __future__ import annotations

import numpy as np

LEAST = 1e-20  # nothing beside 1, and times a gradient a denormal number, with which processors are slow
ESTIMATORS = ("iwae", "stl", "dreg")  # of the encoder's gradient; the decoder's is the same for all


def repeat(y, x):
    """y [S, C]: each row of x [B, C] K times over, once for each sample"""
    y[...] = np.repeat(x, len(y) // len(x), axis=0)


def importance_bound(bound, dnll, terms, nll, kl, z, h, eps, weight, beta):
    """bound [B] = -log (1/K) sum_k w_k,  dnll [S],  from nll [S], z [S, Z], h = [mu | logvar] [B, 2Z], eps [S, Z].

    log w = -nll + beta r,   r = log p(z) - log q(z|x) = 1/2 sum_j ( logvar + eps^2 - z^2 )         as z = mu + sigma eps
    wt_s = w_s / sum_k w_k,                                  the softmax over the samples of an example
    L = sum_b weight_b bound_b     gives     dnll_s = weight_b wt_s,     and     dr_s = -beta dnll_s
    The largest log w is taken out of the sum, so that no exponential overflows; below LEAST of the largest a w is 0.
    terms [B, Z + 1] = [ kl [B, Z] | mean nll ]: what the ELBO of these samples is made of. It is recorded, not trained.
    """
    B = len(bound)
    logvar = h[:, z.shape[1] :]
    ratio = np.sum(eps * eps - z * z, axis=1).reshape(B, -1) + np.sum(logvar, axis=1, keepdims=True)
    log_w = beta * 0.5 * ratio - nll.reshape(B, -1)
    top = log_w.max(axis=1, keepdims=True)
    w = np.exp(log_w - top)
    w[w < LEAST] = 0
    total = w.sum(axis=1, keepdims=True)
    bound[:] = -(top + np.log(total / w.shape[1]))[:, 0]
    dnll[:] = (weight[:, None] * (w / total)).ravel()
    terms[:, :-1] = kl
    terms[:, -1] = nll.reshape(B, -1).mean(axis=1)


def weigh(dout, dnll):
    """dout [S, P] *= dnll [S]: what a loss wrote as the gradient of nll_s becomes that of L."""
    dout[dnll == 0] = 0  # whatever it was: infinity times 0 is no number
    dout *= dnll[:, None]


def importance_backward(dh, dz, z, h, eps, dnll, weight, beta, estimator):
    """dh = [dmu | dlogvar] [B, 2Z] from dz [S, Z], the gradient through nll alone. c = dnll, wt = c / weight:

    iwae   g = dz + beta c z                                   dlogvar = 1/2 sum_k ( g eps sigma - beta c )
    stl    g = dz + beta c ( z - eps / sigma )                 dlogvar = 1/2 sum_k g eps sigma
    dreg   g = that times ( 1 - beta + beta wt )               dlogvar = 1/2 sum_k g eps sigma          dmu = sum_k g
    iwae is the derivative of the bound. stl leaves out that of log q by mu and logvar at fixed z, whose mean is 0 where
    K = 1, and so the noise that it brings where q is right. Reparameterized once more, for any K, that mean is a term in
    wt (1 - wt), which makes dreg. The posterior's (z - mu) / sigma^2 is eps / sigma.
    """
    B, K, sigma = len(dh), len(dz) // len(dh), np.exp(0.5 * h[:, z.shape[1] :])
    e, c = eps.reshape(B, K, -1), dnll.reshape(B, K, 1)
    g = beta * c * z.reshape(B, K, -1) + dz.reshape(B, K, -1)
    if estimator != "iwae":
        g -= beta * c * e / sigma[:, None]
    if estimator == "dreg":
        g *= 1 - beta + beta * c / weight[:, None, None]
    dmu, dlogvar = np.split(dh, 2, axis=1)
    np.sum(g, axis=1, out=dmu)
    np.einsum("bkz,bkz->bz", g, e, out=dlogvar)
    dlogvar *= sigma
    if estimator == "iwae":
        dlogvar -= beta * c.sum(axis=1)
    dlogvar *= 0.5
