"""Checkpoints: a model's Hugging Face folder that also holds what resuming needs, written whole or not at all."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError

from diffpo.core.errors import UserError
from diffpo.core.files import flush_entry, flush_tree
from diffpo.distributed.collectives import on_rank_zero
from diffpo.distributed.process import current_process
from diffpo.distributed.sharding import drop_gathered_, is_sharded, whole
from diffpo.models.adapters import has_adapter, is_factor
from diffpo.models.loading import build_on_meta
from diffpo.models.manifest import HAS_MANIFEST, MANIFEST, OPTIMIZER, PROGRESS, problems_of, write_manifest
from diffpo.models.model_paths import CHECKPOINT, METRICS, RECIPE, SHARDS, checkpoints, first_line
from diffpo.models.shards import dtype_of, export_weights, read_shards, shapes_of, write_shards
from diffpo.runs.divided_state import gather_state, put_together, take_apart
from diffpo.runs.model_card import write_card
from diffpo.sampling.policy import Policy, save

WRITING, REPLACED = ".tmp", ".replaced"
"""Endings of hidden folders: a checkpoint that is being written or removed, and one that another is to replace."""


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


def save_checkpoint(
    run: Path,
    progress: RunProgress,
    policy: Policy,
    to_restore: Mapping[str, HasState],
    keep: int,
    is_last: bool = False,
) -> None:
    """Write the folder `run/checkpoint-STEP` and delete all but the last `keep` checkpoints.

    It is written under another name, with a manifest of its files, flushed to the disk and renamed, so that a folder of
    that name is always whole; older ones are removed after that. All processes call this, and the first writes; of a
    sharded model each writes its part, and with `is_last` the first adds the weights as a published folder has them.

    Raises UserError where the disk is full or cannot be written; the older ones stay.
    """
    final = run / f"{CHECKPOINT}{progress.step}"
    temporary = run / f".{final.name}{WRITING}"
    model = policy.denoiser.model
    drop_gathered_(model)
    states: dict[str, Any] = {name: part.state_dict() for name, part in to_restore.items()}
    weights: Mapping[str, torch.Tensor] | None = None
    shards: Mapping[str, torch.Tensor] = {}
    if is_sharded(model) and has_adapter(model):  # which is small
        states = gather_state(states)
        weights = {name: whole(value) for name, value in model.state_dict().items() if is_factor(name)}
    elif is_sharded(model):
        states, shards = take_apart(states, model)
        weights = {}
    with explain_failed_save(run):
        try:
            on_rank_zero(_begin, temporary, policy, states, weights)
            if shards:
                write_shards(shards, temporary / SHARDS)
            on_rank_zero(_finish, temporary, progress, bool(shards) and is_last)
        except Exception:
            if current_process().is_main:
                shutil.rmtree(temporary, ignore_errors=True)  # which makes room on a full disk
            raise
        on_rank_zero(_replace_older, temporary, final, keep)


def _begin(
    temporary: Path, policy: Policy, states: Mapping[str, Any], weights: Mapping[str, torch.Tensor] | None
) -> None:
    """Write what one process has of a checkpoint."""
    with explain_failed_save(temporary.parent):
        tidy(temporary.parent)
        temporary.mkdir(parents=True)
        save(policy, temporary, weights)
        _save_states(states, temporary / OPTIMIZER)


def _finish(temporary: Path, progress: RunProgress, is_exported: bool) -> None:
    """Write what says that a checkpoint is whole; before that, with `is_exported`, the weights in its shards again."""
    metrics = temporary.parent / METRICS
    with explain_failed_save(temporary.parent):
        if is_exported:
            export_weights(temporary, build_on_meta(temporary)[0], temporary, dtype_of(temporary))
        (temporary / PROGRESS).write_text(json.dumps(vars(progress) | {HAS_MANIFEST: True}) + "\n")
        write_card(temporary, temporary.parent)
        write_manifest(temporary)
        flush_tree(temporary)
        if metrics.exists():
            flush_entry(metrics)


def _replace_older(temporary: Path, final: Path, keep: int) -> None:
    with explain_failed_save(final.parent):
        _put_in_place(temporary, final)
        for old in checkpoints(final.parent)[:-keep]:
            _remove(old)


def _save_states(states: Mapping[str, Any], file: Path) -> None:
    try:
        torch.save(dict(states), file)
    except RuntimeError as error:  # torch's word for a file that it cannot write
        raise OSError(f"{file.name}: {first_line(error)}") from error


def _put_in_place(temporary: Path, final: Path) -> None:
    """Give a new checkpoint its name. One that has the name already is removed when that is done."""
    replaced = final.with_name(f".{final.name}{REPLACED}")
    if final.exists():
        final.rename(replaced)
    temporary.rename(final)
    flush_entry(final.parent)
    if replaced.exists():
        shutil.rmtree(replaced)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint; where that is interrupted, no half of it has a checkpoint's name."""
    doomed = checkpoint.with_name(f".{checkpoint.name}{WRITING}")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def tidy(run: Path) -> None:
    """Remove what a process has left that ended while it wrote to the run, and undo a replacement that was half done.

    No other process may be at work on the run.
    """
    for left in run.glob(f".{CHECKPOINT}*{REPLACED}"):
        final = run / left.name.removeprefix(".").removesuffix(REPLACED)
        if final.exists():
            shutil.rmtree(left)
        else:
            left.rename(final)
    for left in run.glob(f".{CHECKPOINT}*{WRITING}"):
        shutil.rmtree(left)
    for name in (RECIPE, METRICS):
        for half in run.glob(f".{name}.*{WRITING}"):  # of `write_whole`
            half.unlink()


@contextmanager
def explain_failed_save(run: Path) -> Iterator[None]:
    """Turn what a full or broken disk raises into a UserError that says what is left of the run and how to go on."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or first_line(error)
        found = checkpoints(run)
        left = f"its last checkpoint is {found[-1].name}" if found else "it has no checkpoint yet"
        raise UserError(
            f"cannot write to {run} ({reason}), so the run has stopped; {left}; make room, then go on with --resume"
        ) from error


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
