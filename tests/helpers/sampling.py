"""Calls of the sampler with its settings given one by one."""

import copy
from typing import Any

from torch import Tensor

from diffpo.core.rollout import Rollout
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import sample


def sample_with(
    denoiser: Any,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    *,
    seeds: Tensor | None = None,
    stop_ids: tuple[int, ...] = (),
    **settings: Any,
) -> Rollout:
    """Draw with `Decoding(**settings)`, by a denoiser whose completions end at `stop_ids`, or at no token at all."""
    denoiser = copy.copy(denoiser)
    object.__setattr__(denoiser, "stop_ids", stop_ids)
    return sample(denoiser, prompt_ids, prompt_mask, Decoding(**settings), seeds)
