"""Advantages: credit relative to the other completions of the same prompt. Axes: Q prompts, G completions of each.

None of them changes when a constant is added to all rewards of a prompt. A new one needs its function and its name in
`ADVANTAGES`: recipes then know it.

This file imports no torch, so that a recipe can be checked without it: the functions use methods of tensors alone.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jaxtyping import Float

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # jaxtyping then checks shape and dtype of whatever has them

Reward = Float[Tensor, "Q G"]
Advantage = Callable[[Reward], Reward]


def group_centered(reward: Reward) -> Reward:
    """Return reward - group mean: what d1's code does."""
    return reward - reward.mean(dim=1, keepdim=True)


def group_standardized(reward: Reward, eps: float = 1e-4) -> Reward:
    """Return (reward - group mean) / group std: GRPO.

    It blows small differences up to unit size in groups that nearly agree.
    """
    return group_centered(reward) / (reward.std(dim=1, keepdim=True) + eps)


def batch_standardized(reward: Reward, eps: float = 1e-4) -> Reward:
    """Return (reward - group mean) / std of that over the batch.

    It keeps the relative size of groups, so that trade-offs between rewards stay.
    """
    centered = group_centered(reward)
    return centered / (centered.std() + eps)


def leave_one_out(reward: Reward) -> Reward:
    """Return reward - mean of the other completions (RLOO): G / (G - 1) times the centred reward."""
    group = reward.shape[1]
    return group_centered(reward) * (group / (group - 1))


ADVANTAGES: Mapping[str, Advantage] = {
    "group-centered": group_centered,
    "group-std": group_standardized,
    "batch-std": batch_standardized,
    "leave-one-out": leave_one_out,
}
"""The names that recipes give them."""
