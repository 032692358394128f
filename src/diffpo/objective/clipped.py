"""PPO's clipped surrogate, with importance weights: diffu-GRPO, DiFFPO and coupled-GRPO."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffpo.objective.base import Credit, Groups, PolicyLoss, Requires, TokenLogp


@dataclass(frozen=True)
class ClippedSurrogate:
    """PPO's clipped objective on the surrogate policy, with a truncated correction towards the behaviour policy.

    loss = -w min(r A, clip(r, 1 - clip, 1 + clip) A), with
    r = surrogate_new / surrogate_old (`policy_ratio`, the trust region; carries the gradient) and
    w = clip(surrogate_old / behaviour, importance_floor, importance_cap) (`importance_weight`, the off-policy
    correction; carries none). `importance_on = "positive"` leaves w = 1 where A is not positive.

    DiFFPO (arXiv 2510.02212, eq. 12) with `importance_cap`; diffu-GRPO (arXiv 2504.12216) with `importance_cap=None`,
    which sets w = 1. The floor and `importance_on` are ours.
    """

    clip: float = 0.2
    importance_cap: float | None = None
    importance_floor: float = 0.0
    importance_on: Literal["all", "positive"] = "all"

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
        ratio = (logp - old_logp).exp()
        free = (old_logp - behaviour_logp).exp()
        cap = torch.inf if self.importance_cap is None else self.importance_cap
        is_meant = credit > 0 if self.importance_on == "positive" else torch.ones_like(credit, dtype=torch.bool)
        is_weighted = (is_meant & (self.importance_cap is not None))[:, None].expand_as(ratio)
        weight = torch.where(is_weighted, free.clamp(self.importance_floor, cap), 1.0)
        loss, is_clipped = clipped_loss(ratio, credit[:, None], self.clip)
        return PolicyLoss(
            loss=weight * loss,
            policy_ratio=ratio.detach(),
            importance_weight=weight,
            is_clipped=is_clipped,
            is_weighted=is_weighted,
            is_capped=is_weighted & (free >= cap),
            is_floored=is_weighted & (free < self.importance_floor),
        )


def clipped_loss(
    ratio: Float[Tensor, "*n"], advantage: Float[Tensor, "*#n"], clip: float
) -> tuple[Float[Tensor, "*n"], Bool[Tensor, "*n"]]:
    """PPO's pessimistic loss -min(r A, clip(r) A), and where the clipped branch was taken (there is no gradient)."""
    free = ratio * advantage
    clipped = ratio.clamp(1 - clip, 1 + clip) * advantage
    return -torch.minimum(free, clipped), clipped < free
