"""Write the stand-in of a model: its family and its tokenizer, with random weights of a small shape."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from diffpo.core.errors import UserError
from diffpo.models.family import Family
from diffpo.models.hub import cached_folder, check_model_path
from diffpo.models.loading import read_config, save_tokenizer
from diffpo.models.model_paths import (
    CONFIG,
    HUB_FILES,
    WEIGHTS,
    base_folder,
    has_tokenizer,
    read_json,
    weight_files,
)
from diffpo.models.weights import check_weights
from diffpo.rehearsal.byte_tokenizer import FRAMES, byte_tokenizer
from diffpo.runs.dry_run.size import PUBLISHED

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
WIDTH, QUANTISED_WIDTH = 32, 64
"""The second where the blocks' matrices are kept in 4 bits, which on a CPU needs multiples of 64."""
LAYERS, HEADS = 2, 4
POSITIONS = {"LLaDA": 4096, "Dream": 131072}
"""Of the published models, for those whose config is not here."""
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "LLaDA": {"vocab_size": 0, "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "max_sequence_length": 2**20},
    "Dream": {"vocab_size": 0, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "max_position_embeddings": 2**20},
}
"""What a config says besides its shape, where the model's own is not here. Bytes take more positions than tokens."""


@dataclass(frozen=True)
class StandIn:
    """A folder that is loaded in place of the recipe's base."""

    folder: Path
    parameters: int
    is_byte_level: bool
    """Whether the tokenizer is a stand-in, too, whose tokens are bytes."""
    positions: int
    """Positions of the real model."""
    told: str
    """What stands in for what, in words."""


def write_stand_in(base: str, folder: Path, is_quantised: bool) -> StandIn:
    """Write a small random model of the base's family into a folder, with the base's tokenizer if that is here.

    The hub is not asked. Raises UserError for a base that diffpo would refuse to load, as far as the files that are
    here tell, and for one of which neither config nor family is known.
    """
    source = _files_of(base)
    has_config = source is not None and (source / CONFIG).is_file()
    if source is not None and has_config:
        family, config = read_config(source)
        raw = read_json(source / CONFIG)
        positions = getattr(config, "max_sequence_length", None) or config.max_position_embeddings
        _check_weights_of(source, family, config)
    elif (name := base.partition("@")[0]) in PUBLISHED:
        family, positions = PUBLISHED[name][0], POSITIONS[PUBLISHED[name][0].name]
        raw = {}
    else:
        raise UserError(
            f"the model {base} is not here, and its family is not known without its config; where the hub is in reach, "
            f"run `{_download(base)}`, and bring the cache or the folder here"
        )
    folder.mkdir(parents=True)
    is_byte_level = not (source is not None and has_config and has_tokenizer(source))
    if is_byte_level:
        raw = dict(FIELDS[family.name]) | {"model_type": family.config.model_type}
        _write_byte_tokenizer(family, raw, folder)
    else:
        assert source is not None
        for file in (source / name for name in TOKENIZER_FILES):
            if file.is_file():
                shutil.copy(file, folder)
    parameters = _write_model(family, _small(family, raw, is_quantised), folder)
    told = f"{base}: {parameters:,} random parameters of its family, {family.name}, with "
    if is_byte_level:
        told += (
            f"a stand-in tokenizer of bytes and the usual form of {family.name}'s chat template, since the model's own "
            f"are not here; to rehearse with them, where the hub is in reach, run `{_download(base)}`, and "
            "bring the cache or the folder here"
        )
    else:
        told += f"its own tokenizer, from {source}"
    return StandIn(folder, parameters, is_byte_level, positions, told)


def _download(base: str) -> str:
    """Return the command that downloads config, tokenizer and template without the weights."""
    return f"hf download {base} --include '*.json' 'merges.txt' '*.jinja'"


def _files_of(base: str) -> Path | None:
    """Return the folder of a model's files that are here; None for a model of the hub that is not cached."""
    if Path(base).exists():
        return base_folder(Path(base))
    check_model_path(base)
    return cached_folder(base, "model", HUB_FILES)


def _check_weights_of(source: Path, family: Family, config: Any) -> None:
    """Raise UserError where weights are here and do not fit the config. Of a model of the hub there may be none yet."""
    if not any(source.glob("*.safetensors*")) and "snapshots" in source.parts:
        return
    with torch.device("meta"):
        model = family.model(config)
    check_weights(model, weight_files(source), source)


def _small(family: Family, raw: Mapping[str, Any], is_quantised: bool) -> dict[str, Any]:
    """Return a config with a small shape, and all that is no shape as it was; one that is as small stays."""
    width, heads, kv_heads, layers, hidden = (
        ("d_model", "n_heads", "n_kv_heads", "n_layers", "mlp_hidden_size")
        if family.name == "LLaDA"
        else ("hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers", "intermediate_size")
    )
    most = QUANTISED_WIDTH if is_quantised else WIDTH
    small = dict(raw) | {layers: min(raw.get(layers) or LAYERS, LAYERS)}
    if is_quantised or raw.get(width, most + 1) > most:
        has_groups = raw.get(kv_heads) not in (None, raw.get(heads)) or (family.name == "Dream" and not raw.get(heads))
        kv = HEADS // 2 if has_groups else HEADS
        small |= {width: most, hidden: 2 * most, heads: HEADS, kv_heads: kv}
    return small


def _write_byte_tokenizer(family: Family, raw: dict[str, Any], folder: Path) -> None:
    tokenizer = byte_tokenizer(family.name)
    save_tokenizer(tokenizer, folder)
    ids = {"mask_token_id": tokenizer.convert_tokens_to_ids(FRAMES[family.name].mask)}
    raw.update(ids, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, vocab_size=len(tokenizer))


def _write_model(family: Family, raw: Mapping[str, Any], folder: Path) -> int:
    """Write config and weights; return the number of parameters."""
    (folder / CONFIG).write_text(json.dumps(raw, indent=2) + "\n")
    config = read_config(folder)[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = family.model(config)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    return sum(p.numel() for p in model.parameters())
