"""Checkpoints: a model's Hugging Face folder that also holds what resuming needs, written whole or not at all."""

import errno
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from diffpo.core.errors import UserError
from diffpo.core.files import flush_entry, flush_tree
from diffpo.distributed.collectives import all_gather_json, on_rank_zero, raise_on_all_ranks
from diffpo.distributed.process import current_process
from diffpo.distributed.sharding import drop_gathered_, is_sharded, whole
from diffpo.models.adapters import has_adapter, is_factor
from diffpo.models.loading import build_on_meta
from diffpo.models.manifest import (
    HAS_MANIFEST,
    OPTIMIZER,
    PROGRESS,
    FileRecord,
    record_of,
    write_manifest,
)
from diffpo.models.model_paths import CHECKPOINT, METRICS, SHARDS, checkpoints, first_line
from diffpo.models.shards import dtype_of, export_weights, write_shards
from diffpo.runs.checkpoint_folders import hidden_folder, put_in_place, remove, tidy
from diffpo.runs.divided_state import gather_state, take_apart
from diffpo.runs.model_card import write_card
from diffpo.runs.resume import HasState, RunProgress
from diffpo.sampling.policy import Policy, save


@dataclass(frozen=True)
class Begun:
    """A checkpoint of which the small files are written, in a hidden folder; `complete` does the rest."""

    final: Path
    temporary: Path
    progress: RunProgress
    shards: Mapping[str, torch.Tensor]
    """Weights and moments of a sharded model by name, of which each process has its part; empty of other models."""
    keep: int
    is_last: bool


def begin_checkpoint(
    run: Path,
    progress: RunProgress,
    policy: Policy,
    to_restore: Mapping[str, HasState],
    keep: int,
    is_last: bool = False,
) -> Begun:
    """Begin the folder `run/checkpoint-STEP`, which `complete` finishes: write what is small in it.

    All processes call both. `shards` of what is returned are the run's own tensors: they must stay as they are until
    then, or be replaced by copies.
    """
    final = run / f"{CHECKPOINT}{progress.step}"
    temporary = hidden_folder(final)
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
    with _removed_if_it_fails(temporary):
        on_rank_zero(_begin, temporary, policy, states, weights)
    return Begun(final, temporary, progress, shards, keep, is_last)


def complete(begun: Begun) -> None:
    """Write the rest of a checkpoint, give it its name, and delete all but the last `keep` checkpoints.

    Till then it has another name. It gets a manifest of its files, is flushed to the disk and renamed, so that a folder
    of that name is always whole; older ones are removed after that. The first process writes; of a sharded model each
    writes its part, and of the run's last checkpoint the first adds the weights as a published folder has them.

    Raises UserError where the disk is full or cannot be written; the older ones stay.
    """
    temporary = begun.temporary
    with _removed_if_it_fails(temporary):
        known: dict[str, FileRecord] = {}
        if begun.shards:
            own = write_shards(begun.shards, temporary / SHARDS)
            for each in all_gather_json(_flushed(own, temporary)):
                known |= each
        on_rank_zero(_finish, temporary, begun.progress, bool(begun.shards) and begun.is_last, known)
    on_rank_zero(_replace_older, temporary, begun.final, begun.keep)


@contextmanager
def _removed_if_it_fails(temporary: Path) -> Iterator[None]:
    """Remove what is there of a checkpoint where the block fails, and say why that ends the run."""
    with explain_failed_save(temporary.parent):
        try:
            yield
        except Exception:
            if current_process().is_main:
                shutil.rmtree(temporary, ignore_errors=True)  # which makes room on a full disk
            raise


def _flushed(files: Iterable[Path], temporary: Path) -> dict[str, FileRecord]:
    """Put this process's files on the disk, and return what the manifest says of them: each hashes what it wrote."""
    with raise_on_all_ranks(), explain_failed_save(temporary.parent):
        found = {}
        for file in files:
            flush_entry(file)
            found[file.relative_to(temporary).as_posix()] = record_of(file)
        return found


def _begin(
    temporary: Path, policy: Policy, states: Mapping[str, Any], weights: Mapping[str, torch.Tensor] | None
) -> None:
    """Write what one process has of a checkpoint."""
    with explain_failed_save(temporary.parent):
        tidy(temporary.parent)
        temporary.mkdir(parents=True)
        save(policy, temporary, weights)
        _save_states(states, temporary / OPTIMIZER)


def _finish(temporary: Path, progress: RunProgress, is_exported: bool, known: Mapping[str, FileRecord]) -> None:
    """Write what says that a checkpoint is whole; before that, with `is_exported`, the weights in its shards again."""
    metrics = temporary.parent / METRICS
    with explain_failed_save(temporary.parent):
        if is_exported:
            export_weights(temporary, build_on_meta(temporary)[0], temporary, dtype_of(temporary))
        (temporary / PROGRESS).write_text(json.dumps(vars(progress) | {HAS_MANIFEST: True}) + "\n")
        write_card(temporary, temporary.parent)
        write_manifest(temporary, known)
        flush_tree(temporary)
        if metrics.exists():
            flush_entry(metrics)


def _replace_older(temporary: Path, final: Path, keep: int) -> None:
    with explain_failed_save(final.parent):
        put_in_place(temporary, final)
        for old in checkpoints(final.parent)[:-keep]:
            remove(old)


def _save_states(states: Mapping[str, Any], file: Path) -> None:
    try:
        torch.save(dict(states), file)
    except RuntimeError as error:  # torch's word for a file that it cannot write
        raise OSError(f"{file.name}: {first_line(error)}") from error


@contextmanager
def explain_failed_save(run: Path) -> Iterator[None]:
    """Turn what a full or broken disk raises into a UserError that says what is left of the run and how to go on."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or first_line(error)
        if not run.exists():
            raise UserError(f"{run} was removed while a run wrote to it, so that has stopped; start it anew") from error
        found = checkpoints(run)
        left = f"its last checkpoint is {found[-1].name}" if found else "it has no checkpoint yet"
        is_missing = isinstance(error, OSError) and error.errno == errno.ENOENT
        advice = "leave what it writes there" if is_missing else "make room"
        raise UserError(
            f"cannot write to {run} ({reason}), so the run has stopped; {left}; {advice}, then go on with --resume"
        ) from error
