"""Objectives: from token log-probabilities and advantages to a loss per token."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TokenLogp = Float[Tensor, "B L"]


@dataclass(frozen=True)
class PolicyLoss:
    """Loss of every token, and the statistics of how it came about (no gradient)."""

    loss: Float[Tensor, "B L"]
    policy_ratio: Float[Tensor, "B L"]
    importance_weight: Float[Tensor, "B L"]
    is_clipped: Bool[Tensor, "B L"]


@dataclass(frozen=True)
class ClippedSurrogate:
    """PPO's clipped objective on the surrogate policy, with a truncated correction towards the behaviour policy.

    loss = -w min(r A, clip(r, 1 - clip, 1 + clip) A), with
    r = surrogate_new / surrogate_old (`policy_ratio`, the trust region; carries the gradient) and
    w = min(weight_cap, surrogate_old / behaviour) (`importance_weight`, the off-policy correction; carries none).

    DiFFPO (arXiv 2510.02212, eq. 12) with `weight_cap`; diffu-GRPO (arXiv 2504.12216) with `weight_cap=None`, which
    sets w = 1.
    """

    clip: float = 0.2
    weight_cap: float | None = None

    def __call__(
        self, logp: TokenLogp, old_logp: TokenLogp, behaviour_logp: TokenLogp, advantage: Float[Tensor, " B"]
    ) -> PolicyLoss:
        ratio = (logp - old_logp).exp()
        if self.weight_cap is None:
            weight = torch.ones_like(ratio)
        else:
            weight = (old_logp - behaviour_logp).exp().clamp(max=self.weight_cap)
        loss, is_clipped = clipped_loss(ratio, advantage[:, None], self.clip)
        return PolicyLoss(weight * loss, ratio.detach(), weight, is_clipped)


def clipped_loss(
    ratio: Float[Tensor, "*n"], advantage: Float[Tensor, "*#n"], clip: float
) -> tuple[Float[Tensor, "*n"], Bool[Tensor, "*n"]]:
    """PPO's pessimistic loss -min(r A, clip(r) A), and where the clipped branch was taken (there is no gradient)."""
    free = ratio * advantage
    clipped = ratio.clamp(1 - clip, 1 + clip) * advantage
    return -torch.minimum(free, clipped), clipped < free


def token_weights(is_scored: Bool[Tensor, "B L"], normalise: Literal["sequence", "token"]) -> Float[Tensor, "B L"]:
    """How much each token counts in the batch's loss; they sum to 1.

    `sequence`: every completion counts the same (DiFFPO's 1 / |o_i|); `token`: every token does (d1). Taken over the
    whole batch before it is split, so that micro-batches cannot change the loss.
    """
    scored = is_scored.float()
    if normalise == "token":
        return scored / scored.sum().clamp(min=1)
    return scored / scored.sum(dim=1, keepdim=True).clamp(min=1) / len(scored)
