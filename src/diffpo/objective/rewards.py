"""Rewards made of several numbers of a completion. Axes: Q prompts, G completions of each."""

import torch
from jaxtyping import Float
from torch import Tensor

SAME = 1e-6
"""Values of a group that differ by less are equal, but for rounding."""


def standardized_apart(
    grade: Float[Tensor, "Q G"], tokens_per_call: Float[Tensor, "Q G"], speed_coef: float
) -> Float[Tensor, "Q G"]:
    """Return z(grade) + speed_coef z(tokens per call), each standardised within the group: LightningRL's reward (arXiv
    2603.13319).

    Standardised apart, the two count the same whatever their units and their spread; where all completions of a prompt
    are right, speed alone is left, and the other way round.
    """
    return z_scores(grade) + speed_coef * z_scores(tokens_per_call)


def z_scores(values: Float[Tensor, "Q G"]) -> Float[Tensor, "Q G"]:
    """Return (value - group mean) / group standard deviation (of the G values themselves); 0 in a group of equals."""
    std, mean = torch.std_mean(values, dim=1, keepdim=True, correction=0)
    has_spread = values.amax(dim=1, keepdim=True) - values.amin(dim=1, keepdim=True) > SAME
    return torch.where(has_spread, (values - mean) / std.clamp(min=torch.finfo(values.dtype).tiny), 0.0)
