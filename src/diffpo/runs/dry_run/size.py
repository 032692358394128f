"""Count a model's parameters, and those that are trained, on the meta device, where weights have only shapes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel

from diffpo.core.errors import UserError
from diffpo.models.adapters import add_adapter
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.dream import DREAM
from diffpo.models.family import Family
from diffpo.models.hub import is_hub_name
from diffpo.models.layers import blocks_of
from diffpo.models.llada import LLADA
from diffpo.models.loading import read_config
from diffpo.models.model_paths import model_folder

LLADA_8B = {"d_model": 4096, "n_layers": 32, "n_heads": 32, "mlp_hidden_size": 12288, "vocab_size": 126464}
DREAM_7B = {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
}
PUBLISHED: Mapping[str, tuple[Family, Mapping[str, int]]] = {
    "GSAI-ML/LLaDA-8B-Base": (LLADA, LLADA_8B),
    "GSAI-ML/LLaDA-8B-Instruct": (LLADA, LLADA_8B),
    "GSAI-ML/LLaDA-1.5": (LLADA, LLADA_8B),
    "Dream-org/Dream-v0-Base-7B": (DREAM, DREAM_7B),
    "Dream-org/Dream-v0-Instruct-7B": (DREAM, DREAM_7B),
    "apple/DiffuCoder-7B-Base": (DREAM, DREAM_7B),
    "apple/DiffuCoder-7B-Instruct": (DREAM, DREAM_7B),
    "apple/DiffuCoder-7B-cpGRPO": (DREAM, DREAM_7B),
}
"""Published models, whose sizes are known without downloading them."""


@dataclass(frozen=True)
class Size:
    """The size of a model; every number counts parameters unless it says otherwise."""

    parameters: int
    trained: int
    block_weights: int
    """In the matrices of the blocks, through which each token passes once."""
    layers: int
    """Blocks."""
    width: int
    """Numbers of a token's state between blocks."""
    hidden: int
    """Numbers of a token inside the feed-forward part."""
    vocabulary: int
    """Rows of the embedding."""
    cached: int = 0
    """Numbers of a token's keys and values in all layers, which a block cache keeps."""
    trained_matrices: int = 0
    """Of the trained parameters, those in matrices of the blocks."""


def is_elsewhere(base: str) -> bool:
    """Return whether a model is on the hub and not in a folder here, so that it would be fetched."""
    return not Path(base).exists() and is_hub_name(base)


def size_of(base: str, rank: int | None, is_trained: bool) -> Size:
    """Return the size of the model `base`, with an adapter of this rank unless `rank` is None.

    Raises UserError for a base that is neither in a folder here nor one of `PUBLISHED`.
    """
    family, config = _read_config(base)
    return size_by_config(family.model, config, rank, is_trained)


def size_by_config(
    kind: Callable[[PretrainedConfig], PreTrainedModel], config: PretrainedConfig, rank: int | None, is_trained: bool
) -> Size:
    """Return the size of the model that `kind` makes of a config, with an adapter of this rank unless it is None."""
    with torch.device("meta"):
        model = kind(config)
        size = measure_model(model)
        if rank is not None:
            add_adapter(ModelDenoiser(model, 0, ()), rank, alpha=1, seed=0)
    if not is_trained:
        return size
    in_matrices = sum(p.numel() for p in blocks_of(model).parameters() if p.requires_grad and p.dim() == 2)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return replace(size, trained=trained, trained_matrices=in_matrices)


def measure_model(model: PreTrainedModel) -> Size:
    """Return the size of a model that has no adapter, counting nothing as trained."""
    blocks = blocks_of(model)
    matrices = {name: p.shape for name, p in blocks.named_parameters() if p.dim() == 2}
    rows, width = model.get_input_embeddings().weight.shape
    return Size(
        parameters=sum(p.numel() for p in model.parameters()),
        trained=0,
        block_weights=sum(shape.numel() for shape in matrices.values()),
        layers=len(blocks),
        width=width,
        hidden=max(shape[0] for shape in matrices.values() if shape[1] == width),
        vocabulary=rows,
        cached=sum(shape[0] for name, shape in matrices.items() if name.endswith(("k_proj.weight", "v_proj.weight"))),
    )


def _read_config(base: str) -> tuple[Family, PretrainedConfig]:
    if (name := base.partition("@")[0]) in PUBLISHED:
        family, fields = PUBLISHED[name]
        return family, family.config(**fields)
    if is_elsewhere(base):
        raise UserError(f"the size of {base} is not known here; known are {', '.join(PUBLISHED)}")
    return read_config(model_folder(Path(base)))
