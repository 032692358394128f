"""What training and evaluation say of the device and of the model's numbers."""

from typing import Annotated, Literal

from pydantic import Field

from diffpo.recipes.strict import Strict

Attention = Literal["sdpa", "flash_attention_2", "flex_attention"]


class DeviceSettings(Strict):
    """On which device the model is, and how its numbers are kept."""

    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Torch threads; not set: torch's own choice. Another number may change the last bits of a result."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model is; auto: on a CUDA device if there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the model's numbers. What is trained is float32: an adapter, or masters from which a bfloat16 model is
    rounded."""
    gradient_checkpointing: bool = False
    """Keep one activation for each block, and compute the others again: less memory, a third more arithmetic."""
    attention: Attention = "sdpa"
    """Kernels: torch's own, or others that transformers knows, for CUDA."""
    compile: bool = False
    """Compile the blocks by torch.compile, which takes minutes at first; on a CPU it gains nothing (docs/log.md)."""
