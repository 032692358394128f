"""Score tokens by a plan: one denoiser call, then pure functions of its output."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffpo.core.canvas import flat_index
from diffpo.likelihood.scoring_plan import ScoringPlan
from diffpo.models.denoiser import Denoiser
from diffpo.models.denoiser_output import DenoiserOutput


@dataclass(frozen=True)
class Conditionals:
    """The denoiser's output at every position that is needed, once each, and which row of it each token uses.

    K is the number of canvases on which a token is scored; the axis is left out where that is one.
    """

    output: DenoiserOutput
    index: Int[Tensor, "*K B L"]
    """Row of `output`; 0 where the token is not scored on that canvas."""
    is_needed: Bool[Tensor, "*K B L"]
    """Whether the token is scored on that canvas."""

    def at(self, which: Bool[Tensor, "*K B L"]) -> DenoiserOutput:
        """Return the output for some tokens, one row for each."""
        return self.output.rows(self.index[which])

    def per_token(self, values: Float[Tensor, " M"]) -> Float[Tensor, "*K B L"]:
        """Give each token the value of its row, 0 where it is not scored."""
        return values[self.index].masked_fill(~self.is_needed, 0.0)

    def logp(self, completion_ids: Int[Tensor, "B L"], temperature: float) -> Float[Tensor, "*K B L"]:
        """Return the log-probability of each token under softmax(logits / temperature), as the sampler drew it.

        In nats; 0 where a token is not scored.
        """
        token = completion_ids.expand(self.index.shape)[self.is_needed]
        logp = self.output.logp(self.index[self.is_needed], token, temperature)
        return logp.new_zeros(self.index.shape).masked_scatter(self.is_needed, logp)

    def kl(self, reference: "Conditionals") -> Float[Tensor, "*K B L"]:
        """Return KL(this || reference) of each token's conditional on the same canvases.

        In nats; 0 where a token is not scored.
        """
        return self.per_token(self.output.kl(reference.output))


def conditionals(denoiser: Denoiser, plan: ScoringPlan, is_scored: Bool[Tensor, "B L"]) -> Conditionals:
    """Call the denoiser on the plan's canvases, at the positions of the scored tokens alone."""
    is_needed = plan.is_needed(is_scored)
    length = is_scored.shape[1]
    position = torch.arange(length, device=plan.canvas.device) + plan.canvas.shape[1] - length
    position = position.expand(is_needed.shape)
    at = torch.zeros_like(plan.attention_mask)
    at[plan.source[is_needed], position[is_needed]] = True
    if not is_needed.any():
        at[0, -1] = True  # a small micro-batch may mask no scored token; its indices still need a row
    output = denoiser.predict(plan.canvas, plan.attention_mask, at)
    index = torch.where(is_needed, flat_index(at)[plan.source, position], 0)
    return Conditionals(output, index, is_needed)


def surrogate_logp(
    plan: ScoringPlan, logp: Float[Tensor, "*K B L"], is_needed: Bool[Tensor, "*K B L"], is_upper: Bool[Tensor, " B"]
) -> Float[Tensor, "B L"]:
    """Combine each token's log-probabilities on its canvases into its surrogate log-probability.

    With one canvas it is that log-probability, with several the token's share of a bound on the completion's.
    `is_upper`: rows that take the upper bound, where the plan has one (SPG: those of negative advantage).
    """
    lower = plan.total(logp)
    if plan.upper is None or plan.weight is None:
        return lower
    upper = log_power_mean(logp, plan.weight, is_needed, plan.upper.beta)
    return lower + plan.upper.mix * is_upper[:, None] * (upper - lower)


def log_power_mean(
    logp: Float[Tensor, "K B L"], weight: Float[Tensor, "K B L"], is_needed: Bool[Tensor, "K B L"], beta: float
) -> Float[Tensor, "B L"]:
    """Return log(sum_k weight_k p_k^beta) / beta of each token; 0 for a token that no canvas masks, as in SPG's
    code."""
    scores = (beta * logp + weight.log()).masked_fill(~is_needed, -math.inf)
    return (scores.logsumexp(dim=0) / beta).masked_fill(~is_needed.any(dim=0), 0.0)
