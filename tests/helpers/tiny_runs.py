"""Recipes of runs that take a second, the model that they start from, and what such a run has written."""

import fcntl
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffpo.models.manifest import MANIFEST
from diffpo.models.model_paths import METRICS, checkpoints
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import RlRecipe, SftRecipe
from diffpo.runs.resume import read_progress
from diffpo.training.sft import run_sft

# A model of this shape solves half of these puzzles after a second of SFT: RL then has something to credit.
TASK = ["threads=1", "task.min_clues=13", "task.max_clues=15"]
SHAPE = ["model.d_model=32", "model.n_layers=2", "model.n_heads=2", "model.mlp_hidden_size=48"]
SFT = [*TASK, *SHAPE, "batch=32", "weighting=uniform", "optimizer.lr=0.01"]
RL = [
    *TASK,
    "task.cell_credit=0.5",
    "train=joint",
    "rollout.prompts_per_step=3",
    "rollout.group_size=4",
    "objective.nfe_penalty=0.5",
    "objective.importance_cap=2.0",
    "objective.micro_batch_size=5",
    "optimizer.lr=0.001",
    "optimizer.warmup=3",
    "optimizer.decay=linear",
    "controller.momentum=0.3",
    "controller.optimizer.decay=linear",
]
GREEDY_STAGE = ["controller.greedy_stage.share=0.3", "controller.greedy_stage.nfe_penalty=0.9"]


def sft_recipe(*overrides: str) -> SftRecipe:
    return load_recipe(SftRecipe, None, [*SFT, "batch=8", *overrides])


def rl_overrides(base: Path, *overrides: str) -> list[str]:
    return [*RL, f"base={json.dumps(str(base))}", *overrides]


def rl_recipe(base: Path, *overrides: str) -> RlRecipe:
    return load_recipe(RlRecipe, None, rl_overrides(base, *overrides))


def toml_of(overrides: Sequence[str]) -> str:
    """Return overrides as a recipe's text. Dotted keys are TOML; only bare words need quotes."""
    pairs = (override.split("=", 1) for override in overrides)
    return "".join(f"{key} = {json.dumps(value) if value.isalpha() else value}\n" for key, value in pairs)


def trained_once(folder: Path, overrides: Sequence[str]) -> Path:
    """Return an SFT run in `folder`, trained by whichever process asks first while the others wait for it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            run_sft(load_recipe(SftRecipe, None, overrides), unfinished)
            unfinished.rename(folder)
    return folder


# ------------------------------------------------------------------------------------------------------ what is written


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / METRICS).read_text().splitlines()]


def weights_of(folder: Path) -> dict[str, bytes]:
    """Return every tensor in a folder's safetensors files, bit by bit, a controller's running statistics included."""
    return {
        f"{file.name}/{name}": bytes_of(tensor)
        for file in folder.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of every leaf of nested containers; tensors as bytes."""
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{where}/{key}")
    else:
        yield where, bytes_of(value) if isinstance(value, Tensor) else value


def bytes_of(tensor: Tensor) -> bytes:
    """Return a tensor's numbers bit by bit; numpy has no bfloat16."""
    return tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.dim() else tensor.numpy().tobytes()


def snapshot(run: Path) -> dict[str, Any]:
    """Return all that a run has become: its last checkpoint's weights and optimisers, and its log without the times."""
    last = checkpoints(run)[-1]
    optimizers = dict(leaves(torch.load(last / "optimizer.pt", weights_only=True), "optimizer"))
    log = [{key: value for key, value in line.items() if not key.endswith("seconds")} for line in lines_of(run)]
    return weights_of(last) | optimizers | {"progress": read_progress(last), "log": log}


def make_old(checkpoint: Path) -> None:
    """Leave a checkpoint as versions before manifests wrote it."""
    (checkpoint / MANIFEST).unlink()
    progress = json.loads((checkpoint / "progress.json").read_text())
    kept = {name: progress[name] for name in ("step", "denoiser_calls", "is_finished")}
    (checkpoint / "progress.json").write_text(json.dumps(kept) + "\n")
