"""Whether completions have room in memory beside the model, said before the first is drawn."""

import os

import torch

from diffpo.runs.dry_run.summary import GIB
from diffpo.runs.dry_run.memory import call
from diffpo.runs.dry_run.size import measured
from diffpo.core.errors import UserError
from diffpo.models.denoiser import ModelDenoiser


def check_memory(
    denoiser: ModelDenoiser, rows: int, *, prompt_tokens: int, length: int, block_length: int, has_cache: bool, option: str
) -> None:
    """Raises UserError where `rows` completions in flight take more than the model leaves of its device: it says how
    many fit, and names `option`, which limits them. An estimate (dryrun/memory.py)."""
    with torch.device("meta"):
        size = measured(type(denoiser.model)(denoiser.model.config))
    parts = call(size, 1, prompt_tokens + length, block_length, denoiser.model.dtype.itemsize, has_cache)
    each, free = sum(parts.values()), free_bytes(denoiser)
    if rows * each > free:
        fit = free // each
        advice = f"set {option} to at most {fit}" if fit else "use a smaller model or a larger machine"
        raise UserError(
            f"{rows} completions at a time take about {rows * each / GIB:.1f} GiB beside the model, and "
            f"{free / GIB:.1f} are there; {advice}"
        )


def free_bytes(denoiser: ModelDenoiser) -> int:
    """Free memory of a GPU; of a CPU's all that the model does not take, since others may give theirs back."""
    device = denoiser.model.device
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    held: int = sum(p.nbytes for p in denoiser.model.parameters())
    return max(0, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") - held)
