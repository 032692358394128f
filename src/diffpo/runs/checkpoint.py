"""Checkpoints: a model's Hugging Face folder that also holds what resuming needs, written whole or not at all."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from diffpo.core.errors import UserError
from diffpo.core.files import flush_entry, flush_tree
from diffpo.models.model_paths import CHECKPOINT, checkpoints
from diffpo.sampling.policy import Policy, save


@runtime_checkable
class HasState(Protocol):
    """What a run has besides its models and must have again to go on: an optimiser, a store of answers."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


@dataclass(frozen=True)
class RunProgress:
    """How far a run is, as its checkpoints record it."""

    step: int = 0
    """Optimisation steps done."""
    denoiser_calls: int = 0
    """Denoiser calls of rollouts and updates so far; of SFT, the sequences it has trained on."""
    is_finished: bool = False
    """Whether SFT has ended, which early stopping may do before the last step. RL goes by its budget."""


def save_checkpoint(
    run: Path,
    progress: RunProgress,
    policy: Policy,
    to_restore: Mapping[str, HasState],
    keep: int,
) -> Path:
    """Write the folder `run/checkpoint-STEP` and delete all but the last `keep` checkpoints; return the new one.

    It is written under another name, flushed to the disk and renamed, so that a folder of that name is always whole.
    """
    final = run / f"{CHECKPOINT}{progress.step}"
    temporary = run / f".{final.name}.tmp"
    for left in run.glob(f".{CHECKPOINT}*.tmp"):  # by a process that ended while it wrote
        shutil.rmtree(left)
    temporary.mkdir(parents=True)
    save(policy, temporary)
    torch.save({name: part.state_dict() for name, part in to_restore.items()}, temporary / "optimizer.pt")
    (temporary / "progress.json").write_text(json.dumps(vars(progress)) + "\n")
    flush_tree(temporary)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    flush_entry(run)
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return final


def read_progress(checkpoint: Path) -> RunProgress:
    """Return how far the run was when the checkpoint was written."""
    return RunProgress(**json.loads((checkpoint / "progress.json").read_text()))


def restore(checkpoint: Path, to_restore: Mapping[str, HasState]) -> None:
    """Give the parts, by name, the state that they had when the checkpoint was written.

    Raises UserError where it is the state of other parts: an earlier version divided a model's weights otherwise.
    """
    states: dict[str, Any] = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    for name, part in to_restore.items():
        try:
            part.load_state_dict(states[name])
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{checkpoint} was written by a version of diffpo whose optimiser kept other numbers, so the run cannot "
                f"go on; start a new one from its model: base={checkpoint}"
            ) from error
