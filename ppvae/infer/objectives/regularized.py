"""An objective with further terms, each of which runs model and guide as it likes."""

from collections.abc import Callable
from typing import Any, Protocol

from pyro.poutine import Trace
from torch import Tensor

from ppvae.infer.objectives.base import TensorELBO
from ppvae.infer.sites import Needs


class Penalty(Protocol):
    """A term of :class:`Regularized`."""

    weight: float  #: what it is multiplied with in the loss

    def __call__(self, model: Callable, guide: Callable, *batch: Tensor) -> Tensor:
        """The term for one batch, a scalar, summed over the data."""


class Regularized(TensorELBO):
    r"""An objective plus weighted penalties.

    .. math::
        \mathrm{loss} = \mathrm{loss}_0 + \sum_j \lambda_j \, P_j

    ::

        Regularized(ELBO(), invariance=Invariance(RandomSimilarity(), weight=0.1))

    The history shows each penalty, without its weight, by the name that it has here. The weight of the KL is that of
    the objective.

    :param objective: any objective.
    :param penalties: the terms, by name.
    :raises ValueError: if there are none, or one has the name of a term of every objective.
    """

    def __init__(self, objective: TensorELBO, **penalties: Penalty):
        taken = sorted({"loss", "elbo", "reconstruction", "kl"} & penalties.keys())
        if not penalties or taken:
            raise ValueError(f"penalties: expected some, by names of their own, got {taken or 'none'}")
        self.objective, self.penalties = objective, penalties
        kl_weight = objective.kl_weight
        super().__init__(objective.num_particles)
        self.max_plate_nesting, self.kl_weight = objective.max_plate_nesting, kl_weight
        self.min_batch, self.max_batch = objective.min_batch, objective.max_batch

    @property
    def kl_weight(self) -> Tensor:  # type: ignore[override]  # the base has a plain attribute
        """The weight of the objective's KL."""
        return self.objective.kl_weight

    @kl_weight.setter
    def kl_weight(self, value: Tensor) -> None:
        self.objective.kl_weight = value

    def traces(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> tuple[Trace, Trace]:
        return self.objective.traces(model, guide, *args, **kwargs)

    def terms(self, model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
        return self.objective.terms(model_trace, guide_trace)

    def needs(self, name: str) -> Needs:
        return self.objective.needs(name)

    def measure(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> tuple[dict[str, Tensor], Tensor | float]:
        terms, number_of_data = self.objective.measure(model, guide, *args, **kwargs)
        return self._with_penalties(terms, model, guide, *args), number_of_data

    def all_terms(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The terms of the objective, and the penalties, for one batch of data."""
        return self._with_penalties(self.objective.all_terms(model, guide, *args, **kwargs), model, guide, *args)

    def _with_penalties(
        self, terms: dict[str, Tensor], model: Callable, guide: Callable, *args: Any
    ) -> dict[str, Tensor]:
        values = {name: penalty(model, guide, *args) for name, penalty in self.penalties.items()}
        loss = terms["loss"] + sum(self.penalties[name].weight * value for name, value in values.items())
        return {**terms, "loss": loss, **values}
