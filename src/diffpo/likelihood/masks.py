"""Estimators on random masks of the finished completion, whatever the order in which it was decoded.

Masks are drawn by their number of masked tokens m, not by a rate: the weights L / m stay bounded by L.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from diffpo.core.canvas import full_attention_mask
from diffpo.core.options import Tail
from diffpo.core.randomness import stratified_uniform, uniform_to_index
from diffpo.core.rollout import Rollout
from diffpo.likelihood.scoring_plan import ScoringPlan, UpperBound


@dataclass(frozen=True)
class Coupled:
    """coupled-GRPO's pair (DiffuCoder, arXiv 2506.20639): a random mask of the completion and its complement.

    Each token is masked on exactly one canvas of the pair, and scored there. The share of masked tokens is uniform over
    [`min_rate`, `max_rate`] (stratified over the batch; theirs is one for the batch) and rounded to whole tokens.

    `plain` takes that log-probability as the token's own. `published` is their code's
    (log p on the fully masked canvas + log p on its own / its share of masked tokens) / 2: one canvas more, which the
    completions of a prompt share, and no log-probability any more, since the weights add up to 3/2 on average.
    """

    min_rate: float = 0.2
    max_rate: float = 0.8
    weighting: Literal["plain", "published"] = "plain"

    def draw(self, rollout: Rollout, generator: torch.Generator) -> Bool[Tensor, "B L"]:
        batch, length = rollout.completion_ids.shape
        rate = self.min_rate + (self.max_rate - self.min_rate) * stratified_uniform(batch, 1, generator)
        is_maskable = torch.ones(batch, length, dtype=torch.bool)
        return random_masks((rate * length).round().long(), is_maskable, generator)[:, 0]

    def __call__(self, rollout: Rollout, draw: Bool[Tensor, "B L"], mask_id: int) -> ScoringPlan:
        draw = draw.to(rollout.completion_ids.device)
        masks = [draw, ~draw]
        if self.weighting == "plain":
            pair = masked_plan(rollout, torch.stack(masks, dim=1), mask_id)
            return replace(pair, source=torch.where(draw, pair.source[0], pair.source[1])).shared()
        trio = masked_plan(rollout, torch.stack([*masks, torch.ones_like(draw)], dim=1), mask_id)
        own = torch.where(draw, trio.source[0], trio.source[1])
        rate = draw.float().mean(dim=1, keepdim=True)
        share = torch.where(draw, rate, 1 - rate)
        weight = torch.stack([torch.full_like(share, 0.5), 0.5 / share])
        return replace(trio, source=torch.stack([trio.source[2], own]), weight=weight).shared()


@dataclass(frozen=True)
class Elbo:
    """Monte Carlo ELBO of the completion's log-likelihood (LLaDA, arXiv 2502.09992) from K = `draws` masks.

    log p(o) >= E[L / m sum over masked i of log p(o_i | the rest)], with m uniform over 1..L and the m masked positions
    uniform. A token's share is the mean over the draws of L / m log p where it is masked, 0 where it is not, so the sum
    over the tokens is an unbiased estimate of the bound. m is stratified over the draws and over the batch.

    `antithetic`: half of the masks are complements of the others. As m is uniform over 1..L and L - m over 0..L-1, the
    plain complement would lose m = L and be biased; see `with_complements`.

    `tail`: what is behind the first stop token. shown: it is part of the completion, so that the bound is on all tokens
    of the canvas, and L is its length. hidden: it is masked on every canvas, and the bound is on the answer alone, of
    L tokens. `prompt_mask_rate`: each prompt token is masked with that probability, as in `MeanField`.
    """

    draws: int = 2
    antithetic: bool = True
    tail: Tail = "shown"
    prompt_mask_rate: float = 0.0

    def draw(self, rollout: Rollout, generator: torch.Generator) -> Bool[Tensor, "B K M"]:
        """Return what is masked: of the completion (M = L), or, with masked prompts, of the canvas (M = P + L)."""
        is_bounded = self.bounded(rollout).cpu()
        if self.antithetic and self.draws % 2:
            raise ValueError(f"antithetic masks come in pairs, so draws = {self.draws} must be even")
        if self.antithetic:
            masks = with_complements(uniform_masks(is_bounded, self.draws // 2, generator), is_bounded)
        else:
            masks = uniform_masks(is_bounded, self.draws, generator)
        if self.prompt_mask_rate == 0:
            return masks
        batch, width = rollout.prompt_ids.shape
        is_hidden = torch.rand(batch, self.draws, width, generator=generator) < self.prompt_mask_rate
        return torch.cat([is_hidden & rollout.prompt_mask.cpu()[:, None], masks], dim=2)

    def __call__(self, rollout: Rollout, draw: Bool[Tensor, "B K M"], mask_id: int) -> ScoringPlan:
        is_bounded = self.bounded(rollout)
        draw = draw.to(is_bounded.device)
        is_behind = torch.nn.functional.pad(~is_bounded, (draw.shape[2] - is_bounded.shape[1], 0), value=False)
        plan = masked_plan(rollout, draw | is_behind[:, None], mask_id)
        is_masked = draw[:, :, -is_bounded.shape[1] :].transpose(0, 1)
        share = is_masked.sum(dim=2, keepdim=True) / is_bounded.sum(dim=1, keepdim=True)
        return replace(plan, weight=is_masked / share / len(is_masked)).shared()

    def bounded(self, rollout: Rollout) -> Bool[Tensor, "B L"]:
        """Return the tokens whose likelihood is bounded."""
        return rollout.is_answer if self.tail == "hidden" else torch.ones_like(rollout.is_answer)


@dataclass(frozen=True)
class Eubo:
    """SPG's sandwich (arXiv 2510.09541): the ELBO where the advantage is not negative, an upper bound where it is.

    The EUBO of token i is log E[L / m p(o_i | the rest)^beta where i is masked] / beta, on the ELBO's own masks; rows
    of negative advantage get `mix` EUBO + (1 - mix) ELBO (1: SPG with EUBO, 0.5: SPG with mixture). The defaults are
    those of the public code. It takes the logarithm of a mean over K draws, which on average is too low: it tends to
    the EUBO from below as K grows. A token that no draw masks adds 0, as in that code. Draws are independent
    there, and by default here: two that are complements mask each token once, and the power mean of one number is that
    number, so that the upper bound would be the plain log-probability whatever beta.

    Inferred. We read the formula in the public code and in a summary of the paper, not in the paper. It drops a
    constant of the policy, so for the published beta (1 to 1.5) it need not lie above log p(o) under random-order
    decoding: with two tokens of which context helps one and hurts the other it lies below. From beta = L on it always
    lies above (Hoelder's inequality), and above the ELBO for every beta > 0 (Jensen's). Theirs masks block by block and
    takes means over masked tokens instead of sums over L; ours is on the scale of the ELBO above.
    """

    draws: int = 2
    antithetic: bool = False
    beta: float = 1.5
    mix: float = 0.5
    tail: Tail = "hidden"
    prompt_mask_rate: float = 0.0

    @property
    def lower(self) -> Elbo:
        return Elbo(self.draws, self.antithetic, self.tail, self.prompt_mask_rate)

    def draw(self, rollout: Rollout, generator: torch.Generator) -> Bool[Tensor, "B K M"]:
        return self.lower.draw(rollout, generator)

    def __call__(self, rollout: Rollout, draw: Bool[Tensor, "B K M"], mask_id: int) -> ScoringPlan:
        return replace(self.lower(rollout, draw, mask_id), upper=UpperBound(self.beta, self.mix))


def uniform_masks(is_maskable: Bool[Tensor, "B L"], draws: int, generator: torch.Generator) -> Bool[Tensor, "B K L"]:
    """Return masks whose number of masked tokens is uniform over 1 to all that are maskable.

    The number is stratified over the draws and over the batch.
    """
    uniform = stratified_uniform(len(is_maskable), draws, generator)
    return random_masks(1 + uniform_to_index(uniform, is_maskable.sum(dim=1, keepdim=True)), is_maskable, generator)


def random_masks(
    count: Int[Tensor, "B K"], is_maskable: Bool[Tensor, "B L"], generator: torch.Generator
) -> Bool[Tensor, "B K L"]:
    """Return masks of `count` of the maskable positions, all sets of that many equally likely."""
    noise = torch.rand((*count.shape, is_maskable.shape[1]), generator=generator)
    rank = noise.masked_fill(~is_maskable[:, None], 2.0).argsort(dim=2).argsort(dim=2)
    return rank < count[:, :, None]


def with_complements(is_masked: Bool[Tensor, "B K L"], is_maskable: Bool[Tensor, "B L"]) -> Bool[Tensor, "B 2*K L"]:
    """Return the masks, then what each leaves out of the maskable positions.

    A full mask leaves out nothing and comes again itself: so the complements' number of masked tokens is uniform over
    1..L too, and none of them is empty.
    """
    left_out = is_maskable[:, None] & ~is_masked
    is_full = ~left_out.any(dim=2, keepdim=True)
    return torch.cat([is_masked, torch.where(is_full, is_masked, left_out)], dim=1)


def masked_plan(rollout: Rollout, is_masked: Bool[Tensor, "B K M"], mask_id: int) -> ScoringPlan:
    """Return the canvas under K masks of its last M tokens each; `source` [K, B, L] names the canvas of each mask."""
    (batch, length), draws = rollout.completion_ids.shape, is_masked.shape[1]
    whole = torch.cat([rollout.prompt_ids, rollout.completion_ids], dim=1)
    is_masked = torch.nn.functional.pad(is_masked.to(whole.device), (whole.shape[1] - is_masked.shape[2], 0))
    canvas = torch.where(is_masked.transpose(0, 1), mask_id, whole).flatten(end_dim=1)
    attention_mask = full_attention_mask(rollout.prompt_mask, length).repeat(draws, 1)
    row = torch.arange(draws * batch, device=canvas.device).view(draws, batch, 1)
    return ScoringPlan(canvas, attention_mask, row.expand(draws, batch, length))
