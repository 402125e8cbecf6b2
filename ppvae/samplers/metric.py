"""Metrics of the latent space of a trained VAE."""

from typing import Any, Literal

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from ppvae.distributions.base import base_law
from ppvae.infer.sites import latents
from ppvae.inputs import check_finite, integer, to_tensors
from ppvae.manifolds import PosteriorCovarianceMetric, PullbackMetric
from ppvae.random import seeded
from ppvae.samplers.centroids import k_means, k_medoids
from ppvae.vae import VAE, check_vae_interface, device_and_dtype, first_traces, quiet

__all__ = ["pullback_metric", "riemannian_metric"]


def riemannian_metric(
    vae: VAE,
    data: Any,
    num_centroids: int = 100,
    centroids: Literal["k-medoids", "k-means", "random", "all"] = "k-medoids",
    temperature: float | None = None,
    regularization: float = 0.01,
    decay: float = 0.0,
    *,
    seed: int | None = 0,
    batch_size: int = 4096,
) -> PosteriorCovarianceMetric:
    r"""The metric of the posterior covariances of a trained VAE with one Gaussian latent.

    .. math::
        G(z) = \sum_i \Sigma(x_i)^{-1} \omega_i(z) + \lambda e^{-\tau |z|^2} I, \qquad
        \omega_i(z) = \exp\left( -(z - \mu(x_i))^\top \Sigma(x_i)^{-1} (z - \mu(x_i)) / \rho^2 \right)

    with the sum over the centroids, a choice of the embeddings :math:`\mu(x_i)` of the data.

    :param vae: a model/guide pair whose guide has one latent, diagonal normal or multivariate normal.
    :param data: x, shape (n, *vae.shape), or a tuple (x, *given).
    :param num_centroids: N; not read with ``centroids="all"``.
    :param centroids: which embeddings: medoids, those nearest to means, a random choice, or all.
    :param temperature: :math:`\rho`; where None, the largest distance of a centroid to the nearest other one.
    :param regularization: :math:`\lambda`.
    :param decay: :math:`\tau`.
    :param seed: seed of the choice; where None the global generator is used and moved.
    :raises ValueError: if the guide has several latents or one that is not Gaussian, or the data are fewer than N.

    Source: Chadebec and Allassonnière (2022), https://arxiv.org/abs/2209.07370, algorithm 1
    """
    mean, precision = _gaussian(vae, data, batch_size)
    chosen = _choose(mean, num_centroids, centroids, seed)
    return PosteriorCovarianceMetric(mean[chosen], precision[chosen], temperature, regularization, decay)


def _choose(mean: Tensor, N: int, how: str, seed: int | None) -> Tensor:
    n = mean.shape[0]
    if how == "all":
        return torch.arange(n, device=mean.device)
    ways = {
        "k-medoids": k_medoids,
        "k-means": k_means,
        "random": lambda z, k: torch.randperm(len(z))[:k].sort().values.to(z.device),
    }
    if how not in ways:
        raise ValueError(f'centroids: expected "k-medoids", "k-means", "random" or "all", got {how!r}')
    if not 1 <= N <= n:
        raise ValueError(f"num_centroids: expected within 1 and the {n} data, got {N}")
    with seeded(seed):
        return ways[how](mean, N)


def _gaussian(vae: VAE, data: Any, batch_size: int) -> tuple[Tensor, Tensor]:
    """Means (n, d) and precisions (n, d) or (n, d, d) of the guide's laws."""
    check_vae_interface(vae)
    batch_size = integer("batch_size", batch_size)
    tensors = to_tensors(vae, data)
    check_finite(tensors[0])
    means, precisions = [], []
    with quiet(vae, seed=0):
        for start in range(0, tensors[0].shape[0], batch_size):
            batch = [tensor[start : start + batch_size] for tensor in tensors]
            sites = list(latents(poutine.trace(vae.guide).get_trace(*batch)))
            if len(sites) != 1:
                raise ValueError(
                    f"riemannian_metric: expected a guide with one latent, got {', '.join(s['name'] for s in sites)}"
                )
            law: Any = sites[0]["fn"]
            base = base_law(law)
            rows = (len(batch[0]), *law.event_shape)
            if isinstance(base, Normal) and len(law.event_shape) == 1:
                means.append(base.loc.expand(rows))
                precisions.append(base.scale.expand(rows) ** -2)
            elif isinstance(base, MultivariateNormal):
                means.append(base.loc.expand(rows))
                precisions.append(base.precision_matrix.expand(*rows, rows[-1]))
            else:
                raise ValueError(
                    f"riemannian_metric: expected a normal or multivariate normal guide on R^d at site "
                    f"{sites[0]['name']}, got {type(base).__name__} with event shape {tuple(law.event_shape)}"
                )
    return torch.cat(means), torch.cat(precisions)


def pullback_metric(vae: VAE) -> PullbackMetric:
    """The metric J^T J with J the Jacobian of the mean of p(x | z), of a VAE whose model is given nothing but x.

    Lengths are those of decoded curves, in units of x.

    :param vae: a model/guide pair with one latent, a vector of R^d.
    """
    check_vae_interface(vae)
    device, dtype = device_and_dtype(vae)
    blank = torch.zeros((1, *vae.shape), dtype=dtype, device=device)
    names = [site["name"] for site in latents(first_traces(vae, (blank,))[1])]
    if len(names) != 1:
        raise ValueError(f"pullback_metric: expected a guide with one latent, got {', '.join(names)}")

    def decoder(z: Tensor) -> Tensor:
        learning = torch.is_grad_enabled()  # geodesics differentiate through the metric
        rows = z.reshape(-1, z.shape[-1])
        trace = poutine.Trace()
        trace.add_node(names[0], name=names[0], type="sample", value=rows, is_observed=False, infer={})
        with quiet(vae), torch.set_grad_enabled(learning):
            model = poutine.replay(vae.model, trace=trace)
            law: Any = poutine.trace(model).get_trace(blank.expand(len(rows), *vae.shape)).nodes["x"]["fn"]
        return law.mean.reshape(*z.shape[:-1], *vae.shape)

    return PullbackMetric(decoder, event_dim=len(vae.shape))
