"""A frozen model in 4 bits, for adapters to be trained on (QLoRA, arXiv 2305.14314), by bitsandbytes."""

import re
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from diffpo.core.errors import UserError
from diffpo.models.adapters import TARGETS

BYTES_PER_WEIGHT = 0.5 + (1 + 4 / 256) / 64
"""NF4 in blocks of 64 with a scale of one byte each; scales in blocks of 256 with one of float32."""


def quantise(model: PreTrainedModel) -> None:
    """Replace, one by one, the blocks' matrices by their NF4 forms, scales quantised too; they compute in their dtype.

    Embeddings, norms, biases and the output head stay as they are: d1 and DMPO train on such a model. Raises UserError
    where bitsandbytes is not installed, or cannot work on the model's device.
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
        small = Linear4bit(*reversed(weight.shape), bias=bias is not None, compute_dtype=weight.dtype, device="meta")
        try:
            stored: Any = Params4bit(weight.detach(), requires_grad=False, quant_type="nf4", compress_statistics=True)
            small.weight = stored.to(weight.device)  # it is this move that quantises
        except (AssertionError, NotImplementedError, RuntimeError) as error:
            raise UserError(
                f"bitsandbytes cannot keep a model in 4 bits on {weight.device} ({error}); leave lora.base_bits out"
            ) from error
        small.bias = bias
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, small.requires_grad_(False))
    model.is_loaded_in_4bit = True  # by which PEFT chooses the form of its layers


def is_target(model: PreTrainedModel, name: str) -> bool:
    return re.fullmatch(TARGETS[model.config.model_type], name) is not None
