"""The result of every estimator: canvases, and for each token the ones on which it is scored."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffpo.core.canvas import unique_canvases
from diffpo.core.rollout import Rollout


@dataclass(frozen=True)
class UpperBound:
    """How SPG (arXiv 2510.09541) scores completions of negative advantage: `mix` EUBO + (1 - `mix`) ELBO."""

    beta: float
    mix: float


@dataclass(frozen=True)
class ScoringPlan:
    """R canvases for the denoiser, and for every token the canvas, or the K canvases, on which it is scored."""

    canvas: Int[Tensor, "R N"]
    attention_mask: Bool[Tensor, "R N"]
    source: Int[Tensor, "*K B L"]
    """Index, from 0 to R - 1, of the canvas on which each token is scored; [K, B, L] where there are K of them."""
    weight: Float[Tensor, "*K B L"] | None = None
    """Weight of the token's log-probability on each of K canvases; 0: it is not scored there. None: one canvas each."""
    loss_weight: Float[Tensor, "B L"] | None = None
    """How often each token's loss counts, where some are drawn to stand for all; 0: it is not scored. None: once each.

    Unlike `weight` it is outside of the log-probability: a policy ratio is that of one token, whatever it counts."""
    upper: UpperBound | None = None
    """None: completions of negative advantage are scored like the others."""

    def shared(self) -> "ScoringPlan":
        """Return the same plan with equal canvases merged, so that the denoiser computes each of them only once.

        Canvases are equal if their tokens and attention masks are; `source` is renumbered. Completions of one prompt
        share their fully masked canvas, for example.
        """
        canvas, attention_mask, which = unique_canvases(self.canvas, self.attention_mask)
        return replace(self, canvas=canvas, attention_mask=attention_mask, source=which[self.source])

    def is_needed(self, is_scored: Bool[Tensor, "B L"]) -> Bool[Tensor, "*K B L"]:
        """Return on which canvases the scored tokens must be scored."""
        if self.loss_weight is not None:
            is_scored = is_scored & (self.loss_weight > 0)
        return is_scored if self.weight is None else is_scored & (self.weight > 0)

    def total(self, values: Float[Tensor, "*K B L"]) -> Float[Tensor, "B L"]:
        """Return the weighted sum of each token's values over its canvases; with one canvas each, the values."""
        return values if self.weight is None else (self.weight * values).sum(dim=0)


@runtime_checkable
class Estimator(Protocol):
    """A surrogate likelihood: on which canvases is each token of a rollout scored?"""

    def draw(self, rollout: Rollout, generator: torch.Generator) -> Tensor:
        """Return the randomness of one batch, [B, ...] with a row for each completion, on the generator's device.

        The batch keeps it, so that the old, the new and the reference policy are scored on the same canvases.
        """
        ...

    def __call__(self, rollout: Rollout, draw: Tensor, mask_id: int) -> ScoringPlan:
        """Return the plan for B completions of L tokens, given their rows of the draw.

        A token must be masked (`mask_id`) on every canvas on which it is scored. End with `ScoringPlan.shared()`.
        """
        ...
