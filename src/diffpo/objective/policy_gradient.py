"""Log-likelihoods times a credit, without a ratio: REINFORCE, SPG and wd1."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from diffpo.objective.base import Credit, Groups, PolicyLoss, Requires, TokenLogp, credited_likelihood


@dataclass(frozen=True)
class Reinforce:
    """loss = -A log p: the policy gradient itself (Williams 1992), right for one step on fresh rollouts.

    With leave-one-out advantages, RLOO (Kool et al. 2019; arXiv 2402.14740). On the sandwich of bounds (`Eubo`), SPG
    (arXiv 2510.09541), which has no ratio either.
    """

    has_ratio: ClassVar[bool] = False

    @property
    def requires(self) -> Requires:
        return "none"

    def credit(self, groups: Groups) -> Credit:
        return Credit(groups.advantage)

    def __call__(
        self,
        logp: TokenLogp,
        old_logp: TokenLogp,
        behaviour_logp: TokenLogp,
        credit: Float[Tensor, " B"],
        is_scored: Bool[Tensor, "B L"],
    ) -> PolicyLoss:
        return credited_likelihood(credit, logp, old_logp)


@dataclass(frozen=True)
class WeightedLikelihood:
    """wd1 (arXiv 2507.08838): likelihoods weighed by w+ - w-, with w+ = softmax(psi A) and w- = softmax(-psi A).

    loss = -G (w+ - w-) log p, the softmax over the G completions of the prompt, so that the mean over completions is
    their sum over the group. To first order in psi it is REINFORCE with 2 psi A.
    """

    psi: float = 1.0

    has_ratio: ClassVar[bool] = False

    @property
    def requires(self) -> Requires:
        return "none"

    def credit(self, groups: Groups) -> Credit:
        size = groups.advantage.shape[1]
        weight = (self.psi * groups.advantage).softmax(dim=1)
        penalty = (-self.psi * groups.advantage).softmax(dim=1)
        return Credit(size * (weight - penalty), weight)

    def __call__(
        self,
        logp: TokenLogp,
        old_logp: TokenLogp,
        behaviour_logp: TokenLogp,
        credit: Float[Tensor, " B"],
        is_scored: Bool[Tensor, "B L"],
    ) -> PolicyLoss:
        return credited_likelihood(credit, logp, old_logp)
