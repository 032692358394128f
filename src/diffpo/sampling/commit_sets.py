"""Sets of positions that a call commits, when each position has a probability of its own of being in the set.

The set is drawn position by position, independently; where nothing is drawn, the position of the largest probability is
committed. So that every call commits something the law of a set is not a plain product: what the empty draw would have
had goes to the best position alone.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffpo.sampling.rules import best


@dataclass(frozen=True)
class DrawnSet:
    """The set that was drawn in each row, and what is left of the random numbers."""

    is_commit: Bool[Tensor, "B L"]
    logp: Float[Tensor, " B"]
    """Log-probability of the set, in nats."""
    uniform: Float64[Tensor, "B L"]
    """Numbers for the next call: uniform again at every position that was not drawn, and independent of what was."""


def draw_set(
    logit: Float[Tensor, "B L"], is_candidate: Bool[Tensor, "B L"], uniform: Float64[Tensor, "B L"]
) -> DrawnSet:
    """Draw a set from the logits of the candidates' probabilities, with one uniform number in [0, 1) for each position.

    A position is drawn where its number u is below its probability p. Where it is not, (u - p) / (1 - p) is uniform
    again, so that one number per position serves all calls of a row.
    """
    probability = logit.double().sigmoid()
    is_drawn = is_candidate & (uniform < probability)
    is_commit = is_drawn | (best(logit, is_candidate, 1) & ~is_drawn.any(dim=1, keepdim=True))
    left = torch.where(is_candidate & ~is_drawn, (uniform - probability) / (1 - probability), uniform)
    return DrawnSet(is_commit, set_logp(logit, is_commit, is_candidate), left)


def set_logp(
    logit: Float[Tensor, "B L"], is_commit: Bool[Tensor, "B L"], is_candidate: Bool[Tensor, "B L"]
) -> Float[Tensor, " B"]:
    """Return the log-probability of each row's set, in nats, differentiable in the logits.

    It is sum(log p) over the set + sum(log(1 - p)) over the other candidates. The set of the best position alone has
    that of the empty draw, too: (p + (1 - p)) prod(1 - p of the others), so that its own factor is 1.
    """
    each = torch.where(is_commit, logsigmoid(logit), logsigmoid(-logit)).masked_fill(~is_candidate, 0.0)
    is_best = best(logit, is_candidate, 1)
    is_best_alone = (is_commit == is_best).all(dim=1, keepdim=True)
    return each.masked_fill(is_best & is_best_alone, 0.0).sum(dim=1)


def expected_set(
    logit: Float[Tensor, "B L"], is_candidate: Bool[Tensor, "B L"], factor: float = 1.0
) -> Bool[Tensor, "B L"]:
    """Return the likeliest positions of each row, as many as a draw has on average, rounded down; at least one.

    How dUltra's code decodes without drawing. `factor` multiplies that number: above 1 it decodes faster.
    """
    probability = logit.double().sigmoid().masked_fill(~is_candidate, 0.0)
    count = (factor * probability.sum(dim=1, keepdim=True)).floor().clamp(min=1)
    rank = logit.masked_fill(~is_candidate, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return is_candidate & (rank < count)
