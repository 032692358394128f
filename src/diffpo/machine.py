"""Where a run computes, and how it keeps its numbers."""

import torch

from diffpo.errors import UserError
from diffpo.models.denoiser import Denoiser
from diffpo.recipes.schema import MachineSettings
from diffpo.world import world

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def place_of(settings: MachineSettings) -> tuple[torch.dtype, torch.device]:
    """What a model's weights are kept as, and where: of several processes each has a CUDA device of its own.

    Sets torch's threads where the recipe gives a number. Raises UserError for a device that is not there.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise UserError("device is 'cuda', and torch sees no CUDA device here; use device = 'auto' or 'cpu'")
    return DTYPES[settings.dtype], _cuda() if has_cuda and settings.device != "cpu" else torch.device("cpu")


def _cuda() -> torch.device:
    here, count = world(), torch.cuda.device_count()
    if here.size == 1:
        return torch.device("cuda")
    if here.size > count:
        raise UserError(f"{here.size} processes were started, and torch sees {count} CUDA devices here; start {count}")
    torch.cuda.set_device(here.place)  # or each would also take memory on the first
    return torch.device("cuda", here.place)


def checkpointed(denoiser: Denoiser, settings: MachineSettings) -> Denoiser:
    """The same denoiser, told to keep little for its backward passes if the recipe says so."""
    if settings.gradient_checkpointing:
        model = denoiser.model
        # The name changed in transformers 5.20; both exist for a while.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
    return denoiser
