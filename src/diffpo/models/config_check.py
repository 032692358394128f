"""What a stranger's config.json may say: fields of the right type and of a size that can be, and no choice of code."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from diffpo.models.family import Family

MOST_LAYERS, LARGEST_SIZE = 1_000, 2**31 - 1
KERNEL_FIELDS = ("attn_implementation", "experts_implementation", "kernel_config")
"""Transformers would take a hub's name in them for a kernel, and fetch and run its code."""
UNUSED_FIELDS = ("num_labels", "id2label", "label2id", "output_attentions", "output_hidden_states")
"""A denoiser has neither labels nor other outputs. Transformers would make a table of `num_labels` names."""


def used_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without the fields that choose kernels, which the recipe does, and without UNUSED_FIELDS."""
    left_out = KERNEL_FIELDS + UNUSED_FIELDS
    return {name: value for name, value in config.items() if not name.lstrip("_").startswith(left_out)}


def wrong_field(family: Family, config: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the first field that has a wrong type or an impossible value: `n_heads is "4"; ...`."""
    return next(_wrong_fields(family, config), None)


def _wrong_fields(family: Family, config: Mapping[str, Any]) -> Iterator[str]:
    largest = dict.fromkeys((*family.sizes, *family.optional_sizes), LARGEST_SIZE) | {family.layers: MOST_LAYERS}
    for name, most in largest.items():
        value = config.get(name)
        if value is None and name in family.optional_sizes:
            continue
        if not _is_whole(value) or not 0 < value <= most:
            yield f"{name} is {shown(value)}; it should be a whole number from 1 to {most}"
    for name in ("rope_theta", "rms_norm_eps", "initializer_range"):
        value = config.get(name, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e30:
            yield f"{name} is {shown(value)}; it should be a number from 0 to 1e30"
    for name in ("mask_token_id", "pad_token_id", "bos_token_id", "eos_token_id"):
        if wrong := wrong_id(name, config.get(name)):
            yield wrong


def wrong_id(name: str, value: object) -> str | None:
    """Return what is wrong with a token's id, or with a list of ends of text; None where it is right or absent."""
    ids = value if name == "eos_token_id" and isinstance(value, list) else [value]
    if value is None or all(_is_whole(one) and abs(one) <= LARGEST_SIZE for one in ids):
        return None
    return f"{name} is {shown(value)}; it should be the number of a token"


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def shown(value: object) -> str:
    """Return a value as a sentence may name it: in at most 40 characters."""
    return "missing" if value is None else f"{value!r:.40}"
