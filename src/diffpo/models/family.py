"""What loading must know about a family of models besides its network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Family:
    """A published architecture: its classes, its token ids, and the configs that diffpo's network can compute."""

    name: str
    config: type[PretrainedConfig]
    model: type[PreTrainedModel]
    """The class has the published name, which config.json gives as `architectures`."""
    mask_id: int
    """Id of the published mask token, for a config.json that names none."""
    turn_end: str
    """The token that ends a chat model's answer, besides its tokenizer's end of text."""
    required: tuple[str, ...]
    """Fields of config.json that the logits depend on: their defaults here belong to the tiny model."""
    layers: str
    """The field with the number of blocks."""
    sizes: tuple[str, ...]
    """The other fields that are whole numbers above 0."""
    optional_sizes: tuple[str, ...]
    """Those that may be null or absent."""
    fixed: Mapping[str, Any]
    """Fields that change the computation, and the only value of each that diffpo computes."""
