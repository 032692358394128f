r"""An estimator of your own: mean-field, but most tokens are scored with some others of their completion visible.

    diffpo sft sudoku4-base --out runs/base  # once for all examples
    diffpo rl tiny-d1 --out runs/hints base=runs/base 'budget={steps=20}' \
        'estimator={kind="examples/custom_estimator.py:Hints", share=0.5}'

The table is given as a whole, since `tiny-d1` has keys of its own estimator in it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffpo.core.canvas import canvas_at, full_attention_mask
from diffpo.core.rollout import Rollout
from diffpo.likelihood.scoring_plan import ScoringPlan


@dataclass(frozen=True)
class Hints:
    """Show each token with probability `share`, and score the others on that canvas: log p(o_i | the tokens shown).

    A shown token cannot be scored where it is visible, so it is scored on the fully masked completion, as in
    mean-field. Each token is scored on one canvas, so importance weights are possible. It may be scored given tokens
    that were committed after it, so this is no conditional of the rollout's order. `share` = 0 is mean-field.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"share is {self.share}; give a number from 0 to below 1")

    def draw(self, rollout: Rollout, generator: torch.Generator) -> Tensor:
        """Return which tokens are shown, bool [B, L], on the CPU as the generator is."""
        return torch.rand(rollout.completion_ids.shape, generator=generator) < self.share

    def __call__(self, rollout: Rollout, draw: Tensor, mask_id: int) -> ScoringPlan:
        """Return 2 B canvases, the fully masked ones first, and for each token [B, L] the one on which it is scored."""
        batch, length = rollout.completion_ids.shape
        is_shown = draw.to(rollout.completion_ids.device)
        hinted = torch.cat([rollout.prompt_ids, torch.where(is_shown, rollout.completion_ids, mask_id)], dim=1)
        canvas = torch.cat([canvas_at(rollout, 0, mask_id), hinted])
        row = torch.arange(batch, device=canvas.device)[:, None]
        source = torch.where(is_shown, row, batch + row)
        # The fully masked canvas is the same for all completions of a prompt: `shared` makes it one denoiser call.
        return ScoringPlan(canvas, full_attention_mask(rollout.prompt_mask, length).repeat(2, 1), source).shared()
