"""The speeds of a batch: entropy bounds drawn at random, so that one policy learns to decode at every speed."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffpo.core.randomness import stratified_uniform
from diffpo.recipes.tables import SpeedsRecipe


def draw_bounds(shape: tuple[int, int], speeds: SpeedsRecipe, generator: torch.Generator) -> Float[Tensor, " B"]:
    """Return a bound in nats for each of Q x G = B completions, ordered by prompt.

    A `one_call_share` of them is infinite, the logs of the others are uniform between those of `low` and `high`.
    `shared_by` says which completions get the same: those of the batch, those of a prompt, or none ("completion").
    Where there are several they are stratified, so that every batch has its share of slow and of quick ones.
    """
    prompts, group = shape
    count = {"batch": 1, "prompt": prompts, "completion": prompts * group}[speeds.shared_by]
    uniform = stratified_uniform(count, 1, generator)[:, 0]
    quick = speeds.one_call_share
    low, high = math.log(speeds.low), math.log(speeds.high)
    bound = (low + (high - low) * (uniform - quick) / (1 - quick)).exp().masked_fill(uniform < quick, math.inf)
    return bound.repeat_interleave(prompts * group // count)


def speed_metrics(
    bound: Float[Tensor, " B"], is_solved: Bool[Tensor, " B"], nfe: Int[Tensor, " B"], middle: float
) -> dict[str, float]:
    """Return accuracy and mean denoiser calls of slow completions, whose bound is below `middle`, and of the others.

    A batch without slow ones, or without quick ones, has no metrics of them.
    """
    is_slow = bound < middle
    halves = {"slow": is_slow, "quick": ~is_slow}
    return {
        f"{name}_{half}": float(values[rows].float().mean())
        for half, rows in halves.items()
        if bool(rows.any())
        for name, values in (("accuracy", is_solved), ("nfe", nfe))
    }
