"""What loading must know of a family of models beside its network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Family:
    """A published architecture: its classes, its token ids, and the configs of it that the network here computes."""

    name: str
    config: type[PretrainedConfig]
    model: type[PreTrainedModel]
    """Its class is called like the published one: the name is the config's `architectures`."""
    mask_id: int
    """The published mask token, for a config.json that names none."""
    turn_end: str
    """The token that ends a chat model's answer, beside its tokenizer's end of text."""
    required: tuple[str, ...]
    """Fields of config.json that the logits depend on: without them a default, another model's, would be taken."""
    fixed: Mapping[str, Any]
    """Fields that change the computation, and the only value of each that is computed here."""
