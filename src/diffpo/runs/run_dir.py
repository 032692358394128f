"""A run's directory: its recipe, a JSON line per step, its checkpoints. A run never overwrites another."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diffpo.core.errors import UserError
from diffpo.core.files import explain_write_errors, write_whole
from diffpo.core.options import Resume
from diffpo.core.output import say, warn
from diffpo.distributed.process import current_process
from diffpo.models.fingerprint import fingerprint
from diffpo.models.manifest import newest_whole, passed_over, warn_unchecked
from diffpo.models.model_paths import METRICS, RECIPE, REWARD_SOURCE, checkpoints, model_folder
from diffpo.recipes.dump import dump_recipe, show_changes
from diffpo.recipes.resumable import changes_on_resume, handed_over
from diffpo.recipes.strict import Strict
from diffpo.runs.checkpoint import explain_failed_save
from diffpo.runs.checkpoint_folders import tidy
from diffpo.runs.metrics_log import cut_metrics
from diffpo.runs.resume import RunProgress, problems_on_resume, read_progress
from diffpo.runs.run_lock import RunLock

DAMAGED = "damaged-"
"""What the name of a checkpoint begins with that was passed over."""


@dataclass(frozen=True)
class Run:
    """A run: its folder, and the checkpoint that it goes on from (None: from the start)."""

    path: Path
    checkpoint: Path | None
    passed: Mapping[Path, list[str]] = field(default_factory=dict)
    """Newer checkpoints that are not whole, and what is wrong with them."""

    @property
    def progress(self) -> RunProgress:
        """How far the run was at that checkpoint."""
        return read_progress(self.checkpoint) if self.checkpoint else RunProgress()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line of metrics. Lines after the last checkpoint are dropped when the run is resumed.

        Raises UserError where the disk is full or cannot be written.
        """
        with explain_failed_save(self.path), (self.path / METRICS).open("a") as file:
            file.write(json.dumps({"step": step} | dict(metrics)) + "\n")


def has_begun(out: Path) -> bool:
    """Return whether a folder holds a run that has done a step. One that failed before that left only its recipe."""
    metrics = out / METRICS
    return bool(checkpoints(out)) or (metrics.is_file() and metrics.stat().st_size > 0)


def require_no_run(out: Path, hint: str = "go on with it by --resume, or choose another --out") -> None:
    """Raise UserError where a folder holds a run that has done a step; the message ends in what to do instead."""
    if has_begun(out):
        raise UserError(f"{out} already holds a run; {hint}")


def hold_new_folder(out: Path, lock: RunLock) -> None:
    """Make a folder for a new run, if it is not there, and take its lock.

    Raises UserError where that is not possible, and where another process was quicker.
    """
    with explain_write_errors(out, is_folder=True):
        out.mkdir(parents=True, exist_ok=True)
    lock.acquire()
    require_no_run(out, "choose another --out")


def find_run(out: Path, recipe: Strict, resume: Resume, extend: bool, lock: RunLock) -> Run:
    """Return a new run or, with `resume`, the one that a folder holds, at its newest checkpoint that is whole.

    A run that has done no step begins anew, by any recipe. Of a run that goes on the lock is taken; nothing else
    changes, except that what an interrupted save has left is cleared away. Raises UserError where a new run would
    overwrite an old one, where there is nothing to resume, where another process has the run, where the recipe would
    make another run of it, where its budget is raised without `extend`, and where no checkpoint is whole.
    """
    lock.require_free()
    if extend and not resume:
        raise UserError("--extend is about a run that goes on; give it with --resume")
    if resume == "auto":
        resume = has_begun(out)
    if not resume:
        require_no_run(out)
        return Run(out, None)
    stored = out / RECIPE
    if not stored.is_file():
        raise UserError(f"nothing to resume: {out} holds no run (no {RECIPE}); leave out --resume to start one")
    if not has_begun(out):
        return Run(out, None)
    lock.acquire()
    tidy(out)
    changes = changes_on_resume(stored, recipe)
    if changes.others:
        told = "; ".join(show_changes(changes.raised | changes.others))
        if gone := handed_over(changes.others):
            raise UserError(
                f"{out} was trained from Python with the reward {gone[0]}, whose source is in {out / REWARD_SOURCE}, "
                f"and this is another; go on from Python with it: diffpo.train(..., reward={gone[0]}, resume=True)"
            )
        hint = " (a larger budget alone may be given, with --extend)" if changes.raised else ""
        raise UserError(
            f"{out} was started with another recipe ({told}); resume with the old one{hint}, or start a new run in "
            "another folder"
        )
    if changes.raised and not extend:
        told = "; ".join(show_changes(changes.raised))
        raise UserError(f"{out} was started with a smaller budget ({told}); add --extend to go on beyond it")
    return Run(out, *newest_whole(out, problems_on_resume)) if checkpoints(out) else Run(out, None)


def check_base(run: Run, base: str | None) -> None:
    """Raise UserError where a run goes on and `base` is not the model that it started from, wherever that is now."""
    known = run.progress.base
    if known is not None and base is not None and fingerprint(model_folder(Path(base))) != known:
        raise UserError(f"{run.path} started from another model than the one in {base} now; name that one as base")


def say_finished(run: Run) -> None:
    """Say, in the first process, that there is nothing left to do."""
    if current_process().is_main and run.checkpoint is not None:
        say(f"{run.path} is finished, its model is in {run.checkpoint.name}; to go on, raise its budget, with --extend")


def open_run(run: Run, recipe: Strict, lock: RunLock) -> None:
    """Make the folder of a new run, or prepare that of one that goes on, and say on stderr what is unusual about it.

    Checkpoints that are not whole are put aside, a recipe that has changed is stored, and the log is cut to the
    checkpoint. Raises UserError where the folder cannot be written, and where another process was there first.
    """
    out, stored = run.path, run.path / RECIPE
    notes: list[str] = []
    if not lock.is_held:
        hold_new_folder(out, lock)
    if has_begun(out):
        changes = changes_on_resume(stored, recipe)
        told = "; ".join(show_changes(changes.free | changes.raised))
        notes += [f"{out} goes on with {told}"] if told else []
        notes += cut_metrics(out / METRICS, run.progress.step)
    if run.checkpoint is not None:
        for checkpoint, problems in run.passed.items():
            kept = _put_aside(checkpoint)
            where = passed_over({checkpoint: problems})
            notes.append(f"{where} and is kept as {kept.name}; the run goes on from {run.checkpoint.name}")
        warn_unchecked(run.checkpoint)
    with explain_write_errors(out, is_folder=True):
        write_whole(stored, dump_recipe(recipe))
    for note in notes:
        warn(f"diffpo: {note}")


def _put_aside(checkpoint: Path) -> Path:
    """Give a checkpoint a name under which nothing looks for one; return its new path."""
    names = (f"{DAMAGED}{checkpoint.name}{ending}" for ending in ("", *(f".{i}" for i in range(1, 10_000))))
    kept = next(path for name in names if not (path := checkpoint.with_name(name)).exists())
    return checkpoint.rename(kept)
