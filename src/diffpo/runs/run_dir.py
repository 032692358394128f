"""A run's directory: its recipe, a JSON line per step, its checkpoints. A run never overwrites another."""

import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from diffpo.core.errors import UserError
from diffpo.core.files import explain_write_errors, write_whole
from diffpo.models.model_paths import RECIPE, checkpoints
from diffpo.recipes.dump import dump_recipe, stored_changes
from diffpo.recipes.strict import Strict
from diffpo.runs.checkpoint import RunProgress, read_progress

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Run:
    """An open run: its folder, and the checkpoint that it goes on from (None: from the start)."""

    path: Path
    checkpoint: Path | None

    @property
    def progress(self) -> RunProgress:
        """How far the run was at that checkpoint."""
        return read_progress(self.checkpoint) if self.checkpoint else RunProgress()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line of metrics. Lines after the last checkpoint are dropped when the run is resumed."""
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps({"step": step} | dict(metrics)) + "\n")


def open_run(out: Path, recipe: Strict, resume: bool) -> Run:
    """Start a run in a folder that holds none or, with `resume`, go on with the run that it holds.

    Raises UserError where a new run would overwrite an old one, where there is nothing to resume, where the recipe is
    not the one that the run was started with, and where the folder cannot be written.
    """
    stored = out / RECIPE
    if resume:
        if not stored.is_file():
            raise UserError(f"nothing to resume: {out} holds no run (no {RECIPE}); leave out --resume to start one")
        changes = stored_changes(stored, recipe)
        if changes:
            raise UserError(
                f"{out} was started with another recipe ({'; '.join(changes)}); resume with the old one, "
                "or start a new run in another folder"
            )
        found = checkpoints(out)
        run = Run(out, found[-1] if found else None)
        _truncate_metrics(out / METRICS, run.progress.step)
        return run
    if stored.exists() or checkpoints(out):
        raise UserError(f"{out} already holds a run; go on with it by --resume, or choose another --out")
    with explain_write_errors(out, is_folder=True):
        out.mkdir(parents=True, exist_ok=True)
        write_whole(stored, dump_recipe(recipe))
    return Run(out, None)


def require_new_run(out: Path) -> None:
    """Make a folder for a run that is written when it is done, and leave it empty.

    Raises UserError where it holds a run already, and where it cannot be made.
    """
    if (out / RECIPE).exists() or checkpoints(out):
        raise UserError(f"{out} already holds a run; choose another --out")
    with explain_write_errors(out, is_folder=True):
        out.mkdir(parents=True, exist_ok=True)


class Interrupt:
    """A signal handler that notes Ctrl-C, for a loop to stop between two steps; a second Ctrl-C interrupts at once."""

    requested = False
    """Whether Ctrl-C was pressed."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Handle Ctrl-C by an `Interrupt` inside the block."""
    interrupt = Interrupt()
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


def _truncate_metrics(path: Path, step: int) -> None:
    """Drop the lines after `step`, and a last line that a crash has cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break
        if record["step"] > step:
            break
        kept.append(line)
    write_whole(path, "".join(kept))
