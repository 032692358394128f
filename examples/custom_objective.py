r"""An objective of your own: GSPO (arXiv 2507.18071), whose ratio is that of whole completions.

    diffpo sft sudoku4-base --out runs/base  # once for all examples
    diffpo rl tiny-d1 --out runs/gspo base=runs/base 'budget={steps=20}' \
        objective.kind=examples/custom_objective.py:Gspo objective.loss_aggregation=sequence-mean \
        objective.num_iterations=2

The table takes the class's fields and, besides them, what built-in objectives have in common: advantage, KL term,
number of iterations, aggregation of the tokens' losses.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from diffpo.objective.base import Credit, Groups, PolicyLoss, token_loss


@dataclass(frozen=True)
class Gspo:
    """loss_i = -min(s_i A_i, clip(s_i, 1 - clip, 1 + clip_high) A_i), for the completion i as a whole, with
    s_i = exp(mean over the scored tokens of log p - log p_old), the geometric mean of its tokens' ratios.

    Every token carries its completion's loss, so with `loss_aggregation = "sequence-mean"` the loss of a batch is the
    mean over its completions, as in the paper. The clips are the paper's; s_i stays much nearer to 1 than a token's
    ratio does. Log-probabilities are those of the estimator, as everywhere: of a diffusion model they are surrogates.
    """

    clip: float = 3e-4
    clip_high: float = 4e-4
    requires: ClassVar[Literal["none"]] = "none"
    """The credit needs no likelihoods."""

    def credit(self, groups: Groups) -> Credit:
        """Return the advantages [Q, G] of the completions."""
        return Credit(groups.advantage)

    def __call__(
        self, logp: Tensor, old_logp: Tensor, behaviour_logp: Tensor, credit: Tensor, is_scored: Tensor
    ) -> PolicyLoss:
        """Return the loss of every token [B, L]; `logp` carries the gradient, `credit` [B] is the advantage."""
        tokens = is_scored.sum(dim=1).clamp(min=1)
        ratio = ((logp - old_logp).masked_fill(~is_scored, 0.0).sum(dim=1) / tokens).exp()
        free = ratio * credit
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip_high) * credit
        loss = -torch.minimum(free, clipped)

        def of_every_token(of_completion: Tensor) -> Tensor:
            return of_completion[:, None].expand_as(logp)

        return token_loss(of_every_token(loss), of_every_token(ratio), of_every_token(clipped < free))
