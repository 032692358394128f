"""Send a run's metrics to the trackers that people watch, under TRL's names. `metrics.jsonl` stays the record.

A tracker is started before the first step, where what is wrong with it is the user's to mend. From then on it may fail
as it likes: that is told once, and training goes on without it. This module imports no torch.
"""

import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol
from uuid import uuid4

from diffpo.core.errors import UserError
from diffpo.core.output import say, warn
from diffpo.distributed.process import current_process
from diffpo.models.model_paths import first_line
from diffpo.recipes.tables.tracking import TrackerName, require_trackers

TRL_NAMES: Mapping[str, str] = {
    "reward": "reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "frac_reward_zero_std",
    "completions/mean_length": "completions/mean_length",
    "entropy": "entropy",
    "kl": "kl",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "clip_fraction": "clip_ratio/region_mean",
    "importance_weight_mean": "sampling/importance_sampling_ratio/mean",
    "seconds": "step_time",
}
"""Metrics that TRL has, too: our name, and the one that trackers get. `rewards/NAME/mean` and `/std` are TRL's already;
all others go under our own names."""
STATE = "trackers.json"
"""In a run's folder: the id that trackers know the run by, and the last step that each was sent."""
PROJECT = "diffpo"
FINISH_SECONDS = 300.0
"""How long the end of a run waits for what wandb still has to send; it is on the disk, and `wandb sync` sends it."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told when it starts."""

    path: Path
    id: str
    """The same whenever the run goes on."""
    step: int
    """Steps that are done: 0, or those of the checkpoint that the run goes on from."""
    config: Mapping[str, Any]
    """The recipe as a plain table."""

    @property
    def name(self) -> str:
        return f"{self.path.absolute().name}-{self.id}"


class Tracker(Protocol):
    """One place that shows metrics. Every method may raise anything."""

    def start(self, run: TrackedRun) -> str:
        """Begin with a run, or go on with the one that has its id; return how one looks at it."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of a step. Steps rise, and none comes twice unless the tracker is `rewinds`."""

    def finish(self, has_failed: bool) -> None:
        """Send what is left, and end."""

    @property
    def rewinds(self) -> bool:
        """Whether `start` forgets the steps after the one that the run goes on from."""


class TensorBoard:
    """Event files in `RUN/tensorboard`. Those of steps that are done again are superseded by `purge_step`."""

    rewinds = True

    def start(self, run: TrackedRun) -> str:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.path / "tensorboard"
        purge = run.step + 1 if folder.exists() else None
        self._writer = SummaryWriter(str(folder), purge_step=purge)
        text = json.dumps(run.config, indent=1)
        self._writer.add_text("recipe", f"```\n{text}\n```", run.step + 1)
        return f"tensorboard --logdir {shlex.quote(str(run.path))}"

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a killed run has lost no step

    def finish(self, has_failed: bool) -> None:
        self._writer.close()


class Wandb:
    """A run of Weights & Biases; its own variables (WANDB_MODE, WANDB_PROJECT, WANDB_DIR, ...) say where."""

    rewinds = False

    def start(self, run: TrackedRun) -> str:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            name=os.environ.get("WANDB_NAME", run.name),
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(run.path)),
            config=dict(run.config),
            settings=wandb.Settings(console="off", silent=True, finish_timeout=FINISH_SECONDS),
        )
        return f"wandb sync {shlex.quote(str(Path(self._run.dir).parent))}" if self._run.offline else str(self._run.url)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self, has_failed: bool) -> None:
        self._run.finish(exit_code=int(has_failed))


class Trackio:
    """A run in trackio's own database; its variables (TRACKIO_DIR, TRACKIO_PROJECT, TRACKIO_SPACE_ID) say where."""

    rewinds = False

    def start(self, run: TrackedRun) -> str:
        import trackio

        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        with redirect_stdout(StringIO()):  # it prints what we do
            self._run = trackio.init(
                project=project, name=run.name, resume="allow", config=dict(run.config), embed=False
            )
        return f"trackio show --project {shlex.quote(project)}"

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self, has_failed: bool) -> None:
        import trackio

        with redirect_stdout(StringIO()):
            trackio.finish()


TRACKERS: Mapping[TrackerName, Callable[[], Tracker]] = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}
INSTEAD = {
    "wandb": "log in by `wandb login`, or run with WANDB_MODE=offline and send it later by `wandb sync`, or leave it "
    "out of track",
}


class Trackers:
    """All trackers of a run, in its first process; the others have none. Close it as a context manager."""

    def __init__(self, names: Sequence[TrackerName], out: Path, step: int, config: Mapping[str, Any]) -> None:
        require_trackers(names)
        self._names, self._out, self._step, self._config = names, out, step, config
        self._running: dict[str, Tracker] = {}
        self._id, self._last_sent = "", dict[str, int]()

    def start(self) -> None:
        """Start them. Raises UserError, with what to do instead, where one does not; those before it end again."""
        if not self._names or not current_process().is_main:
            return
        self._id, self._last_sent = _read_state(self._out / STATE)
        run = TrackedRun(self._out, self._id, self._step, self._config)
        for name in self._names:
            tracker = TRACKERS[name]()
            try:
                where = tracker.start(run)
            except Exception as error:
                self.finish(has_failed=True)
                instead = INSTEAD.get(name, "mend that, or leave it out of track")
                raise UserError(f"{name} does not start ({first_line(error).rstrip('.')}); {instead}") from error
            self._running[name] = tracker
            say(f"{name}: {where}")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of a step to each tracker that does not have it. One that fails is told of, and left."""
        named = {TRL_NAMES.get(name, name): value for name, value in metrics.items()}
        for name, tracker in list(self._running.items()):
            if step <= self._last_sent.get(name, 0) and not tracker.rewinds:
                continue
            self._last_sent[name] = step
            try:
                tracker.log(step, named)
            except Exception as error:  # noqa: BLE001  nothing that a tracker raises may end training
                del self._running[name]
                warn(
                    f"diffpo: warning: {name} failed at step {step} ({first_line(error)}); the run goes on without it, "
                    "and metrics.jsonl has every step"
                )
        if self._running:
            _write_state(self._out / STATE, self._id, self._last_sent)

    def finish(self, has_failed: bool) -> None:
        """End them."""
        for name, tracker in self._running.items():
            try:
                tracker.finish(has_failed)
            except Exception as error:  # noqa: BLE001  as above
                warn(f"diffpo: warning: {name} failed at the end ({first_line(error)}); metrics.jsonl has every step")
        self._running = {}

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.finish(has_failed=kind is not None)


def _read_state(file: Path) -> tuple[str, dict[str, int]]:
    """Return the run's id, a new one where there is none, and the last step that each tracker was sent."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        state = json.loads(file.read_text())
        return str(state["id"]), {str(name): int(step) for name, step in state["last_sent"].items()}
    return uuid4().hex[:8], {}


def _write_state(file: Path, id: str, last_sent: Mapping[str, int]) -> None:
    with suppress(OSError):  # a full disk is told of where the metrics are written
        file.write_text(json.dumps({"id": id, "last_sent": last_sent}) + "\n")
