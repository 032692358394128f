"""What every objective takes and gives."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffpo.core.options import LossAggregation

TokenLogp = Float[Tensor, "B L"]

Requires = Literal["none", "old", "now"]
"""Log-likelihoods that a credit is made of: none; the base's and the old policy's, once for each batch; and also those
of the policy as it stands, at every inner step."""


@dataclass(frozen=True)
class Groups:
    """What credit may be made of: Q prompts, G completions of each. Log-likelihoods are sums over scored tokens."""

    reward: Float[Tensor, "Q G"]
    advantage: Float[Tensor, "Q G"]
    base_logp: Float[Tensor, "Q G"] | None = None
    old_logp: Float[Tensor, "Q G"] | None = None
    current_logp: Float[Tensor, "Q G"] | None = None


@dataclass(frozen=True)
class Credit:
    """How much each completion counts, and what it was made of; no gradient."""

    value: Float[Tensor, "Q G"]
    weight: Float[Tensor, "Q G"] | None = None
    """The group's weights, G of which sum to 1. None: the objective has none."""
    proximal: Float[Tensor, " Q"] | None = None
    """The step towards the target that was taken for each prompt."""


@dataclass(frozen=True)
class PolicyLoss:
    """Loss of every token, and the statistics of how it came about (no gradient)."""

    loss: Float[Tensor, "B L"]
    policy_ratio: Float[Tensor, "B L"]
    importance_weight: Float[Tensor, "B L"]
    """1 where a token has none."""
    is_clipped: Bool[Tensor, "B L"]
    is_weighted: Bool[Tensor, "B L"]
    """Whether the token has an importance weight."""
    is_capped: Bool[Tensor, "B L"]
    is_floored: Bool[Tensor, "B L"]


@runtime_checkable
class Objective(Protocol):
    @property
    def requires(self) -> Requires: ...

    def credit(self, groups: Groups, /) -> Credit: ...

    def __call__(
        self, logp: TokenLogp, old_logp: TokenLogp, behaviour_logp: TokenLogp, credit: Float[Tensor, " B"], /
    ) -> PolicyLoss: ...


def unweighted(loss: Float[Tensor, "B L"], logp: TokenLogp, old_logp: TokenLogp) -> PolicyLoss:
    """The record of a loss without clip and importance weights."""
    ratio = (logp - old_logp).detach().exp()
    no = torch.zeros_like(ratio, dtype=torch.bool)
    return PolicyLoss(loss, ratio, torch.ones_like(ratio), no, no, no, no)


def weighed_likelihood(credit: Float[Tensor, " B"], logp: TokenLogp, old_logp: TokenLogp) -> PolicyLoss:
    """loss = -credit log p: what objectives without a ratio share; they differ in the credit."""
    return unweighted(-credit[:, None] * logp, logp, old_logp)


def token_weights(is_scored: Bool[Tensor, "B L"], loss_aggregation: LossAggregation) -> Float[Tensor, "B L"]:
    """How much each token counts in the batch's loss; they sum to 1.

    `sequence-mean`: every completion counts the same (DiFFPO's 1 / |o_i|); `token-mean`: every token does (d1), so that a
    completion's log-likelihood, a sum over tokens, keeps its proportion to that of others. Taken over the whole batch
    before it is split, so that micro-batches cannot change the loss.
    """
    scored = is_scored.float()
    if loss_aggregation == "token-mean":
        return scored / scored.sum().clamp(min=1)
    return scored / scored.sum(dim=1, keepdim=True).clamp(min=1) / len(scored)
