"""The settings of a policy update."""

from dataclasses import dataclass

from diffpo.core.options import KlEstimator, LossAggregation
from diffpo.likelihood import Estimator
from diffpo.objective.base import Objective


@dataclass(frozen=True)
class PolicyUpdate:
    """The loss of a policy update, and the number of steps for each batch."""

    estimator: Estimator
    objective: Objective
    loss_aggregation: LossAggregation
    kl_coef: float
    kl_estimator: KlEstimator
    temperature: float
    """Temperature of the rollouts: tokens are scored under the distribution that they were drawn from."""
    num_iterations: int
    redraw: bool
    """Whether each iteration has a draw of the estimator of its own; else one draw serves them all."""
    micro_batch_size: int | None
    """Completions of one forward and backward pass in each process; None: all that it has."""
    grad_clip: float
    drop_zero_std_groups: bool = False
    drop_unsolved_groups: bool = False
    drop_same_speed_groups: bool = False
    right_nll_coef: float = 0.0
    """Weight of the negative log-likelihood of right completions, a mean over them."""

    @property
    def num_draws(self) -> int:
        """How many draws of the estimator an update needs."""
        return self.num_iterations if self.redraw else 1
