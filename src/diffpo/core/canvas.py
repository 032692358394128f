"""Functions of canvases (prompt and partly masked completion): replay one at any step, find ends, merge equal ones."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from diffpo.core.rollout import Rollout


def canvas_at(rollout: Rollout, step: int | Int[Tensor, " B"], mask_id: int) -> Int[Tensor, "B N"]:
    """Return the canvas of each row at denoiser call `step` (0-based): tokens committed before it, masks elsewhere."""
    if isinstance(step, Tensor):
        step = step[:, None]
    is_committed = rollout.unmask_step < step
    completion = torch.where(is_committed, rollout.completion_ids, mask_id)
    return torch.cat([rollout.prompt_ids, completion], dim=1)


def full_attention_mask(prompt_mask: Bool[Tensor, "B P"], completion_length: int) -> Bool[Tensor, "B N"]:
    """Return the attention mask of a canvas: prompt padding is hidden, every completion position is visible."""
    return torch.nn.functional.pad(prompt_mask, (0, completion_length), value=True)


def completion_mask(completion_ids: Int[Tensor, "B L"], stop_ids: tuple[int, ...]) -> Bool[Tensor, "B L"]:
    """Return True up to and including the first stop token, and everywhere in a row that has none."""
    is_stop = torch.isin(completion_ids, torch.tensor(stop_ids, dtype=torch.long, device=completion_ids.device))
    stops_before = is_stop.cumsum(dim=1) - is_stop.long()
    return stops_before == 0


def open_block(is_masked: Bool[Tensor, "B L"], block_length: int) -> Bool[Tensor, "B L"]:
    """Return the masked positions of each row's first block that has any: there the sampler may commit."""
    batch, length = is_masked.shape
    blocks = is_masked.view(batch, length // block_length, block_length)
    has_mask = blocks.any(dim=2)
    is_first = has_mask & (has_mask.cumsum(dim=1) == 1)
    return (blocks & is_first[:, :, None]).view(batch, length)


def unique_canvases(
    canvas: Int[Tensor, "R N"], attention_mask: Bool[Tensor, "R N"]
) -> tuple[Int[Tensor, "U N"], Bool[Tensor, "U N"], Int[Tensor, " R"]]:
    """Merge canvases that are equal in tokens and attention mask.

    Return the U <= R unique ones, their attention masks, and for each of the R canvases the index of its unique one.
    """
    width = canvas.shape[1]
    keys = torch.cat([canvas, attention_mask.long()], dim=1)
    unique, index = torch.unique(keys, dim=0, return_inverse=True)
    return unique[:, :width], unique[:, width:].bool(), index


def first_occurrence(index: Int[Tensor, " R"]) -> Int[Tensor, " U"]:
    """Return the first position of each of the numbers 0 to U - 1 in `index`, which must contain all of them."""
    count = torch.bincount(index)
    return index.argsort(stable=True)[count.cumsum(dim=0) - count]


def flat_index(is_selected: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """Return the index of each selected position in the [M, ...] output for the M selected ones, counted row by row.

    At a position that is not selected it is the number of selected ones before it.
    """
    return (is_selected.flatten().cumsum(dim=0) - is_selected.flatten().long()).view_as(is_selected)
