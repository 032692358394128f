"""Going on from a checkpoint: how far its run was, whether it is whole, and the state of what was trained."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from diffpo.core.errors import UserError
from diffpo.models.manifest import HAS_MANIFEST, MANIFEST, OPTIMIZER, PROGRESS, problems_of
from diffpo.models.model_paths import CHECKPOINT, SHARDS, first_line
from diffpo.models.shards import read_shards, shapes_of
from diffpo.runs.divided_state import put_together


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
    is_good_enough: bool | None = None
    """Whether early stopping has ended SFT, so that more steps change nothing; None where that was not recorded."""
    base: str | None = None
    """Fingerprint of the model that the run started from; None where there is none or it was not recorded."""


def read_progress(checkpoint: Path) -> RunProgress:
    """Return how far the run was when the checkpoint was written. Raises UserError for a file that cannot be read."""
    file = checkpoint / PROGRESS
    try:
        content = json.loads(file.read_text())
        content.pop(HAS_MANIFEST, None)
        return RunProgress(**content)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{file} cannot be read ({first_line(error)}); remove {checkpoint} to go on before it"
        ) from error


def problems_on_resume(checkpoint: Path) -> list[str]:
    """Return what keeps a run from going on from a checkpoint, a phrase for each file. Every byte of it is read."""
    if problems := problems_of(checkpoint):
        return problems
    try:
        content = json.loads((checkpoint / PROGRESS).read_text())
        step, had_manifest = content["step"], content.get(HAS_MANIFEST, False)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return [f"{PROGRESS} cannot be read ({first_line(error)})"]
    if had_manifest and not (checkpoint / MANIFEST).exists():
        return [f"{MANIFEST} is missing"]
    if checkpoint.name != f"{CHECKPOINT}{step}":
        return [f"it is that of step {step} under another name"]
    return []


def restore(checkpoint: Path, to_restore: Mapping[str, HasState], model: torch.nn.Module) -> None:
    """Give the parts, by name, the state that they had when the checkpoint was written.

    What is divided among processes then and now need not be divided in the same way.

    Raises UserError for a file that cannot be read, and where it has the state of other parts: another run's, or those
    of an earlier version, which divided a model's weights otherwise.
    """
    file = checkpoint / OPTIMIZER
    try:
        states: dict[str, Any] = torch.load(file, weights_only=True)
    except Exception as error:  # a damaged file makes the unpickler and the archive's reader raise all kinds
        raise UserError(
            f"{file} cannot be read ({first_line(error)}); remove {checkpoint} to go on before it"
        ) from error
    if lacking := [name for name in to_restore if name not in states]:
        raise UserError(f"{file} has no state of {', '.join(lacking)}; it belongs to another kind of run")
    if (checkpoint / SHARDS).is_dir():
        try:
            states, tensors = put_together(states, shapes_of(checkpoint / SHARDS), model)
        except KeyError as error:
            raise UserError(f"{checkpoint / SHARDS} lacks {error}; remove {checkpoint} to go on before it") from error
        read_shards(checkpoint / SHARDS, tensors)
    for name, part in to_restore.items():
        try:
            part.load_state_dict(states[name])
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{checkpoint} was written by a version of diffpo whose optimiser kept other numbers, so the run "
                f"cannot go on; start a new one from its model: base={checkpoint}"
            ) from error
