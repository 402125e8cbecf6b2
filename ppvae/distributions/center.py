"""The centre of a law: the point that stands for it when one point is asked for."""

import functools

from pyro.distributions import Categorical, Delta, Independent
from torch import Tensor
from torch.distributions import Distribution, Normal
from torch.distributions import Independent as TorchIndependent

from ppvae.distributions.gaussian_mixture import GaussianMixture
from ppvae.distributions.power_spherical import PowerSpherical
from ppvae.distributions.von_mises_fisher import VonMisesFisher


@functools.singledispatch
def center(law: Distribution) -> Tensor:
    """A point of the law's space that stands for the law. On a flat space it is the mean. On a curved space an average
    of coordinates would leave the space, so there it is the mean direction or the mean rotation.

    A law of one's own is told by ``center.register(MyLaw)(function)``, where the function takes the law.

    :raises ValueError: if the law has no centre (a uniform law on a closed manifold) or none that is known.

    >>> import torch
    >>> from ppvae.distributions import VonMisesFisher
    >>> center(VonMisesFisher(torch.tensor([0.0, 1.0]), 3.0))
    tensor([0., 1.])
    """
    try:
        mean = law.mean
    except NotImplementedError:
        raise ValueError(
            f"{type(law).__name__}: it has no mean, and no centre is registered for it; say which point stands for it "
            f"by ppvae.distributions.center.register({type(law).__name__})(lambda law: ...), or ask for draws with "
            "sample=True"
        ) from None
    if law.support is not None and not law.support.check(mean).all():
        raise ValueError(
            f"{type(law).__name__}: its mean lies outside its support; register a centre with center.register"
        )
    return mean


@center.register(Independent)
@center.register(TorchIndependent)
def _(law: TorchIndependent) -> Tensor:
    return center(law.base_dist)


@center.register(Categorical)
def _(law: Categorical) -> Tensor:
    return law.mode


@center.register(Delta)
def _(law: Delta) -> Tensor:
    return law.v


@center.register(Normal)
@center.register(GaussianMixture)
def _(law: Normal | GaussianMixture) -> Tensor:
    return law.mean


@center.register(VonMisesFisher)
@center.register(PowerSpherical)
def _(law: VonMisesFisher | PowerSpherical) -> Tensor:
    return law.loc
