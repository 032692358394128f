"""Load models from folders and save them; what does not fit together is refused by name."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from transformers import (
    AddedToken,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from diffpo.core.errors import UserError
from diffpo.models.adapters import load_adapter
from diffpo.models.chat import MEND, encode_prompt
from diffpo.models.config_check import shown, used_fields, wrong_field, wrong_id
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.dream import DREAM, DreamConfig, DreamTokenizer
from diffpo.models.family import Family
from diffpo.models.fingerprint import check_base_of
from diffpo.models.llada import LLADA
from diffpo.models.manifest import whole_folder
from diffpo.models.model_paths import (
    CONFIG,
    base_path,
    first_line,
    has_shards,
    has_tokenizer,
    is_adapter,
    join_names,
    read_json,
    weight_files,
)
from diffpo.models.quantised import quantise
from diffpo.models.shards import load_shards
from diffpo.models.weights import check_weights, read_weights

disable_progress_bar()  # a bar per checkpoint would break the run's own
FAMILIES = {family.config.model_type: family for family in (LLADA, DREAM)}
for _type, _family in FAMILIES.items():
    AutoConfig.register(_type, _family.config, exist_ok=True)
    AutoModelForMaskedLM.register(_family.config, _family.model, exist_ok=True)
AutoTokenizer.register(DreamConfig, fast_tokenizer_class=DreamTokenizer, exist_ok=True)

GENERATION_CONFIG = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

PADDED_TO, MOST_PADDING = 64, 512
"""Published embeddings are padded with rows that are no tokens, up to a round number: LLaDA has 115, Dream 397."""


# -------------------------------------------------------------------------------------------------------------- models


def load_denoiser(
    folder: Path,
    dtype: torch.dtype | None = torch.float32,
    device: str | torch.device = "cpu",
    bits: Literal[4] | None = None,
    base: str | None = None,
) -> tuple[ModelDenoiser, PreTrainedTokenizerFast]:
    """Return the model in a local folder with its weights as `dtype` on `device`, and its tokenizer.

    `dtype` None keeps for each weight the one that it is stored in.

    None of the folder's Python is run. Everything is checked before a weight is read, and weights are loaded one file
    at a time. Raises UserError for a family that is not known, for a config that diffpo does not compute, for a
    missing, extra or misshapen weight, and for a tokenizer that does not fit, each by name. An adapter's folder gives
    its base model with the adapter on it, trainable; the base is the one that it names, or `base`, the same model at
    another path. `bits`: store the blocks' matrices in so many bits, frozen (`models/quantised.py`).
    """
    if is_adapter(folder):
        path = Path(base) if base else base_path(folder)
        found = whole_folder(path)
        check_base_of(folder, found)
        denoiser, tokenizer = load_denoiser(found, dtype, device, bits)
        if not path.exists():
            denoiser.model.name_or_path = str(path)  # the hub's name, and not a folder of its cache
        load_adapter(denoiser.model, folder)
        return denoiser, tokenizer
    model, config = build_on_meta(folder)
    files = weight_files(folder)
    if not has_shards(folder):
        check_weights(model, files, folder)
    tokenizer = load_tokenizer(folder, config)
    generation_config = _read_generation_config(folder)
    denoiser = make_denoiser(model, tokenizer, generation_config, source=str(folder))
    model.name_or_path = str(folder.absolute())  # an adapter on it names it so, and may be read from elsewhere
    if has_shards(folder):
        load_shards(model, folder, dtype, device)
    else:
        read_weights(model, files, dtype, device)
    if bits == 4:
        quantise(model)
    return denoiser, tokenizer


def build_on_meta(folder: Path) -> tuple[PreTrainedModel, PretrainedConfig]:
    """Return a folder's model without its weights, and its config. Raises UserError as `load_denoiser` does."""
    family, config = read_config(folder)
    with torch.device("meta"):
        return _build_model(family, config, folder), config


def save_denoiser(
    denoiser: ModelDenoiser,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a folder that `load_denoiser` reads back bit for bit, with the published names in config and weights.

    `weights`: what is written in place of the model's, whose own are divided among processes; where there are none, the
    folder gets no weights.
    """
    model = denoiser.model
    if weights == {}:
        model.config.architectures = [FAMILIES[model.config.model_type].model.__name__]
        model.config.save_pretrained(folder)
    else:
        model.save_pretrained(folder, state_dict=weights)
    save_tokenizer(tokenizer, folder)
    config = dict(denoiser.generation_config) | {"eos_token_id": list(denoiser.stop_ids)}
    (folder / GENERATION_CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a tokenizer's files, with a class that transformers 4 knows, too.

    Transformers 5 calls its class TokenizersBackend, and reads the older name for it.
    """
    tokenizer.save_pretrained(folder)
    file = folder / TOKENIZER_CONFIG
    config = read_json(file)
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def make_denoiser(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    generation_config: Mapping[str, Any] = MappingProxyType({}),
    source: str = "this model",
) -> ModelDenoiser:
    """Wrap a model for decoding; it is set to evaluation mode, for training, too: there is no dropout.

    The mask token is the config's, else the tokenizer's, else the family's published one; the tokenizer is made to
    treat it as special, and gets a padding token where it has none. A completion ends at any `eos_token_id` of
    tokenizer, config or `generation_config`, or at the token that ends a turn of the family's chat. Raises UserError
    where tokenizer and embedding do not belong together, or where one of them lacks the mask token.
    """
    family = FAMILIES[model.config.model_type]
    vocabulary = tokenizer.get_vocab()
    size, rows = max(vocabulary.values()) + 1, model.get_input_embeddings().num_embeddings
    is_padded = rows % PADDED_TO == 0 and 0 < rows - size < MOST_PADDING
    if size != rows and not is_padded:
        raise UserError(
            f"{source} has a tokenizer of {size} tokens and an embedding of {rows}; bring the tokenizer files that "
            f"belong to its weights"
        )
    mask_id = next(
        index for index in (model.config.mask_token_id, tokenizer.mask_token_id, family.mask_id) if index is not None
    )
    mask_token = tokenizer.added_tokens_decoder.get(mask_id)
    if mask_token is None:
        raise UserError(
            f"{source} has no mask token: id {mask_id} is no special token of its tokenizer; "
            f"set mask_token_id in its config.json, or bring the tokenizer files that belong to it"
        )
    if not mask_token.special:  # else a user's text could be encoded as it
        tokenizer.add_special_tokens({"mask_token": AddedToken(mask_token.content, normalized=False, special=True)})
    if tokenizer.eos_token_id is None:
        raise UserError(f"{source} has a tokenizer without an end of text; set eos_token in its tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _check_template(tokenizer, mask_id, source)
    ends = {tokenizer.eos_token_id, *_as_ids(getattr(model.config, "eos_token_id", None))}
    ends |= set(_as_ids(generation_config.get("eos_token_id")))
    ends |= {vocabulary[token] for token in (family.turn_end,) if token in vocabulary}
    return ModelDenoiser(
        model.eval(),
        mask_id=mask_id,
        stop_ids=tuple(sorted(ends)),
        vocabulary=size if is_padded else None,
        generation_config=generation_config,
    )


def _check_template(tokenizer: PreTrainedTokenizerFast, mask_id: int, source: str) -> None:
    """Raise UserError for a chat template that puts masks into prompts. One that cannot be rendered is told at use."""
    try:
        ids = encode_prompt(tokenizer, "1") if tokenizer.chat_template else []
    except UserError:
        return
    if mask_id in ids:
        mask = tokenizer.added_tokens_decoder[mask_id].content
        raise UserError(f"the chat template of {source} writes the mask token, {mask!r}, into every prompt; {MEND}")


# --------------------------------------------------------------------------------------------------- pieces of a folder


def read_config(folder: Path) -> tuple[Family, PretrainedConfig]:
    """Return the family of a folder's model, and its config.

    Raises UserError for an unknown family, a missing field, or a field whose value diffpo does not compute.
    """
    raw = used_fields(read_json(folder / CONFIG))
    family = FAMILIES.get(str(raw.get("model_type")))
    if family is None:
        known = " and ".join(map(repr, FAMILIES))
        named = f"{raw.get('model_type')!r:.40}"
        raise UserError(f"{folder} holds a model of type {named}, and diffpo knows {known}; name such a folder")
    published = family.model.__name__
    classes = raw.get("architectures") or [published]
    classes = classes if isinstance(classes, list) else [classes]
    if published not in classes:
        named = join_names([f"{name!s:.60}" for name in classes])
        raise UserError(f"{folder} holds a {named}, which diffpo does not know; name a {published} folder")
    rope = raw.get("rope_parameters")
    given = raw | (rope if isinstance(rope, dict) else {})
    if lacking := [field for field in family.required if given.get(field) is None]:
        raise UserError(f"{folder / CONFIG} lacks {', '.join(lacking)}; bring the config that belongs to the weights")
    for field, value in family.fixed.items():
        if given.get(field) not in (None, value):
            raise UserError(
                f"{folder / CONFIG} sets {field} to {shown(given[field])}, and diffpo computes {family.name} "
                f"with {value!r} only; name a folder with such a model"
            )
    if wrong := wrong_field(family, given):
        raise UserError(f"{folder / CONFIG} describes no {family.name} model: {wrong}")
    try:
        return family, family.config.from_dict(raw)
    except Exception as error:  # transformers checks other fields, and raises classes of its own
        raise UserError(f"{folder / CONFIG} describes no {family.name} model: {first_line(error)}") from error


def load_tokenizer(folder: Path, config: PretrainedConfig) -> PreTrainedTokenizerFast:
    """Return the folder's tokenizer, by AutoTokenizer and without running the folder's Python.

    `config` is the model's: AutoTokenizer would read config.json anew, as it stands. Raises UserError where there is
    no tokenizer, or none with a fast form.
    """
    if not has_tokenizer(folder):
        raise UserError(f"{folder} has no tokenizer.json; bring the tokenizer files that belong to the model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, trust_remote_code=False)
        tokenizer.encode("")  # a field of a wrong type may be read only here
    except Exception as error:  # tokenizers raises a bare Exception for a broken file
        raise UserError(f"the tokenizer in {folder} cannot be loaded: {first_line(error)}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"{folder} holds a tokenizer of type {type(tokenizer).__name__}, which has no fast form")
    return tokenizer


def _build_model(family: Family, config: PretrainedConfig, folder: Path) -> PreTrainedModel:
    try:
        return family.model(config)
    except Exception as error:  # as above: a field of transformers' own may have any value
        raise UserError(f"{folder / CONFIG} describes no {family.name} model: {first_line(error)}") from error


def _read_generation_config(folder: Path) -> dict[str, Any]:
    file = folder / GENERATION_CONFIG
    config = read_json(file) if file.is_file() else {}
    if wrong := wrong_id("eos_token_id", config.get("eos_token_id")):
        raise UserError(f"{file} does not say where completions end: {wrong}")
    return config


def _as_ids(value: Any) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)
