"""Find the folder of a model: the folder itself, the last checkpoint of a run, an adapter's, or the hub's files.

This module imports no torch, so that a wrong name is refused at once.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from diffpo.core.errors import UserError
from diffpo.core.files import is_file
from diffpo.core.output import warn
from diffpo.models.hub import check_model_path, fetch, is_hub_name

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDS = "shards"
"""A folder in a checkpoint of a sharded run: weights and moments, a file from each process."""
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
HUB_FILES = ("*.json", "*.safetensors", "merges.txt", "*.jinja")  # never a repository's Python
CHECKPOINT = "checkpoint-"
LONGEST_LINE = 300  # of a library's words in a sentence of ours: it may repeat a whole file
RECIPE = "recipe.toml"
METRICS = "metrics.jsonl"
REWARD_SOURCE = "reward-source.py"
"""In a run's folder: the recipe that it was started with, a line of metrics for each step, and, for reading, the source
of rewards that were handed over in Python."""


def model_folder(path: Path) -> Path:
    """Return the folder with the weights: the path, the last checkpoint of the run there, or a hub model's files.

    Raises UserError where there is none.
    """
    if (path / CONFIG).is_file() or is_adapter(path):
        return path
    if found := checkpoints(path):
        return found[-1]
    if path.is_dir():
        raise UserError(f"{path} holds neither a model ({CONFIG}) nor a run's checkpoint-N folders; name one that does")
    check_model_path(str(path))
    return find_model(str(path))


def base_folder(path: Path) -> Path:
    """Return the folder of a model to train from. Raises UserError for an adapter: no adapter is put on another."""
    folder = model_folder(path)
    if is_adapter(folder):
        raise UserError(
            f"{path} holds an adapter of {base_of(folder)}, not a model; make one of both first: diffpo merge {path} "
            "--out DIR"
        )
    return folder


def checkpoints(run: Path) -> list[Path]:
    """Return the run's complete checkpoints, oldest first."""
    found = [path for path in run.glob(f"{CHECKPOINT}*") if path.name.removeprefix(CHECKPOINT).isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(CHECKPOINT)))


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter in PEFT's format."""
    return (folder / ADAPTER_CONFIG).is_file()


def base_of(folder: Path) -> str:
    """Return the path or hub name of the model that an adapter was trained on."""
    try:
        return str(json.loads((folder / ADAPTER_CONFIG).read_text())["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / ADAPTER_CONFIG} cannot be read ({error}); is it an adapter of PEFT's?") from error


def base_path(folder: Path) -> Path:
    """Return where the model is that an adapter was trained on: a folder here, or a hub name.

    What diffpo writes is an absolute path or a hub name. Of other files' relative paths, one that is a folder here is
    taken, and stderr says so. Raises UserError where the folder is not there; the hub is not asked for it.
    """
    name = base_of(folder)
    path = Path(name)
    if not path.is_dir() and (path.is_absolute() or not is_hub_name(name)):
        raise UserError(
            f"{folder} holds an adapter of the model in {name}, which is not there; bring it back, or merge both from "
            f"where it is now: diffpo merge {folder} --base DIR --out DIR"
        )
    if path.is_dir() and not path.is_absolute():
        warn(f"diffpo: {folder} holds an adapter of {name}; the folder {path.absolute()} is taken for it")
    return path


def find_model(name: str) -> Path:
    """Return the folder of a model of the hub, cached or downloaded, without its Python."""
    return fetch(name, "model", HUB_FILES, is_complete)


def is_complete(folder: Path) -> bool:
    """Return whether a folder has a config, a tokenizer and all weight files."""
    if not (folder / CONFIG).is_file() or not has_tokenizer(folder):
        return False
    try:
        return bool(weight_files(folder))
    except UserError:
        return False


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder holds a tokenizer's files."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def has_shards(folder: Path) -> bool:
    """Return whether a model's weights are there in shards alone."""
    is_exported = (folder / WEIGHTS).is_file() or (folder / WEIGHTS_INDEX).is_file()
    return (folder / SHARDS).is_dir() and not is_exported


def weight_files(folder: Path) -> list[Path]:
    """Return the folder's safetensors files: one, those that its index names, or shards where it has these alone.

    Raises UserError if one is missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if has_shards(folder):
        return sorted((folder / SHARDS).glob("*.safetensors"))
    if not (folder / WEIGHTS_INDEX).is_file():
        raise UserError(f"{folder} cannot be loaded: it has neither {WEIGHTS} nor {WEIGHTS_INDEX}; bring one of them")
    file_of = read_json(folder / WEIGHTS_INDEX).get("weight_map")
    if not isinstance(file_of, dict):
        raise UserError(f"{folder / WEIGHTS_INDEX} has no weight_map; bring the index that belongs to the weights")
    names = sorted({str(name) for name in file_of.values()})
    if lacking := [name for name in names if Path(name).name != name or not is_file(folder / name)]:
        named = join_names([f"{name:.80}" for name in lacking])
        raise UserError(
            f"{folder} cannot be loaded: its index names {named}, which is not there; fetch what is missing"
        )
    return [folder / name for name in names]


def read_json(file: Path) -> dict[str, Any]:
    """Return a file's JSON object; an empty one for other JSON. Raises UserError for what is no JSON."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read ({first_line(error)}); is the folder a model's?") from error
    return cast(dict[str, Any], content) if isinstance(content, dict) else {}


def join_names(names: Sequence[str], most: int = 5) -> str:
    """Return up to `most` names with commas, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, up to LONGEST_LINE, or the error's type where it has none."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."
