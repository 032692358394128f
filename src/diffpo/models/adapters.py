"""LoRA adapters (arXiv 2106.09685) by PEFT through transformers' hooks: the model keeps its class, files are PEFT's.

There is no dropout: rollouts, the old policy and the new one must be the same function, or the policy ratio would not
be 1 at the first step of an update.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from diffpo.core.errors import UserError
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.denoiser_output import DenoiserOutput
from diffpo.models.kv_cache import Window
from diffpo.models.model_paths import base_of, join_names

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT imports it; it warns of a kernel that nobody asked for
NAME = "default"
FACTORS = r"\.lora_[AB]\."
"""A pattern that is in the names of an adapter's weights, and in no others."""
TARGETS: Mapping[str, str] = {
    # Llama's names, which d1's list has, miss half of LLaDA's matrices, and a bare ff_out is also the output head's.
    "llada": r".*\.blocks\.\d+\.(q_proj|k_proj|v_proj|attn_out|ff_proj|up_proj|ff_out)",
    "Dream": r".*\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
}
"""For each `model_type` a pattern that matches the full module names of all matrices of the blocks, and no others."""


@dataclass(frozen=True)
class AdapterOffDenoiser(ModelDenoiser):
    """The model under a denoiser's adapter: a reference policy that needs no memory of its own."""

    @classmethod
    def of(cls, denoiser: ModelDenoiser) -> "AdapterOffDenoiser":
        return cls(denoiser.model, denoiser.mask_id, denoiser.stop_ids, denoiser.vocabulary)

    def predict(
        self,
        canvas: Int[Tensor, "R N"],
        attention_mask: Bool[Tensor, "R N"],
        at: Bool[Tensor, "R N"],
        window: Window | None = None,
    ) -> DenoiserOutput:
        with _adapter_off(self.model):
            return super().predict(canvas, attention_mask, at, window)


@contextmanager
def _adapter_off(model: PreTrainedModel) -> Iterator[None]:
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()


def add_adapter(denoiser: ModelDenoiser, rank: int, alpha: int, seed: int) -> None:
    """Freeze the model and put a trainable adapter, scaled by `alpha` / `rank`, on all matrices of its blocks.

    The adapted model starts equal to the model: one factor is random (by `seed`), the other zero. The factors are
    float32 whatever the model is: small steps would be lost in bfloat16. Raises UserError where peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise UserError("an adapter needs peft, which is not installed: pip install 'diffpo[lora]'") from error
    targets = TARGETS[denoiser.model.config.model_type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser.model.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets), NAME)
    for layer in adapter_layers(denoiser.model).values():  # PEFT gave them the model's dtype
        layer.lora_A.float()
        layer.lora_B.float()


def load_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Put a stored adapter on its model, trainable, in float32 whatever the model is.

    Raises UserError where peft is not installed, or naming a weight that does not fit.
    """
    try:
        found = model.load_adapter(
            str(folder),
            NAME,
            is_trainable=True,
            ignore_mismatched_sizes=True,
            dtype_plan={FACTORS: torch.float32},  # else they are rounded to the model's dtype
        )
    except ImportError as error:
        raise UserError(f"{folder} holds an adapter, which needs peft: pip install 'diffpo[lora]'") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"the adapter in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    model.peft_config[NAME].base_model_name_or_path = model.name_or_path  # where it is now, for the next file
    kinds = {"missing": found.missing_keys, "unexpected": found.unexpected_keys, "misshapen": found.mismatched_keys}
    if wrong := [f"{len(names)} {kind}, {min(map(str, names))} for one" for kind, names in kinds.items() if names]:
        raise UserError(
            f"the adapter in {folder} does not fit the model in {model.name_or_path} ({'; '.join(wrong)}); it was "
            f"trained on {base_of(folder)}"
        )


@torch.no_grad()
def merge_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """Add the adapter to the weights under it, W += alpha / rank B A in float32, and return the plain model with them.

    The weights are changed in place, so there is one copy of them; `model` is of no use afterwards. Raises UserError
    for an adapter that is more than two factors a matrix.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    layers = adapter_layers(model)
    more = [name for name, layer in layers.items() if layer.use_dora.get(NAME) or layer.lora_bias.get(NAME)]
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) and name not in layers:
            more.append(name)
    if more:
        raise UserError(
            f"the adapter has more than two factors for a matrix ({join_names(more)}), and diffpo merges plain LoRA "
            "only; merge it with PEFT"
        )
    for name, layer in layers.items():
        matrix = layer.get_base_layer()
        weight = cast(Tensor, matrix.weight)
        weight.copy_(weight.float() + cast(Any, layer).get_delta_weight(NAME))
        model.set_submodule(name, matrix)
    with torch.device("meta"):
        plain = type(model)(model.config)  # a model that has had an adapter would still write an adapter's names
    plain.load_state_dict(model.state_dict(), assign=True)
    return plain.eval()


def has_adapter(model: PreTrainedModel) -> bool:
    """Return whether an adapter has been put on a model."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def is_factor(name: str) -> bool:
    """Return whether a weight's name is that of an adapter's."""
    return re.search(FACTORS, name) is not None


def adapter_layers(model: nn.Module) -> "dict[str, LoraLayer]":
    """Return the modules that have an adapter, by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
