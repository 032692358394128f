"""Score tokens on their views: one denoiser call, then pure functions of what it said."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffpo.core.canvas import flat_index
from diffpo.likelihood.scoring_plan import ScoringPlan
from diffpo.models.denoiser_output import Denoiser, DenoiserOutput, predict


@dataclass(frozen=True)
class Conditionals:
    """What is said at every scored place, once each, and where each completion token finds its own."""

    output: DenoiserOutput
    index: Int[Tensor, "*K B L"]
    """Place in `said`; 0 where a token is not read."""
    is_read: Bool[Tensor, "*K B L"]

    def at(self, which: Bool[Tensor, "*K B L"]) -> DenoiserOutput:
        """What is said of some tokens, one place for each."""
        return self.output.rows(self.index[which])

    def per_token(self, values: Float[Tensor, " M"]) -> Float[Tensor, "*K B L"]:
        """0 where a token is not read."""
        return values[self.index].masked_fill(~self.is_read, 0.0)

    def logp(self, completion_ids: Int[Tensor, "B L"], temperature: float) -> Float[Tensor, "*K B L"]:
        """Log-probability of the given tokens under softmax(logits / temperature), as the sampler drew them.

        0 where a token is not read.
        """
        token = completion_ids.expand(self.index.shape)[self.is_read]
        logp = self.output.logp(self.index[self.is_read], token, temperature)
        return logp.new_zeros(self.index.shape).masked_scatter(self.is_read, logp)

    def kl(self, base: "Conditionals") -> Float[Tensor, "*K B L"]:
        """KL(this || base) of each token's conditional on the same canvases, nats; 0 where a token is not read."""
        return self.per_token(self.output.kl(base.output))


def conditionals(denoiser: Denoiser, views: ScoringPlan, is_scored: Bool[Tensor, "B L"]) -> Conditionals:
    """Ask the denoiser for the conditionals that the scored tokens need, on their own canvases."""
    is_read = views.is_read(is_scored)
    length = is_scored.shape[1]
    position = torch.arange(length, device=views.canvas.device) + views.canvas.shape[1] - length
    position = position.expand(is_read.shape)
    at = torch.zeros_like(views.attention_mask)
    at[views.source[is_read], position[is_read]] = True
    if not is_read.any():
        at[0, -1] = True  # a small micro-batch may mask no scored token; its slots still point at a place
    said = predict(denoiser, views.canvas, views.attention_mask, at)
    slot = torch.where(is_read, flat_index(at)[views.source, position], 0)
    return Conditionals(said, slot, is_read)


def surrogate_logp(
    views: ScoringPlan, logp: Float[Tensor, "*K B L"], is_read: Bool[Tensor, "*K B L"], is_upper: Bool[Tensor, " B"]
) -> Float[Tensor, "B L"]:
    """Each token's surrogate log-probability from its readings: itself, or its share of a bound on the completion's.

    `is_upper`: rows that are read by the upper bound, where the views have one (SPG: those of negative advantage).
    """
    lower = views.total(logp)
    if views.upper is None or views.weight is None:
        return lower
    upper = log_power_mean(logp, views.weight, is_read, views.upper.beta)
    return lower + views.upper.mix * is_upper[:, None] * (upper - lower)


def log_power_mean(
    logp: Float[Tensor, "K B L"], weight: Float[Tensor, "K B L"], is_read: Bool[Tensor, "K B L"], beta: float
) -> Float[Tensor, "B L"]:
    """log(sum_k weight_k p_k^beta) / beta of each token; 0 for a token that no canvas reads, as in SPG's code."""
    scores = (beta * logp + weight.log()).masked_fill(~is_read, -math.inf)
    return (scores.logsumexp(dim=0) / beta).masked_fill(~is_read.any(dim=0), 0.0)
