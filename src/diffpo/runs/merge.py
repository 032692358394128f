"""One published folder of what a run has in parts: an adapter with its base, or the shards of a model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from diffpo.core.errors import UserError
from diffpo.core.files import check_writable, explain_write_errors, whole_new_folder
from diffpo.models.adapters import merge_adapter
from diffpo.models.loading import build_on_meta
from diffpo.models.manifest import EVALUATIONS, MANIFEST, OPTIMIZER, PROGRESS, whole_folder
from diffpo.models.model_paths import CONFIG, SHARDS, WEIGHTS, WEIGHTS_INDEX, is_adapter, read_json
from diffpo.models.shards import dtype_of, export_weights
from diffpo.runs.model_card import commands_of, write_card
from diffpo.sampling.policy import load_folder, save


def run_merge(path: Path, out: Path, dtype: torch.dtype | None = None, base: str | None = None) -> None:
    """Write the merged model of the adapter in `path` (a folder or a run) into `out`, as `save` does.

    Of a sharded run's checkpoint the shards become one model. Weights are in `dtype`; None is the one that the base's
    are stored in, or that the sharded run computed in. `base`: where the model under the adapter is now, if it is not
    where it was. There is one copy of the model in memory; of shards, one file of it. Raises UserError where `path` has
    neither an adapter nor shards, and where `out` is not empty or cannot be written.
    """
    folder = whole_folder(path)
    if not is_adapter(folder) and not (folder / SHARDS).is_dir():
        raise UserError(f"{path} holds a whole model and no adapter or shards; there is nothing to merge")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; choose another --out")
    check_writable(out, is_folder=True)
    if not is_adapter(folder):
        with explain_write_errors(out, is_folder=True), whole_new_folder(out) as written:
            _export(folder, written, dtype or dtype_of(folder))
            write_card(written, folder, out.absolute().name, commands_of(folder))
        return
    policy = load_folder(folder, dtype, "cpu", base=base)
    merged = replace(policy.denoiser, model=merge_adapter(policy.denoiser.model))
    with explain_write_errors(out, is_folder=True), whole_new_folder(out) as written:
        save(replace(policy, denoiser=merged), written)
        write_card(written, folder, out.absolute().name, commands_of(folder))


def _export(folder: Path, out: Path, dtype: torch.dtype) -> None:
    """Write a checkpoint of shards as a model's folder: its files without those that training alone reads."""
    left_out = (SHARDS, PROGRESS, OPTIMIZER, MANIFEST, WEIGHTS, WEIGHTS_INDEX, "model-*.safetensors", EVALUATIONS)
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns(*left_out), dirs_exist_ok=True)
    export_weights(folder, build_on_meta(folder)[0], out, dtype)
    config = read_json(out / CONFIG) | {"dtype": str(dtype).removeprefix("torch.")}
    (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
