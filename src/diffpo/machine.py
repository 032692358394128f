"""Where a run computes, and how it keeps its numbers."""

import torch

from diffpo.errors import UserError
from diffpo.models.denoiser import Denoiser
from diffpo.recipes.schema import MachineSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def place_of(settings: MachineSettings) -> tuple[torch.dtype, torch.device]:
    """What a model's weights are kept as, and where. Sets torch's threads where the recipe gives a number.

    Raises UserError for a device that is not there.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise UserError("device is 'cuda', and torch sees no CUDA device here; use device = 'auto' or 'cpu'")
    return DTYPES[settings.dtype], torch.device("cuda" if has_cuda and settings.device != "cpu" else "cpu")


def checkpointed(denoiser: Denoiser, settings: MachineSettings) -> Denoiser:
    """The same denoiser, told to keep little for its backward passes if the recipe says so."""
    if settings.gradient_checkpointing:
        model = denoiser.model
        # The name changed in transformers 5.20; both exist for a while.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
    return denoiser
