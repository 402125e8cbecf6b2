r"""Likelihood of frames of axes, R ~ R d with d in D_2, such as the mechanisms of earthquakes.

.. math::
    p(R \mid z) = \frac14 \sum_{d \in D_2} \mathrm{MatrixFisher}(R d; F(z)), \qquad
    R = (t, b, p) \mapsto (t t^T, b b^T, p p^T)

The encoder reads the projections on the three axes, nine numbers each: they are the same for the four frames of one
datum and different for other data. As likelihood and encoder depend on the axes alone, ELBO and log-likelihood do not
depend on which of the four frames was stored.

Reference: Orthogonal axial frames: Statistics of ambiguous rotations (Arnold, Jupp & Schaeben, 2018)
    https://doi.org/10.1016/j.jmva.2017.10.007
"""

from torch import Tensor, nn

from ppvae.distributions.frame_average import FrameAverage
from ppvae.distributions.matrix_fisher import MatrixFisher
from ppvae.nn.registration import records_options

__all__ = ["FrameLikelihood"]


class FrameLikelihood(nn.Module):
    """p(R | z): the matrix Fisher law with parameter h, averaged over the four frames; data of shape (3, 3).

    Densities are with respect to the volume of SO(3), 8 pi^2 in total.

    ::

        SphericalVAE((3, 3), dim=3, likelihood=FrameLikelihood())

    >>> import torch
    >>> law = FrameLikelihood()(torch.eye(3), 2)
    >>> flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    >>> torch.allclose(law.log_prob(torch.eye(3)), law.log_prob(flip))
    True
    """

    features = 1
    in_features = 3
    given = ()

    @records_options
    def __init__(self) -> None:
        super().__init__()

    def forward(self, h: Tensor, event_dim: int) -> FrameAverage:
        """The law for features (..., 3, 3).

        :raises ValueError: for data that are not of shape (3, 3).
        """
        if event_dim != 2 or h.shape[-2:] != (3, 3):
            raise ValueError(f"FrameLikelihood expected data and features of shape (..., 3, 3), got {tuple(h.shape)}")
        return FrameAverage(MatrixFisher(h))

    def inputs(self, x: Tensor, event_dim: int) -> Tensor:
        """The three projections on the axes, one above the other, (..., 9, 3)."""
        columns = x.mT
        return (columns.unsqueeze(-1) * columns.unsqueeze(-2)).flatten(-3, -2)
