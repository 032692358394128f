"""Store a frozen base model in 4 bits with bitsandbytes, for adapters to be trained on (QLoRA, arXiv 2305.14314)."""

import re
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from diffpo.core.errors import UserError
from diffpo.models.adapters import TARGETS

BLOCK = 64
"""Weights that share a scale."""
BYTES_PER_WEIGHT = 0.5 + (1 + 4 / 256) / BLOCK
"""NF4: 4 bits a weight, one byte for each block's scale, and one float32 for every 256 scales."""


def quantise(model: PreTrainedModel) -> None:
    """Replace the blocks' matrices one by one by their NF4 forms; products are computed in the matrices' old dtype.

    The scales are quantised, too. Embeddings, norms, biases and the output head stay as they are: d1 and DMPO train on
    such a model. Raises UserError where bitsandbytes is not installed or does not support the model's device, and, on a
    CPU, for a matrix whose input width is not a multiple of 64.
    """
    try:
        from bitsandbytes.nn import Linear4bit, Params4bit
    except ImportError as error:
        raise UserError(
            "lora.base_bits = 4 needs bitsandbytes, which is not installed: pip install 'diffpo[quantised]'"
        ) from error
    layers = {name: layer for name, layer in model.named_modules() if is_target(model, name)}
    for name, layer in layers.items():
        weight, bias = cast(nn.Linear, layer).weight, cast(nn.Linear, layer).bias
        # Where a block spans two rows, bitsandbytes' kernel for AVX-512 takes the wrong block's scale.
        if weight.device.type == "cpu" and weight.shape[1] % BLOCK:
            raise UserError(
                f"lora.base_bits = 4 needs, on a CPU, matrices whose input width is a multiple of {BLOCK}, and {name} "
                f"takes {weight.shape[1]}; leave lora.base_bits out"
            )
        quantised = Linear4bit(
            *reversed(weight.shape), bias=bias is not None, compute_dtype=weight.dtype, device="meta"
        )
        try:
            stored: Any = Params4bit(weight.detach(), requires_grad=False, quant_type="nf4", compress_statistics=True)
            quantised.weight = stored.to(weight.device)  # it is this move that quantises
        except (AssertionError, NotImplementedError, RuntimeError) as error:
            raise UserError(
                f"bitsandbytes cannot keep a model in 4 bits on {weight.device} ({error}); leave lora.base_bits out"
            ) from error
        quantised.bias = bias
        # Else evaluation mode computes in bfloat16 and without gradients on a CPU that has AVX512-BF16.
        quantised.support_avx512bf16_for_cpu = False
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, quantised.requires_grad_(False))
    model.is_loaded_in_4bit = True  # by which PEFT chooses the class of its layers


def is_target(model: PreTrainedModel, name: str) -> bool:
    """Return whether the module of this name is a matrix of a block."""
    return re.fullmatch(TARGETS[model.config.model_type], name) is not None
