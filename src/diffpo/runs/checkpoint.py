"""Checkpoints: a Hugging Face folder with what resuming needs beside it, written whole or not at all."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerFast

from diffpo.sampling.controller import Controller
from diffpo.models.model_paths import CHECKPOINT, base_folder, checkpoints, model_folder
from diffpo.core.files import flush_entry, flush_tree
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.loading import load_denoiser, save_denoiser
from diffpo.sampling.controller_files import load_controller, save_controller
from diffpo.runs.optimizer import Optimizer


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    step: int = 0
    denoiser_calls: int = 0
    is_finished: bool = False


def save_checkpoint(
    run: Path,
    progress: Progress,
    denoiser: ModelDenoiser,
    tokenizer: PreTrainedTokenizerFast,
    controller: Controller | None,
    optimizers: dict[str, Optimizer],
    keep: int,
) -> Path:
    """Write `run/checkpoint-STEP` under another name, flush it to disk, rename it; drop all but the last `keep`."""
    final = run / f"{CHECKPOINT}{progress.step}"
    temporary = run / f".{final.name}.tmp"
    for left in run.glob(f".{CHECKPOINT}*.tmp"):  # by a process that ended while it wrote
        shutil.rmtree(left)
    temporary.mkdir(parents=True)
    save_denoiser(denoiser, tokenizer, temporary)
    if controller is not None:
        save_controller(controller, temporary)
    torch.save({name: optimizer.state_dict() for name, optimizer in optimizers.items()}, temporary / "optimizer.pt")
    (temporary / "progress.json").write_text(json.dumps(vars(progress)) + "\n")
    flush_tree(temporary)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    flush_entry(run)
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return final


def read_progress(checkpoint: Path) -> Progress:
    return Progress(**json.loads((checkpoint / "progress.json").read_text()))


def restore_optimizers(checkpoint: Path, optimizers: dict[str, Optimizer]) -> None:
    states: dict[str, Any] = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(states[name])


def load(
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    bits: Literal[4] | None = None,
) -> tuple[ModelDenoiser, PreTrainedTokenizerFast, Controller | None]:
    """Denoiser, tokenizer and, where the model was trained with one, its learned sampler.

    `path` is a model's folder, a run's, or a hub name ORG/NAME. The weights are converted to `dtype`, on `device`; with
    `bits` those of the blocks are frozen and quantised.
    """
    folder = model_folder(Path(path))
    denoiser, tokenizer = load_denoiser(folder, dtype, device, bits)
    if not Path(path).exists():  # an adapter trained on it names its base by the hub's name, not by a cache's folder
        denoiser.model.name_or_path = str(path)
    return denoiser, tokenizer, load_controller(folder)


def load_base(
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    bits: Literal[4] | None = None,
) -> tuple[ModelDenoiser, PreTrainedTokenizerFast, Controller | None]:
    """A model to train from. Raises UserError for an adapter, on which no other can be put."""
    base_folder(Path(path))
    return load(path, dtype, device, bits)
