"""The device, the data type and the kernels that a run computes with."""

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
    """Return the data type of a model's weights and the device they are on.

    Where a run has several processes, each gets a CUDA device of its own. Raises UserError for a device that is not
    there, for attention kernels that are not installed or do not suit the device, and where the compiler that
    `compile` needs is missing.
    """
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise UserError("device is 'cuda', and torch sees no CUDA device here; use device = 'auto' or 'cpu'")
    is_cuda = has_cuda and settings.device != "cpu"
    if settings.attention != "sdpa":
        _check_attention(settings, is_cuda)
    if settings.compile:
        _check_compiler(is_cuda)
    return DTYPES[settings.dtype], _cuda_device() if is_cuda else torch.device("cpu")


def configure_torch_(settings: DeviceSettings) -> None:
    """Set torch's number of threads, if the recipe gives one, and make this process's CUDA device the current one.

    Call it where a run starts. Raises UserError as `resolve_device` does.
    """
    device = resolve_device(settings)[1]
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if device.index is not None:
        torch.cuda.set_device(device.index)  # or each process would also take memory on the first device


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
    """Raise UserError unless what torch.compile generates can be compiled: Triton for CUDA, C++ for a CPU."""
    if is_cuda and find_spec("triton") is None:
        raise UserError("compile = true needs triton, which is not installed: pip install triton, or leave it out")
    if not is_cuda and not any(which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        raise UserError("compile = true needs a C++ compiler, and there is none (g++, clang++); leave it out")


def _cuda_device() -> torch.device:
    process, count = current_process(), torch.cuda.device_count()
    if process.world_size == 1:
        return torch.device("cuda")
    if process.local_world_size > count:
        raise UserError(
            f"{process.local_world_size} processes were started, and torch sees {count} CUDA devices here; start "
            f"{count}"
        )
    return torch.device("cuda", process.local_rank)


def configure_model_(denoiser: ModelDenoiser, settings: DeviceSettings) -> ModelDenoiser:
    """Set the attention kernels, gradient checkpointing and compilation that the recipe asks for; return the denoiser.

    Blocks are compiled one by one, at their first call, for any number of rows and tokens.
    """
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
