"""The exact likelihood from a sample of the rollout's calls: which calls are read, and what each of them counts."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffpo.core.canvas import canvas_at, full_attention_mask
from diffpo.core.options import CallProposal, FirstCall
from diffpo.core.randomness import stratified_uniform
from diffpo.core.rollout import Rollout
from diffpo.likelihood.scoring_plan import ScoringPlan


@dataclass(frozen=True)
class SampledExact:
    """Some of the rollout's own calls stand for all of them: unbiased for the gradient of `Exact`, from few canvases.

    AGRPO (arXiv 2510.04019). `draws` = K calls are read, each token of theirs on the canvas that it was drawn from.
    Call s is read with probability pi_s = min(1, K q_s), and the loss of its tokens then counts 1 / pi_s times. So the
    mean over the draws of any sum over tokens is the sum over all tokens. The others are not read at all.

    `proposal` makes q, from the recorded log-probabilities of the tokens that the call committed. gradient (ours):
    sqrt(sum (1 - p)^2), the size of the loss's gradient at the logits of the drawn tokens. surprisal: sum -log p, of
    which AGRPO's, the call's summed entropies, is the mean. uniform: all calls alike. `uniform_share` of q is spread
    evenly, so that none counts more than T / (K uniform_share) times.

    `first_call` = "always" reads the first call besides the K, which then are drawn from the later ones: the
    completions of a prompt share its canvas, so it costs 1 / G. A rollout of at most K (later) calls is scored exactly.
    """

    draws: int = 4
    proposal: CallProposal = "gradient"
    first_call: FirstCall = "always"
    uniform_share: float = 0.05

    def draw(self, rollout: Rollout, generator: torch.Generator) -> Float[Tensor, "B S"]:
        """Return what each call of the rollout counts, 0 where it is not read; S is the largest number of calls."""
        return self.call_weights(rollout, stratified_uniform(len(rollout), 1, generator)[:, 0])

    def call_weights(self, rollout: Rollout, uniform: Float[Tensor, " B"]) -> Float[Tensor, "B S"]:
        """Return the draw that belongs to a uniform number in [0, 1) for each rollout."""
        probability = self.reading_probability(rollout)
        return torch.where(systematic_sample(probability, uniform), 1 / probability, 0.0).float()

    def reading_probability(self, rollout: Rollout) -> Float[Tensor, "B S"]:
        """Return the probability (float64) with which each call of each rollout is read; 0 behind its last call."""
        score = call_scores(rollout, self.proposal)
        is_call = torch.arange(score.shape[1]) < rollout.nfe.cpu()[:, None]
        is_drawn = is_call.clone()
        if self.first_call == "always":
            is_drawn[:, 0] = False
        share = score.masked_fill(~is_drawn, 0.0)
        share = share / share.sum(dim=1, keepdim=True).clamp(min=torch.finfo(share.dtype).tiny)
        even = is_drawn.double() / is_drawn.sum(dim=1, keepdim=True).clamp(min=1)
        proposal = torch.where(share.any(dim=1, keepdim=True), share.lerp(even, self.uniform_share), even)
        probability = inclusion_probability(proposal, self.draws)
        return torch.where(is_call & ~is_drawn, 1.0, probability)

    def __call__(self, rollout: Rollout, draw: Float[Tensor, "B S"], mask_id: int) -> ScoringPlan:
        draw = draw.to(rollout.nfe.device)
        row, step = (draw > 0).nonzero(as_tuple=True)
        some = rollout.rows(row)
        attention_mask = full_attention_mask(some.prompt_mask, rollout.completion_ids.shape[1])
        source = torch.zeros_like(draw, dtype=torch.long)
        source[row, step] = torch.arange(len(row), device=row.device)
        return ScoringPlan(
            canvas_at(some, step, mask_id),
            attention_mask,
            source.gather(1, rollout.unmask_step),
            loss_weight=draw.gather(1, rollout.unmask_step),
        ).shared()


def call_scores(rollout: Rollout, proposal: CallProposal) -> Float[Tensor, "B S"]:
    """Return a number for each call of each rollout, to which a proposal is proportional, in float64 on the CPU."""
    logp, step = rollout.behaviour_logp.cpu().double(), rollout.unmask_step.cpu()
    zeros = torch.zeros(len(rollout), int(rollout.nfe.max()), dtype=torch.float64)
    if proposal == "uniform":
        return zeros + 1
    if proposal == "surprisal":
        return zeros.scatter_add(1, step, -logp)
    return zeros.scatter_add(1, step, (1 - logp.exp()) ** 2).sqrt()


def inclusion_probability(proposal: Float[Tensor, "B S"], draws: int) -> Float[Tensor, "B S"]:
    """Return min(1, c q) for the rows of `proposal`, q, which sum to 1, with the c at which they sum to `draws`.

    1 where q is not 0 in a row that has no more than `draws` such entries.
    """
    probability = draws * proposal
    for _ in range(draws):  # what one entry has above 1 goes to the others, which may lift another one above 1
        is_sure = probability >= 1
        left = draws - is_sure.sum(dim=1, keepdim=True)
        rest = proposal.masked_fill(is_sure, 0.0)
        raised = left * rest / rest.sum(dim=1, keepdim=True).clamp(min=torch.finfo(rest.dtype).tiny)
        probability = torch.where(is_sure, 1.0, raised)
    return probability.clamp(max=1)


def systematic_sample(probability: Float[Tensor, "B S"], uniform: Float[Tensor, " B"]) -> Bool[Tensor, "B S"]:
    """Draw entries with the given probabilities, one uniform number in [0, 1) for each row: those in whose part of the
    row's cumulative sum a point u, u + 1, u + 2, ... lies. Their number is the row's sum, rounded up or down."""

    def points_below(ends: Float[Tensor, "B S"]) -> Int[Tensor, "B S"]:
        return (ends - uniform.double()[:, None]).ceil().long()

    ends = probability.cumsum(dim=1)
    return (points_below(ends) > points_below(ends - probability)) | (probability >= 1)
