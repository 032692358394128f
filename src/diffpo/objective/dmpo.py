"""DMPO (arXiv 2510.08233): match a target, the reference tilted by the reward, from samples of the old policy."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffpo.objective.base import Credit, Groups, PolicyLoss, Requires, TokenLogp, credited_likelihood, token_loss


@dataclass(frozen=True)
class Target:
    """The distribution p*(o) ~ p_old(o)^(1 - c) (p_reference(o) exp(reward / alpha))^c.

    Samples of the old policy represent it with weights w = softmax(c (log p_reference - log p_old + reward / alpha))
    over the completions of the prompt.

    c is `proximal`, a step from the old policy (0) to the tilted reference (1). With `min_ess` it is for each prompt
    the largest one up to `proximal` that keeps the weights' effective sample size at this share of G.
    """

    alpha: float = 0.04
    proximal: float = 1.0
    min_ess: float | None = None

    def weights(self, groups: Groups) -> tuple[Float[Tensor, "Q G"], Float[Tensor, "Q G"], Float[Tensor, " Q"]]:
        """Return the weights towards the target, those towards its mirror image, whose reward is negated, and c."""
        reference, old = likelihoods(groups)
        score = reference - old + groups.reward / self.alpha
        step = proximal_step(score, self.proximal, self.min_ess)
        mirrored = reference - old - groups.reward / self.alpha
        return (step * score).softmax(dim=1), (step * mirrored).softmax(dim=1), step[:, 0]


@dataclass(frozen=True)
class DistributionMatching:
    """DMPO's weighted denoising cross-entropy: loss = -G (w - b) log p, with w the weights of `target`.

    Without a baseline b it is the cross-entropy of the target and the policy, whose minimum is the target. All its
    weights are positive, which raises wrong answers too; so b is subtracted. `mean`: 1 / G. `unbias`:
    softmax(log p - log p_old) of the policy as it stands, which adds nothing to the expected gradient however far the
    policy has moved. `neg` (the default of the published code): the weights towards the mirrored reward.
    """

    target: Target = Target()
    baseline: Literal["none", "mean", "unbias", "neg"] = "neg"

    has_ratio: ClassVar[bool] = False

    @property
    def requires(self) -> Requires:
        return "current" if self.baseline == "unbias" else "old"

    def credit(self, groups: Groups) -> Credit:
        weight, mirrored, step = self.target.weights(groups)
        size = weight.shape[1]
        match self.baseline:
            case "none":
                baseline = torch.zeros_like(weight)
            case "mean":
                baseline = torch.full_like(weight, 1 / size)
            case "unbias":
                if groups.current_logp is None or groups.old_logp is None:
                    raise ValueError("the baseline 'unbias' needs the policy's log-likelihoods")
                baseline = (groups.current_logp - groups.old_logp).softmax(dim=1)
            case "neg":
                baseline = mirrored
        return Credit(size * (weight - baseline), weight, step)

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
class Wddo:
    """DMPO's weighted discriminator: tell samples of the target from samples of the old policy by the likelihood ratio.

    loss = -G w log sigmoid(beta g) - fake log sigmoid(-beta g), with g = log p - log p_old of the completion. For
    `beta` = `fake` = 1 its minimum is the target. Every token carries its completion's loss, so that the mean over
    tokens of a completion is that loss.
    """

    target: Target = Target()
    beta: float = 1.0
    fake: float = 1.0

    @property
    def requires(self) -> Requires:
        return "old"

    def credit(self, groups: Groups) -> Credit:
        weight, _, step = self.target.weights(groups)
        return Credit(weight.shape[1] * weight, weight, step)

    def __call__(
        self,
        logp: TokenLogp,
        old_logp: TokenLogp,
        behaviour_logp: TokenLogp,
        credit: Float[Tensor, " B"],
        is_scored: Bool[Tensor, "B L"],
    ) -> PolicyLoss:
        gap = self.beta * (logp - old_logp).sum(dim=1)
        loss = -credit * logsigmoid(gap) - self.fake * logsigmoid(-gap)
        return token_loss(loss[:, None].expand_as(logp), (logp - old_logp).detach().exp())


def likelihoods(groups: Groups) -> tuple[Float[Tensor, "Q G"], Float[Tensor, "Q G"]]:
    """Return the log-likelihoods of the reference and the old policy. Raises ValueError where they are not there."""
    if groups.reference_logp is None or groups.old_logp is None:
        raise ValueError("a target distribution is made of the reference's likelihoods: give the update its reference")
    return groups.reference_logp, groups.old_logp


def effective_share(weight: Float[Tensor, "Q G"]) -> Float[Tensor, " Q"]:
    """Effective sample size of each group's weights (they sum to 1) over G: from 1 / G to 1."""
    return 1 / (weight.shape[1] * (weight**2).sum(dim=1))


def proximal_step(score: Float[Tensor, "Q G"], largest: float, min_ess: float | None) -> Float[Tensor, "Q 1"]:
    """For each group the largest c up to `largest` for which the effective share of softmax(c score) is at least
    `min_ess`. It falls as c grows, from 1 at c = 0, so halving finds it."""
    high = torch.full_like(score[:, :1], largest)
    if min_ess is None:
        return high

    def reaches(step: Float[Tensor, "Q 1"]) -> Bool[Tensor, "Q 1"]:
        return effective_share((step * score).softmax(dim=1))[:, None] >= min_ess

    low = torch.zeros_like(high)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = torch.where(reaches(middle), middle, low), torch.where(reaches(middle), high, middle)
    return low
