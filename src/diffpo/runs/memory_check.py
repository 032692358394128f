"""Check, before the first completion is drawn, that completions fit into memory beside the model."""

import os

import torch

from diffpo.core.errors import UserError
from diffpo.models.denoiser import ModelDenoiser
from diffpo.runs.dry_run.memory import call_bytes
from diffpo.runs.dry_run.size import measure_model
from diffpo.runs.dry_run.summary import GIB


def check_memory(
    denoiser: ModelDenoiser,
    rows: int,
    *,
    prompt_tokens: int,
    length: int,
    block_length: int,
    has_cache: bool,
    option: str,
) -> None:
    """Raise UserError where `rows` completions in flight need more memory than the model leaves of its device.

    The message says how many fit, and names `option`, which limits them. Lengths are in tokens; the memory is an
    estimate (runs/dry_run/memory.py).
    """
    with torch.device("meta"):
        size = measure_model(type(denoiser.model)(denoiser.model.config))
    parts = call_bytes(size, 1, prompt_tokens + length, block_length, denoiser.model.dtype.itemsize, has_cache)
    each, free = sum(parts.values()), free_bytes(denoiser)
    if rows * each > free:
        fit = free // each
        advice = f"set {option} to at most {fit}" if fit else "use a smaller model or a larger machine"
        raise UserError(
            f"{rows} completions at a time take about {rows * each / GIB:.1f} GiB beside the model, and "
            f"{free / GIB:.1f} are there; {advice}"
        )


def free_bytes(denoiser: ModelDenoiser) -> int:
    """Return the bytes that are free beside the model on its device.

    On a CPU that is all memory which the model does not take, since other programs may give theirs back.
    """
    device = denoiser.model.device
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    held: int = sum(p.nbytes for p in denoiser.model.parameters())
    return max(0, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") - held)
