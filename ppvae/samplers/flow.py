r"""A masked autoregressive flow [1] fitted to the embeddings by maximum likelihood.

.. math::
    z = m + L \, (f_1 \circ \pi_1 \circ \dots \circ f_K \circ \pi_K)(u), \quad u \sim N(0, I), \qquad
    f(y)_i = y_i \, \sigma_i(f(y)_{<i}) + \mu_i(f(y)_{<i}),

where m and :math:`L L^\top` are mean and covariance of the embeddings, so that the networks work on numbers of order
one, and :math:`\pi` are permutations. A density takes one pass of the networks, a draw takes d. On a line f is a
spline. The transforms are Pyro's own.

On a curved space the flow lives in the tangent space at the Fréchet mean m of the embeddings, and exp_m carries its
draws to the space. It is fitted to :math:`\log_m z_i`: where exp_m is many to one, as on a sphere, that is the density
of one preimage of each point, a lower bound of the density on the space.

References:
    [1] Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017)
        https://arxiv.org/abs/1705.07057
"""

import math
from functools import partial
from typing import Any

import torch
from pyro.distributions import Normal, TransformedDistribution
from pyro.distributions.transforms import LowerCholeskyAffine, Permute, affine_autoregressive, spline
from torch import Tensor, nn

from ppvae.inputs import integer
from ppvae.manifolds import tangent
from ppvae.random import seeded
from ppvae.samplers.samples import Samples, samples
from ppvae.samplers.space import embeddings
from ppvae.vae import VAE, check_vae_interface


def flow(vae: VAE, data: Any, num_samples: int, *given: Any, epochs: int = 20, seed: int | None = None) -> Samples:
    """Fit a flow to the embeddings of the data, and draw from it.

    :param vae: a VAE with latents on any manifolds.
    :param data: the data x, shape (n, *vae.shape), or a tuple (x, *given) of arrays.
    :param num_samples: number of draws.
    :param given: what the model is conditioned on, num_samples rows each.
    :param epochs: passes of the fit over the embeddings.
    :param seed: seed of the fit and the draws; where None the global generator is used and moved.
    :raises ValueError: if a latent is discrete, or the embeddings lie in a hyperplane.
    """
    check_vae_interface(vae)
    num_samples = integer("num_samples", num_samples)
    space, mu, _ = embeddings(vae, data, "flow")
    M = space.product
    m = M.mean(mu)
    with seeded(seed):
        v = fit_flow(M.coordinates(m, M.logmap(m.expand_as(mu), mu)), epochs=epochs).sample((num_samples,))
    m = m.expand(num_samples, *m.shape)
    return samples(vae, space, M.expmap(m, tangent(M, m, v)), *given)


def fit_flow(
    z: Tensor,
    *,
    num_layers: int = 5,
    hidden: int = 128,
    epochs: int = 20,
    batch_size: int = 256,
    lr: float = 2e-3,
    seed: int | None = None,
) -> TransformedDistribution:
    """The flow of the best likelihood on a held-out tenth of the points, of those after each epoch of Adam.

    :param z: points, shape (n, d).
    :param num_layers: number K of autoregressive layers.
    :param hidden: width of the two hidden layers in the network of each.
    :param epochs: passes over the other nine tenths; the learning rate falls to 0 along a cosine.
    :param batch_size: points a step.
    :param lr: learning rate at the start.
    :param seed: seed of the fit; where None the global generator is used and moved.
    :return: a law on R^d, its density with respect to the volume dz.
    :raises ValueError: if there are fewer than 20 points, or they lie in a hyperplane.
    """
    z = torch.as_tensor(z).detach()
    n, d = z.shape
    if n < 20:
        raise ValueError(f"fit_flow: expected at least 20 points, got shape {(n, d)}")
    L, failed = torch.linalg.cholesky_ex(z.mT.cov().reshape(d, d))
    if failed:
        raise ValueError("fit_flow: expected points that span R^d, got ones with a singular covariance")
    with seeded(seed):
        order = torch.randperm(n).to(z.device)
        held, points = z[order[: n // 10]], z[order[n // 10 :]]
        make = (
            partial(affine_autoregressive, d, hidden_dims=[hidden, hidden])
            if d > 1
            else partial(spline, 1, count_bins=16, bound=5.0)
        )
        modules = nn.ModuleList(make() for _ in range(num_layers)).to(z)
        layers = [step for f in modules for step in (Permute(torch.randperm(d).to(z.device)), f.inv)]
        base = Normal(z.new_zeros(d), 1.0).to_event(1)
        law = TransformedDistribution(base, [*layers, LowerCholeskyAffine(z.mean(0), L)], validate_args=False)
        optimizer = torch.optim.Adam(modules.parameters(), lr)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * math.ceil(len(points) / batch_size))
        best, weights = math.inf, {}
        for _ in range(epochs):
            for batch in points[torch.randperm(len(points)).to(z.device)].split(batch_size):
                optimizer.zero_grad(set_to_none=True)
                loss = -law.log_prob(batch).mean()
                loss.backward()
                optimizer.step()
                scheduler.step()
                law.clear_cache()
            with torch.no_grad():
                loss = -law.log_prob(held).mean().item()
            law.clear_cache()
            if loss < best:
                best, weights = loss, {name: value.clone() for name, value in modules.state_dict().items()}
    if not weights:
        raise FloatingPointError("fit_flow: the likelihood of the held-out points is NaN after every epoch; lower lr")
    modules.load_state_dict(weights)
    modules.requires_grad_(False)
    return law
