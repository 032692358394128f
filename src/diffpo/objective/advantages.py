"""Advantages: credit relative to the other completions of the same prompt. Axes: Q prompts, G completions of each.

None of them changes when a constant is added to all rewards of a prompt.
"""

from jaxtyping import Float
from torch import Tensor

Reward = Float[Tensor, "Q G"]


def group_centered(reward: Reward) -> Reward:
    """reward - group mean: what d1's code does."""
    return reward - reward.mean(dim=1, keepdim=True)


def group_standardized(reward: Reward, eps: float = 1e-4) -> Reward:
    """(reward - group mean) / group std: GRPO. Blows small differences up to unit size in groups that nearly agree."""
    return group_centered(reward) / (reward.std(dim=1, keepdim=True) + eps)


def batch_standardized(reward: Reward, eps: float = 1e-4) -> Reward:
    """(reward - group mean) / std of that over the batch: keeps the relative size of groups, so trade-offs stay."""
    centered = group_centered(reward)
    return centered / (centered.std() + eps)


def leave_one_out(reward: Reward) -> Reward:
    """reward - mean of the other completions (RLOO): G / (G - 1) times the centred reward."""
    group = reward.shape[1]
    return group_centered(reward) * (group / (group - 1))
