"""Estimators on the rollout's own canvases: from the fully masked one alone to every recorded step."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from diffpo.core.canvas import canvas_at, full_attention_mask
from diffpo.core.randomness import stratified_uniform, uniform_to_index
from diffpo.core.rollout import Rollout
from diffpo.likelihood.scoring_plan import ScoringPlan


@dataclass(frozen=True)
class MeanField:
    """d1's likelihood (arXiv 2504.12216): every token given the prompt alone, on the fully masked completion.

    With `prompt_mask_rate` > 0 each prompt token is masked with that probability, afresh in every row: d1's
    regulariser, which also gives each completion its own canvas and its own denoiser call.
    """

    prompt_mask_rate: float = 0.15

    def draw(self, rollout: Rollout, generator: torch.Generator) -> Bool[Tensor, "B P"]:
        noise = torch.rand(rollout.prompt_ids.shape, generator=generator)
        return (noise < self.prompt_mask_rate) & rollout.prompt_mask.cpu()

    def __call__(self, rollout: Rollout, draw: Bool[Tensor, "B P"], mask_id: int) -> ScoringPlan:
        batch, length = rollout.completion_ids.shape
        canvas = canvas_at(rollout, 0, mask_id)
        is_hidden = torch.nn.functional.pad(draw.to(canvas.device), (0, length), value=False)
        source = torch.arange(batch, device=canvas.device)[:, None].expand(batch, length)
        attention_mask = full_attention_mask(rollout.prompt_mask, length)
        return ScoringPlan(canvas.masked_fill(is_hidden, mask_id), attention_mask, source).shared()


@dataclass(frozen=True)
class TwoTimesMeanField:
    """DiFFPO's 2-MF likelihood (arXiv 2510.02212): two canvases, fully masked and the rollout's own at a random step.

    Tokens committed before `boundary_step` tau are scored on the fully masked canvas, the others on the canvas that
    the denoiser saw at call tau. tau = 0 is mean-field; tokens committed at call tau itself are scored exactly.
    The paper does not say how tau is drawn within a batch: here one per rollout, uniform over the rollout's own calls
    and stratified over the batch.
    """

    def draw(self, rollout: Rollout, generator: torch.Generator) -> Int[Tensor, " B"]:
        return uniform_to_index(stratified_uniform(len(rollout), 1, generator)[:, 0], rollout.nfe.cpu())

    def __call__(self, rollout: Rollout, draw: Int[Tensor, " B"], mask_id: int) -> ScoringPlan:
        return replay(rollout, draw[:, None], mask_id)


@dataclass(frozen=True)
class ManyTimesMeanField:
    """2-MF with `boundaries` = m canvases for each rollout: fully masked, and its own at m - 1 steps in rising order.

    Each token is scored on the last of them that the sampler had seen when it committed the token. m = 2 is 2-MF; from
    m = 3, a rollout of at most m calls has a boundary at each of them and is scored exactly. The steps of longer ones
    are stratified: one in each of m - 1 equal parts of its calls, and stratified over the batch. Our generalisation:
    DiFFPO stops at two.
    """

    boundaries: int = 4

    def draw(self, rollout: Rollout, generator: torch.Generator) -> Int[Tensor, "B S"]:
        nfe = rollout.nfe.cpu()[:, None]
        count = self.boundaries - 1
        drawn = uniform_to_index(stratified_uniform(len(rollout), count, generator), nfe)
        if self.boundaries == 2:
            return drawn  # as published, where two calls may still draw step 0
        every = torch.arange(1, count + 1).minimum(nfe - 1)
        return torch.where(nfe <= self.boundaries, every, drawn)

    def __call__(self, rollout: Rollout, draw: Int[Tensor, "B S"], mask_id: int) -> ScoringPlan:
        return replay(rollout, draw, mask_id)


@dataclass(frozen=True)
class Exact:
    """Every recorded call again: each token is scored on the canvas that it was drawn from, so surrogate == behaviour.

    CJ-GRPO (arXiv 2509.23924) and the reference that the cheaper estimators are measured against. It costs as many
    canvases as the rollout cost calls, less the shared first one. Nothing is drawn.
    """

    def draw(self, rollout: Rollout, generator: torch.Generator) -> Int[Tensor, "B 0"]:
        return torch.zeros(len(rollout), 0, dtype=torch.long)

    def __call__(self, rollout: Rollout, draw: Int[Tensor, "B 0"], mask_id: int) -> ScoringPlan:
        calls = torch.arange(1, int(rollout.nfe.max()), device=rollout.nfe.device)
        return replay(rollout, calls.minimum(rollout.nfe[:, None] - 1), mask_id)


def replay(rollout: Rollout, boundary_step: Int[Tensor, "B S"], mask_id: int) -> ScoringPlan:
    """Each token on the last canvas that is not later than its own call: fully masked, or one of S in rising order."""
    batch, length = rollout.completion_ids.shape
    boundary_step = boundary_step.to(rollout.nfe.device)
    steps = torch.nn.functional.pad(boundary_step, (1, 0), value=0).unbind(dim=1)
    canvas = torch.cat([canvas_at(rollout, step, mask_id) for step in steps])
    attention_mask = full_attention_mask(rollout.prompt_mask, length).repeat(len(steps), 1)
    passed = (rollout.unmask_step[:, :, None] >= boundary_step[:, None, :]).sum(dim=2)
    row = torch.arange(batch, device=canvas.device)[:, None]
    return ScoringPlan(canvas, attention_mask, passed * batch + row).shared()
