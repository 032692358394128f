"""Passes of a sharded model, of which all processes make the same number: one that has no rows left joins in."""

from dataclasses import replace

import torch

from diffpo.distributed.process import current_process, most_rows, rank_slice
from diffpo.distributed.sharding import is_sharded
from diffpo.models.denoiser import CallCounter, ModelDenoiser


def count_rounds(denoiser: ModelDenoiser, count: int, micro_batch_size: int, unit: int = 1) -> int:
    """Return how many micro-batches this process makes of its slice of `count` rows, or joins in.

    Of a sharded model that is the number of the process with the largest slice.
    """
    own = rank_slice(count, unit)
    rows = most_rows(count, unit) if is_sharded(denoiser.model) else own.stop - own.start
    return -(-rows // micro_batch_size)


def is_one_round(denoiser: ModelDenoiser, count: int, rounds: int, unit: int = 1) -> bool:
    """Return whether a single pass gives a micro-batch its credit and its gradient.

    Of a sharded model all processes must have one: between the two they exchange likelihoods, and a process that only
    joins in makes its passes apart from that.
    """
    has_rows_everywhere = count // unit >= current_process().world_size
    return rounds == 1 and (has_rows_everywhere or not is_sharded(denoiser.model))


def join_passes(denoiser: ModelDenoiser, times: int) -> None:
    """Make passes on a canvas of one mask, which other processes make on their rows, so that these get the weights.

    With gradients enabled a backward pass follows each; it adds zeros. The passes are not counted as work.
    """
    device = denoiser.model.device
    canvas = torch.full((1, 1), denoiser.mask_id, device=device)
    first = torch.zeros(1, dtype=torch.long, device=device)
    for _ in range(times):
        output = replace(denoiser, usage=CallCounter()).predict(canvas, canvas >= 0, canvas >= 0)
        if torch.is_grad_enabled():
            (0 * output.logp(first, first, temperature=1.0)).sum().backward()
