r"""A mixture of Gaussians with full covariances, fitted to the embeddings by expectation maximisation [1, 2]:

.. math::
    r_{ik} = \frac{w_k N(z_i; m_k, C_k)}{\sum_j w_j N(z_i; m_j, C_j)}, \qquad
    w_k = \frac1n \sum_i r_{ik}, \quad
    m_k = \frac{\sum_i r_{ik} z_i}{n w_k}, \quad
    C_k = \frac{\sum_i r_{ik} (z_i - m_k)(z_i - m_k)^\top}{n w_k} + \varepsilon I.

References:
    [1] Maximum Likelihood from Incomplete Data via the EM Algorithm (Dempster, Laird and Rubin, 1977)
        https://doi.org/10.1111/j.2517-6161.1977.tb01600.x
    [2] From Variational to Deterministic Autoencoders (Ghosh et al., 2020), where it is fitted to embeddings
        https://arxiv.org/abs/1903.12436
"""

import warnings
from typing import Any

import torch
from pyro.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from torch import Tensor

from ppvae.inputs import integer
from ppvae.predict import decode
from ppvae.random import seeded
from ppvae.samplers.samples import Samples, embeddings
from ppvae.vae import VAE, check_vae_interface


def mixture(
    vae: VAE, data: Any, num_samples: int, *given: Any, num_components: int = 10, seed: int | None = None
) -> Samples:
    """Fit a mixture of Gaussians to the embeddings of the data, and draw from it.

    :param vae: a VAE with one latent, a vector of R^dim.
    :param data: the data x, shape (n, *vae.shape), or a tuple (x, *given) of arrays.
    :param num_samples: number of draws.
    :param given: what the model is conditioned on, num_samples rows each.
    :param num_components: number of Gaussians; each has a covariance of its own.
    :param seed: seed of the fit and the draws; where None the global generator is used and moved.
    :raises ValueError: if the latent is not Euclidean, or there are fewer data than components.
    """
    check_vae_interface(vae)
    num_samples = integer("num_samples", num_samples)
    mu = embeddings(vae, data, "mixture")
    with seeded(seed):
        z = fit_mixture(mu, num_components).sample((num_samples,)).to(mu.dtype)
    return Samples(decode(vae, z, *given).cpu().numpy(), z.cpu().numpy())


def fit_mixture(
    z: Tensor, num_components: int = 10, *, tolerance: float = 1e-4, max_steps: int = 500, seed: int | None = None
) -> MixtureSameFamily:
    """The mixture at a local maximum of the likelihood of points z, from seeds drawn far apart (k-means++).

    :param z: points, shape (n, d), of any floating dtype; the fit is in float64.
    :param num_components: number K of Gaussians, at most n.
    :param tolerance: gain of a step, in nats per point, at which it ends.
    :param max_steps: number of steps at most; a RuntimeWarning tells where they were not enough.
    :param seed: seed of the start; where None the global generator is used and moved.
    :return: a law on R^d in float64, its density with respect to the volume dz.
    :raises ValueError: if there are fewer points than components.
    """
    z = torch.as_tensor(z).double()
    n, d = z.shape
    if not 1 <= num_components <= n:
        raise ValueError(f"num_components: expected within 1 and the {n} points, got {num_components}")
    variance = z.var(0, correction=0).mean()
    # A component with fewer than d + 1 points would have a singular covariance, and an infinite likelihood.
    floor = 1e-6 * (variance if variance > 0 else torch.ones_like(variance)) * torch.eye(d).to(z)
    with seeded(seed):
        centers = z[far_apart(z, num_components)]
    r = torch.nn.functional.one_hot(torch.cdist(z, centers).argmin(1), num_components).to(z)
    before = -torch.inf
    for _ in range(max_steps):
        mass = r.sum(0)
        # An empty component keeps its place with no weight.
        mean = torch.where(mass[:, None] > 0, r.mT @ z / mass.clamp(min=1e-300)[:, None], centers)
        covariance = torch.stack(
            [
                (weight * (z - m).mT) @ (z - m) / total.clamp(min=1e-300) + floor
                for weight, m, total in zip(r.mT, mean, mass, strict=True)
            ]
        )
        normals = MultivariateNormal(mean, covariance)
        law = MixtureSameFamily(Categorical(mass / n), normals)
        log_joint = (mass / n).log() + normals.log_prob(z[:, None])
        after = log_joint.logsumexp(1).mean().item()
        if after - before < tolerance:
            return law
        before, r = after, log_joint.softmax(1)
    warnings.warn(
        f"fit_mixture: {max_steps} steps of EM still gained more than {tolerance} nats per point each; "
        "raise max_steps or tolerance",
        RuntimeWarning,
        stacklevel=2,
    )
    return law


def far_apart(z: Tensor, k: int) -> Tensor:
    """The rows of k of the points, each drawn in proportion to its squared distance from those before it (k-means++).

    Source: Arthur and Vassilvitskii (2007), https://dl.acm.org/doi/10.5555/1283383.1283494
    """
    chosen = [int(torch.randint(len(z), ()))]
    square = (z - z[chosen[0]]).square().sum(1)
    while len(chosen) < k:
        # Where all points are among the chosen, any does.
        weight = square if square.max() > 0 else torch.ones_like(square)
        chosen.append(int(torch.multinomial(weight, 1)))
        square = torch.minimum(square, (z - z[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen, device=z.device)
