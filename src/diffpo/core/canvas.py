"""Build a canvas (prompt and partly masked completion), replay it at any step, and find where an answer ends."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from diffpo.core.rollout import Rollout


def canvas_at(rollout: Rollout, step: int | Int[Tensor, " B"], mask_id: int) -> Int[Tensor, "B N"]:
    """What the denoiser saw at call `step` of each row (0: nothing committed): earlier tokens, masks elsewhere."""
    if isinstance(step, Tensor):
        step = step[:, None]
    is_committed = rollout.unmask_step < step
    completion = torch.where(is_committed, rollout.completion_ids, mask_id)
    return torch.cat([rollout.prompt_ids, completion], dim=1)


def full_attention_mask(prompt_mask: Bool[Tensor, "B P"], completion_length: int) -> Bool[Tensor, "B N"]:
    """Prompt padding hidden, every completion position visible, masked or not."""
    return torch.nn.functional.pad(prompt_mask, (0, completion_length), value=True)


def completion_mask(completion_ids: Int[Tensor, "B L"], stop_ids: tuple[int, ...]) -> Bool[Tensor, "B L"]:
    """True up to and including the first stop token; everywhere in a row that has none."""
    is_stop = torch.isin(completion_ids, torch.tensor(stop_ids, dtype=torch.long, device=completion_ids.device))
    stops_before = is_stop.cumsum(dim=1) - is_stop.long()
    return stops_before == 0


def open_block(is_masked: Bool[Tensor, "B L"], block_length: int) -> Bool[Tensor, "B L"]:
    """The masked positions of each row's first block that has any: where the sampler may commit."""
    batch, length = is_masked.shape
    blocks = is_masked.view(batch, length // block_length, block_length)
    has_mask = blocks.any(dim=2)
    is_first = has_mask & (has_mask.cumsum(dim=1) == 1)
    return (blocks & is_first[:, :, None]).view(batch, length)


def unique_canvases(
    canvas: Int[Tensor, "R N"], attention_mask: Bool[Tensor, "R N"]
) -> tuple[Int[Tensor, "U N"], Bool[Tensor, "U N"], Int[Tensor, " R"]]:
    """Equal canvases merged: U <= R of them with their attention masks, and where each of the R went."""
    width = canvas.shape[1]
    keys = torch.cat([canvas, attention_mask.long()], dim=1)
    unique, place = torch.unique(keys, dim=0, return_inverse=True)
    return unique[:, :width], unique[:, width:].bool(), place


def first_occurrence(which: Int[Tensor, " R"]) -> Int[Tensor, " U"]:
    """Of each of the numbers from 0 up, the first place that has it."""
    count = torch.bincount(which)
    return which.argsort(stable=True)[count.cumsum(dim=0) - count]


def flat_index(at: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """How many chosen ones come before each place, row by row: where a chosen one stands among what is said of all."""
    return (at.flatten().cumsum(dim=0) - at.flatten().long()).view_as(at)
