"""What every estimator makes: canvases, and for each token the ones on which it is scored."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffpo.core.canvas import unique_canvases
from diffpo.core.rollout import Rollout


@dataclass(frozen=True)
class UpperBound:
    """How SPG (arXiv 2510.09541) reads completions of negative advantage: `mix` EUBO + (1 - `mix`) ELBO."""

    beta: float
    mix: float


@dataclass(frozen=True)
class ScoringPlan:
    """Canvases to show the denoiser, and for every token the canvas, or the K canvases, on which it is scored."""

    canvas: Int[Tensor, "R N"]
    attention_mask: Bool[Tensor, "R N"]
    source: Int[Tensor, "*K B L"]
    weight: Float[Tensor, "*K B L"] | None = None
    """What each of the K readings of a token counts; 0: it is not read there. None: one canvas for each token."""
    upper: UpperBound | None = None
    """None: completions of negative advantage are read like the others."""

    def shared(self) -> "ScoringPlan":
        """The same views with equal canvases merged."""
        canvas, attention_mask, place = unique_canvases(self.canvas, self.attention_mask)
        return replace(self, canvas=canvas, attention_mask=attention_mask, source=place[self.source])

    def is_read(self, is_scored: Bool[Tensor, "B L"]) -> Bool[Tensor, "*K B L"]:
        """Which readings the scored tokens need."""
        return is_scored if self.weight is None else is_scored & (self.weight > 0)

    def total(self, values: Float[Tensor, "*K B L"]) -> Float[Tensor, "B L"]:
        """The weighted sum of a token's readings; with one canvas for each token, the reading itself."""
        return values if self.weight is None else (self.weight * values).sum(dim=0)


@runtime_checkable
class Estimator(Protocol):
    """`draw` makes the randomness of one batch, rows first; calling the estimator with it gives the views."""

    def draw(self, rollout: Rollout, generator: torch.Generator) -> Tensor: ...

    def __call__(self, rollout: Rollout, draw: Tensor, mask_id: int) -> ScoringPlan: ...
