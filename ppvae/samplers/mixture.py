r"""A mixture of normal laws with full covariances, fitted to the embeddings by expectation maximisation [1, 2]:

.. math::
    r_{ik} = \frac{w_k N(z_i; m_k, C_k)}{\sum_j w_j N(z_i; m_j, C_j)}, \qquad
    w_k = \frac1n \sum_i r_{ik}, \quad
    m_k = \arg\min_m \sum_i r_{ik} \, d(m, z_i)^2, \quad
    C_k = \frac{\sum_i r_{ik} \, c_{ik} c_{ik}^\top}{n w_k} + \varepsilon I

with :math:`c_{ik}` the coordinates of :math:`\log_{m_k} z_i` in a frame at :math:`m_k`: on R^d :math:`z_i - m_k`. On a
curved space N is the law of exp at :math:`m_k` of a normal vector (:class:`ppvae.distributions.TangentNormal`); the
step for :math:`m_k, C_k` is then exact for concentrated components, and the fit ends when the likelihood gains no more.

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

from ppvae.distributions import TangentNormal
from ppvae.inputs import integer
from ppvae.manifolds import Euclidean, Manifold, Product
from ppvae.random import seeded
from ppvae.samplers.samples import Samples, samples
from ppvae.samplers.space import embeddings
from ppvae.vae import VAE, check_vae_interface


def mixture(
    vae: VAE, data: Any, num_samples: int, *given: Any, num_components: int = 10, seed: int | None = None
) -> Samples:
    """Fit a mixture of normal laws to the embeddings of the data, and draw from it.

    :param vae: a VAE with latents on any manifolds.
    :param data: the data x, shape (n, *vae.shape), or a tuple (x, *given) of arrays.
    :param num_samples: number of draws.
    :param given: what the model is conditioned on, num_samples rows each.
    :param num_components: number of components; each has a covariance of its own.
    :param seed: seed of the fit and the draws. Without one they come from the global generator and move it.
    :raises ValueError: if a latent is discrete, or there are fewer data than components.
    """
    check_vae_interface(vae)
    num_samples = integer("num_samples", num_samples)
    space, mu, _ = embeddings(vae, data, "mixture")
    with seeded(seed):
        z = fit_mixture(mu, num_components, _flat(space.product)).sample((num_samples,)).to(mu.dtype)
    return samples(vae, space, z, *given)


def _flat(product: Product) -> Manifold:
    """R^d, where all factors are whole vector spaces: its laws are those of Pyro."""
    whole = all(isinstance(M, Euclidean) and M.is_whole for M in product.factors)
    return Euclidean() if whole else product


def fit_mixture(
    z: Tensor,
    num_components: int = 10,
    manifold: Manifold | None = None,
    *,
    tolerance: float = 1e-4,
    max_steps: int = 500,
    seed: int | None = None,
) -> MixtureSameFamily:
    """The mixture at a local maximum of the likelihood of points z, from seeds drawn far apart (k-means++).

    :param z: points, shape (n, \\*event), of any floating dtype; the fit is in float64.
    :param num_components: number K of components, at most n.
    :param manifold: where the points lie; R^d by default.
    :param tolerance: gain of a step, in nats per point, at which it ends.
    :param max_steps: number of steps at most; if they do not suffice, a RuntimeWarning says so.
    :param seed: seed of the start. Without one it comes from the global generator and moves it.
    :return: a law in float64, its density with respect to the volume of the manifold.
    :raises ValueError: if there are fewer points than components.
    """
    z, M = torch.as_tensor(z).double(), Euclidean() if manifold is None else manifold
    n, K = z.shape[0], num_components
    if not 1 <= K <= n:
        raise ValueError(f"num_components: expected within 1 and the {n} points, got {K}")
    m = M.mean(z).expand_as(z)
    variance = M.dist(m, z).square().mean() / M.intrinsic_dim(z)
    # A component with fewer than d + 1 points would have a singular covariance, and an infinite likelihood.
    floor = 1e-6 * (variance if variance > 0 else torch.ones_like(variance))
    with seeded(seed):
        means = z[far_apart(z, K, M)]
    each = torch.stack([M.dist(mean.expand_as(z), z) for mean in means], 1)
    r = torch.nn.functional.one_hot(each.argmin(1), K).to(z)
    before = -torch.inf
    for _ in range(max_steps):
        w = r.sum(0)
        means = torch.stack([_moved(M, mean, z, weight) for mean, weight in zip(means, r.mT, strict=True)])
        tril = torch.stack([_cholesky(M, mean, z, weight, floor) for mean, weight in zip(means, r.mT, strict=True)])
        components = _normal(M, means, tril)
        law = MixtureSameFamily(Categorical(w / n), components, validate_args=False)
        log_joint = (w / n).log() + components.log_prob(z.unsqueeze(1))
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


def _moved(M: Manifold, mean: Tensor, z: Tensor, weight: Tensor) -> Tensor:
    """The Fréchet mean with these weights, by steps from the last one; an empty component stays where it is."""
    total = weight.sum().clamp(min=1e-300)
    share = (weight / total).reshape(-1, *[1] * (z.dim() - 1))
    for _ in range(1 if isinstance(M, Euclidean) else 4):
        mean = M.expmap(mean, (share * M.logmap(mean.expand_as(z), z)).sum(0))
    return mean


def _cholesky(M: Manifold, mean: Tensor, z: Tensor, weight: Tensor, floor: Tensor) -> Tensor:
    m = mean.expand_as(z)
    c = M.coordinates(m, M.logmap(m, z))
    covariance = (weight * c.mT) @ c / weight.sum().clamp(min=1e-300)
    return torch.linalg.cholesky(covariance + floor * torch.eye(c.shape[1], dtype=c.dtype, device=c.device))


def _normal(M: Any, means: Tensor, tril: Tensor) -> Any:
    if isinstance(M, Euclidean):
        return MultivariateNormal(means, scale_tril=tril)
    # Points in float32 are off the manifold by more than the rounding of float64.
    return TangentNormal(M, means, tril, _num_wraps(M, means), validate_args=False)


def _num_wraps(M: Any, means: Tensor, most: int = 200) -> int:
    """How many turns along closed geodesics are counted: as many as leave at most this many terms in a density.

    A product of n circles or spheres has (2K + 1)^n, and a component in many dimensions hardly ever goes around.
    """
    one, num_wraps = means[:1], 0
    while num_wraps < 4 and len(M.preimages(one, one, num_wraps + 1)[0]) <= most:
        num_wraps += 1
    return num_wraps


def far_apart(z: Tensor, k: int, manifold: Manifold | None = None) -> Tensor:
    """The rows of k of the points, each drawn in proportion to its squared distance from those before it (k-means++).

    Source: Arthur and Vassilvitskii (2007), https://dl.acm.org/doi/10.5555/1283383.1283494
    """
    M = Euclidean() if manifold is None else manifold

    def square_from(row: int) -> Tensor:
        return M.dist(z[row].expand_as(z), z).square()

    chosen = [int(torch.randint(len(z), ()))]
    square = square_from(chosen[0])
    while len(chosen) < k:
        # Where all points are among the chosen, any does.
        weight = square if square.max() > 0 else torch.ones_like(square)
        chosen.append(int(torch.multinomial(weight, 1)))
        square = torch.minimum(square, square_from(chosen[-1]))
    return torch.tensor(chosen, device=z.device)
