"""The demo: train a base by SFT, d1 and DiFFPO from it at equal denoiser calls, evaluate all three, write a report."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffpo.core.errors import Stopped, UserError
from diffpo.core.files import explain_write_errors, write_json, write_whole
from diffpo.evaluation.record import aup_of
from diffpo.models.model_paths import RECIPE, checkpoints
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import RlRecipe, SftRecipe
from diffpo.report import summary_table, write_report
from diffpo.report.charts import frontier_svg
from diffpo.report.data import read_run
from diffpo.runs.checkpoint import read_progress
from diffpo.runs.progress import ProgressBar
from diffpo.runs.run_dir import METRICS, Interrupt, interruptible
from diffpo.training.sft import run_sft

RL_ARMS = ("d1", "diffpo")
ARMS = ("base", *RL_ARMS)
DIFFPO = (sys.executable, "-m", "diffpo")
BAR_METRICS = ("accuracy", "nfe")
"""Metrics of each arm that the progress bar shows."""
SUMMARY = "summary.json"
CLOCK = "clock.json"
POINT = ("rule", "accuracy", "ci95", "nfe", "n")
"""What the summary keeps of a point of an evaluation; the learned sampler has no rule."""
GAINS = ("gain", "validated_gain")


def run_demo(out: Path, seed: int) -> None:
    """Run the demo in the folder `out`, which then holds `summary.json`, `report.html` and `frontier.svg`.

    An interrupted demo goes on where it was; a finished one, or one of another seed, is kept under another name. Raises
    UserError where `out` holds something else, Stopped when interrupted.
    """
    started = time.perf_counter() - prepare_folder(out, seed)
    with Clock(out / CLOCK, seed, started):
        print("1/4  the base model learns 4x4 Sudoku from solved puzzles, and stops half-way", flush=True)
        train_base(out, seed)
        records = train_and_evaluate(out, seed)
        print("4/4  the report", flush=True)
        summary = summarise(out, seed, records, time.perf_counter() - started)
        write_report(out)
        write_whole(out / "frontier.svg", frontier_svg(read_run(out).arms, is_standalone=True))
    print(f"\n{summary_table(summary)}\n\nopen {out / 'report.html'}")


class Clock:
    """Context manager that records in a file, also when the demo is interrupted, how long it has been running."""

    def __init__(self, path: Path, seed: int, started: float) -> None:
        self._path, self._seed, self._started = path, seed, started

    def __enter__(self) -> None:
        with explain_write_errors(self._path.parent, is_folder=True):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._write()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._write()
        if isinstance(error, KeyboardInterrupt | Stopped):
            raise Stopped("the demo was stopped; the same command goes on where it was") from error

    def _write(self) -> None:
        write_json(self._path, {"seed": self._seed, "seconds": time.perf_counter() - self._started})


def prepare_folder(out: Path, seed: int) -> float:
    """Rename a demo in `out` that is finished or of another seed; return the seconds that an interrupted one has taken.

    Raises UserError where the folder holds something that is no demo.
    """
    clock = out / CLOCK
    if not out.is_dir() or not any(out.iterdir()):
        return 0.0
    if not clock.is_file():
        raise UserError(f"{out} holds something that is no demo; choose another --out")
    if not (out / SUMMARY).exists():
        record = json.loads(clock.read_text())
        if record["seed"] == seed:
            return float(record["seconds"])
    kept = next(path for i in range(1, 10_000) if not (path := out.with_name(f"{out.name}.{i}")).exists())
    out.rename(kept)
    print(f"the demo that was in {out} is kept as {kept}")
    return 0.0


def train_base(out: Path, seed: int) -> None:
    """Train the base, or go on with it; one that an interrupted demo has trained to its end is left as it is."""
    recipe = load_recipe(SftRecipe, "sudoku4-base", [f"seed={seed}"])
    run_sft(recipe, out / "base", resume=(out / "base" / RECIPE).is_file())


class JobQueue:
    """Commands that run one after another, each in its own process; their output goes into a log.

    `shared` is a list that several queues have in common: a queue whose own commands are done takes the next one there.
    """

    def __init__(self, log: Path, commands: list[list[str]], shared: list[list[str]]) -> None:
        self.num_done, self._log, self._own, self._shared = 0, log, commands, shared
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_busy(self) -> bool:
        return self._process is not None

    @property
    def is_finished(self) -> bool:
        return not self.is_busy and not self._waiting

    @property
    def _waiting(self) -> list[list[str]]:
        return self._own or self._shared

    def advance(self, may_start: bool) -> None:
        """Check whether the command has ended and, if it has, start the next one.

        Without `may_start` nothing new is started and no failure counts. Raises RuntimeError for a command that failed.
        """
        if self._process is not None and self._process.poll() is not None:
            failed, self._process = self._process.returncode, None
            if failed and may_start:  # the exit code of one that is being stopped means nothing
                tail = self._log.read_text(errors="replace").splitlines()[-1:]
                raise RuntimeError(f"{self._log.stem} failed (see {self._log}): {' '.join(tail)}")
            self.num_done += 1
        if self._process is None and self._waiting and may_start:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(self._waiting.pop(0), stdout=log, stderr=log)

    def terminate(self) -> None:
        if self._process is not None:
            self._process.terminate()


def train_and_evaluate(out: Path, seed: int) -> dict[str, dict[str, Any]]:
    """Train both RL arms side by side with the commands that a user would type, and evaluate all three models.

    Returns the records of `eval/<arm>.json`, in which AUP is scaled by the best accuracy of the three.
    """
    print("2/4  d1 and DiFFPO go on from it by reinforcement learning, side by side, one core each", flush=True)
    base_evaluation = [eval_command(out, "base", seed)]  # for the queue that is first done with its own commands
    own = {arm: [train_command(out, arm, seed), eval_command(out, arm, seed)] for arm in RL_ARMS}
    queues = [JobQueue(out / f"{arm}.log", commands, base_evaluation) for arm, commands in own.items()]
    budget = sum(load_recipe(RlRecipe, f"tiny-{arm}").budget.denoiser_calls or 0 for arm in RL_ARMS)
    try:
        with interruptible() as interrupt:
            with ProgressBar("rl d1 + diffpo", budget) as bar:
                while not all(queue.num_done for queue in queues):
                    advance_all(queues, interrupt)
                    show_training(bar, out)
            print("3/4  all three meet puzzles whose solutions nobody has trained on", flush=True)
            with ProgressBar("eval", len(ARMS)) as bar:
                while not all(queue.is_finished for queue in queues):
                    advance_all(queues, interrupt)
                    bar.update(sum(queue.num_done - 1 for queue in queues))
    finally:
        for queue in queues:
            queue.terminate()
    return rescale_aup(out)


def advance_all(queues: Sequence[JobQueue], interrupt: Interrupt) -> None:
    """Advance every queue and wait a second. Raises KeyboardInterrupt once all commands have ended after Ctrl-C.

    Ctrl-C reaches the commands, too, and they leave checkpoints before they end. Their exit codes then mean nothing:
    one may have been about to start, or to end.
    """
    for queue in queues:
        queue.advance(may_start=not interrupt.requested)
    if interrupt.requested and not any(queue.is_busy for queue in queues):
        raise KeyboardInterrupt
    time.sleep(1)


def show_training(bar: ProgressBar, out: Path) -> None:
    """Show the denoiser calls that both arms have spent, and their latest metrics."""
    latest = {arm: last_record(out / arm / METRICS) for arm in RL_ARMS}
    shown = {f"{arm} {name}": step[name] for arm, step in latest.items() for name in BAR_METRICS if name in step}
    bar.update(sum(int(step.get("denoiser_calls", 0)) for step in latest.values()), **shown)


def train_command(out: Path, arm: str, seed: int) -> list[str]:
    overrides = [f"seed={seed}", f"base={json.dumps(str(out / 'base'))}"]
    resume = ["--resume"] if (out / arm / RECIPE).is_file() else []
    return [*DIFFPO, "rl", f"tiny-{arm}", *overrides, "--out", str(out / arm), *resume]


def eval_command(out: Path, arm: str, seed: int) -> list[str]:
    record = out / "eval" / f"{arm}.json"
    return [*DIFFPO, "eval", str(out / arm), f"seed={seed}", "--recipe", "sudoku4-eval", "--out", str(record)]


def last_record(path: Path) -> Mapping[str, int | float]:
    """Return the last whole record of a JSON-lines file that may be growing; an empty one where there is none."""
    if not path.is_file():
        return {}
    lines = path.read_text().split("\n")[:-1]
    record: dict[str, int | float] = json.loads(lines[-1]) if lines else {}
    return record


def rescale_aup(out: Path) -> dict[str, dict[str, Any]]:
    """Return the records of all arms, rewritten with AUP scaled by the best accuracy of any arm instead of its own."""
    records = {arm: json.loads((out / "eval" / f"{arm}.json").read_text()) for arm in ARMS}
    for arm, record in records.items():
        rivals = [point for name, other in records.items() if name != arm for point in other["points"]]
        record["aup"] = aup_of(record["points"], record["clusters"], record["completion_length"], rivals)
        write_json(out / "eval" / f"{arm}.json", record)
    return records


def validation_summary(validation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constants that the validation problems chose, and what they chose them by."""
    learned = validation["learned"]
    return {
        "best_constants": validation["best_constants"],
        "frontier": [{name: point[name] for name in POINT} for point in validation["points"]],
        "learned": {name: learned[name] for name in POINT[1:]} if learned is not None else None,
    }


def summarise(out: Path, seed: int, records: Mapping[str, Mapping[str, Any]], wall_s: float) -> dict[str, Any]:
    """Write `summary.json`, the demo in one small file, and return what it holds. `wall_s` is in seconds."""
    arms: dict[str, dict[str, Any]] = {}
    for arm, record in records.items():
        arms[arm] = {
            "frontier": [{name: point[name] for name in POINT} for point in record["points"]],
            "train_denoiser_calls": read_progress(checkpoints(out / arm)[-1]).denoiser_calls,
            "area": record["area"],
            "aup": record["aup"],
            "validation": validation_summary(record["validation"]),
        }
        if record["learned"] is not None:
            arms[arm]["learned"] = {name: record["learned"][name] for name in POINT[1:]}
            arms[arm] |= {name: record[name] for name in GAINS}
    summary = {"seed": seed, "wall_s": round(wall_s, 1), "arms": arms}
    write_json(out / SUMMARY, summary, indent=2)
    return summary
