"""The records that objectives take and give, and the protocol that they follow."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffpo.core.options import LossAggregation

TokenLogp = Float[Tensor, "B L"]

Requires = Literal["none", "old", "current"]
"""Which log-likelihoods of completions a credit is computed from. none; old: those of the reference and the old policy,
once for each batch; current: also those of the policy as it stands, at every iteration."""


@dataclass(frozen=True)
class Groups:
    """What a credit may be computed from: Q prompts with G completions of each.

    Log-likelihoods are surrogates, sums over scored tokens, in nats.
    """

    reward: Float[Tensor, "Q G"]
    advantage: Float[Tensor, "Q G"]
    reference_logp: Float[Tensor, "Q G"] | None = None
    old_logp: Float[Tensor, "Q G"] | None = None
    current_logp: Float[Tensor, "Q G"] | None = None


@dataclass(frozen=True)
class Credit:
    """How much each completion counts, with its sign, and how that came about. It carries no gradient."""

    value: Float[Tensor, "Q G"]
    weight: Float[Tensor, "Q G"] | None = None
    """Weights within each group, which sum to 1. None: the objective has none."""
    proximal: Float[Tensor, " Q"] | None = None
    """The step towards the target that was taken for each prompt."""


@dataclass(frozen=True)
class PolicyLoss:
    """The loss of every token, and statistics about it that carry no gradient. See `token_loss` for a short form."""

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
    """An objective answers two questions: how much does each completion count, and what is then each token's loss?

    One whose loss does not use `old_logp` may say so by a class attribute `has_ratio` = False, which spares passes.
    """

    @property
    def requires(self) -> Requires: ...

    def credit(self, groups: Groups, /) -> Credit:
        """Return the credit of whole groups, before a batch is split into micro-batches."""
        ...

    def __call__(
        self,
        logp: TokenLogp,
        old_logp: TokenLogp,
        behaviour_logp: TokenLogp,
        credit: Float[Tensor, " B"],
        is_scored: Bool[Tensor, "B L"],
        /,
    ) -> PolicyLoss:
        """Return the loss of every token of some whole completions.

        `logp` and `old_logp` are surrogates of the policy as it stands, which carries the gradient, and as it was when
        the batch was drawn; tokens that are not scored have log-probability 0, and their loss is not counted.
        """
        ...


def needs_old_logp(objective: Objective) -> bool:
    """Return whether the objective compares the policy with the one that drew the batch: a ratio, or its credit."""
    return getattr(objective, "has_ratio", True) or objective.requires == "current"


def token_loss(
    loss: Float[Tensor, "B L"], policy_ratio: Float[Tensor, "B L"], is_clipped: Bool[Tensor, "B L"] | None = None
) -> PolicyLoss:
    """Return the record of a loss without importance weights, and without a clip where `is_clipped` is left out."""
    no = torch.zeros_like(policy_ratio, dtype=torch.bool)
    return PolicyLoss(
        loss=loss,
        policy_ratio=policy_ratio.detach(),
        importance_weight=torch.ones_like(policy_ratio),
        is_clipped=no if is_clipped is None else is_clipped,
        is_weighted=no,
        is_capped=no,
        is_floored=no,
    )


def credited_likelihood(credit: Float[Tensor, " B"], logp: TokenLogp, old_logp: TokenLogp) -> PolicyLoss:
    """loss = -credit log p: what objectives without a ratio share; they differ in the credit."""
    return token_loss(-credit[:, None] * logp, (logp - old_logp).detach().exp())


def token_weights(is_scored: Bool[Tensor, "B L"], loss_aggregation: LossAggregation) -> Float[Tensor, "B L"]:
    """Return how much each token counts in the batch's loss; the weights sum to 1.

    `sequence-mean`: every completion counts the same (DiFFPO's 1 / |o_i|). `token-mean`: every token counts the same
    (d1), so that a completion's log-likelihood, a sum over tokens, keeps its proportion to that of others. The weights
    are taken over the whole batch before it is split, so that micro-batches cannot change the loss.
    """
    scored = is_scored.float()
    if loss_aggregation == "token-mean":
        return scored / scored.sum().clamp(min=1)
    return scored / scored.sum(dim=1, keepdim=True).clamp(min=1) / len(scored)
