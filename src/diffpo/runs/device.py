"""Where a run computes, and how it keeps its numbers."""

import os
from importlib.util import find_spec
from shutil import which

import torch

from diffpo.core.errors import UserError
from diffpo.distributed.process import current_process
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.layers import blocks_of
from diffpo.recipes.tables import DeviceSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve_device(settings: DeviceSettings) -> tuple[torch.dtype, torch.device]:
    """What a model's weights are kept as, and where: of several processes each has a CUDA device of its own.

    Sets torch's threads where the recipe gives a number. Raises UserError for a device that is not there, for
    attention kernels that are not, or not for it, and where there is nothing to compile with.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise UserError("device is 'cuda', and torch sees no CUDA device here; use device = 'auto' or 'cpu'")
    is_cuda = has_cuda and settings.device != "cpu"
    if settings.attention != "sdpa":
        _check_attention(settings, is_cuda)
    if settings.compile:
        _check_compiler(is_cuda)
    return DTYPES[settings.dtype], _cuda() if is_cuda else torch.device("cpu")


def _check_attention(settings: DeviceSettings, is_cuda: bool) -> None:
    asked = f"attention = '{settings.attention}'"
    if settings.attention == "flash_attention_2" and find_spec("flash_attn") is None:
        raise UserError(
            f"{asked} needs flash-attn, which is not installed: pip install flash-attn, or use attention = 'sdpa'"
        )
    if not is_cuda:
        raise UserError(f"{asked} needs a CUDA device, and this run has none; use attention = 'sdpa'")
    if settings.attention == "flash_attention_2" and settings.dtype == "float32":
        raise UserError(f"{asked} does not compute in float32; use dtype = 'bfloat16', or attention = 'sdpa'")


def _check_compiler(is_cuda: bool) -> None:
    """Of what torch.compile writes: Triton for CUDA, C++ for a CPU."""
    if is_cuda and find_spec("triton") is None:
        raise UserError("compile = true needs triton, which is not installed: pip install triton, or leave it out")
    if not is_cuda and not any(which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        raise UserError("compile = true needs a C++ compiler, and there is none (g++, clang++); leave it out")


def _cuda() -> torch.device:
    here, count = current_process(), torch.cuda.device_count()
    if here.world_size == 1:
        return torch.device("cuda")
    if here.world_size > count:
        raise UserError(
            f"{here.world_size} processes were started, and torch sees {count} CUDA devices here; start {count}"
        )
    torch.cuda.set_device(here.local_rank)  # or each would also take memory on the first
    return torch.device("cuda", here.local_rank)


def configure_model_(denoiser: ModelDenoiser, settings: DeviceSettings) -> ModelDenoiser:
    """The same denoiser with the recipe's kernels; if it says so, told to keep little for its backward passes, and its
    blocks compiled, at their first call, for any number of rows and tokens."""
    model = denoiser.model
    if settings.attention != "sdpa":
        model.set_attn_implementation(settings.attention)
    if settings.gradient_checkpointing:
        # The name changed in transformers 5.20; both exist for a while.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
    if settings.compile:
        for block in blocks_of(model):
            block.compile(dynamic=True)
    return denoiser
