"""The demo: a base by SFT, d1 and DiFFPO from it at equal denoiser calls, all three evaluated, a report."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffpo.checkpoint import load, read_progress
from diffpo.errors import Stopped, UserError
from diffpo.evaluate import Evaluation, as_record, evaluate, rules_of
from diffpo.folders import RECIPE, checkpoints
from diffpo.progress import Progress
from diffpo.recipes import load_recipe
from diffpo.recipes.parts import task_of
from diffpo.recipes.schema import EvalRecipe, RlRecipe, SftRecipe
from diffpo.records import METRICS, interruptible
from diffpo.report import summary_table, write_report
from diffpo.report.charts import frontier_svg
from diffpo.report.data import read_run
from diffpo.sft import run_sft

RL_ARMS = ("d1", "diffpo")
ARMS = ("base", *RL_ARMS)
SUMMARY = "summary.json"
CLOCK = "clock.json"


def run_demo(out: Path, seed: int) -> None:
    """Everything into `out`, ending with `summary.json`, `report.html` and `frontier.svg`.

    An interrupted demo goes on where it was; a finished one, or one of another seed, is kept under another name.
    """
    started = time.perf_counter() - resume_after(out, seed)
    with Clock(out / CLOCK, seed, started):
        print("1/4  the base model learns 4x4 Sudoku from solved puzzles, and stops half-way", flush=True)
        train_base(out, seed)
        print("2/4  d1 and DiFFPO go on from it by reinforcement learning, side by side, one core each", flush=True)
        train_arms(out, seed)
        print("3/4  all three meet puzzles whose solutions nobody has trained on", flush=True)
        records = evaluate_arms(out, seed)
        print("4/4  the report", flush=True)
        summary = summarise(out, seed, records, time.perf_counter() - started)
        write_report(out)
        (out / "frontier.svg").write_text(frontier_svg(read_run(out).arms, is_standalone=True))
    print(f"\n{summary_table(summary)}\n\nopen {out / 'report.html'}")


class Clock:
    """Writes down, also when the demo is interrupted, how long it has been at work."""

    def __init__(self, path: Path, seed: int, started: float) -> None:
        self._path, self._seed, self._started = path, seed, started

    def __enter__(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._write()
        except OSError as error:
            raise UserError(f"cannot write to {self._path.parent} ({error.strerror}); choose another --out") from error

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._write()
        if isinstance(error, KeyboardInterrupt | Stopped):
            raise Stopped("the demo was stopped; the same command goes on where it was") from error

    def _write(self) -> None:
        record = {"seed": self._seed, "seconds": time.perf_counter() - self._started}
        self._path.write_text(json.dumps(record) + "\n")


def resume_after(out: Path, seed: int) -> float:
    """Make room in `out`, and say how many seconds an interrupted demo of the same seed has already taken there."""
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
    """The base; resuming one that an interrupted demo has trained to its end does nothing."""
    recipe = load_recipe(SftRecipe, "sudoku4-base", [f"seed={seed}"])
    run_sft(recipe, out / "base", resume=(out / "base" / RECIPE).is_file())


def train_arms(out: Path, seed: int) -> None:
    """Both RL runs as processes of their own, through the same command that a user would type."""
    budget = 0
    processes: dict[str, subprocess.Popen[bytes]] = {}
    for arm in RL_ARMS:
        overrides = [f"seed={seed}", f"base={json.dumps(str(out / 'base'))}"]
        recipe = load_recipe(RlRecipe, f"tiny-{arm}", overrides)
        budget += recipe.budget.denoiser_calls or 0
        command = [sys.executable, "-m", "diffpo", "rl", f"tiny-{arm}", *overrides, "--out", str(out / arm)]
        if (out / arm / RECIPE).is_file():
            command.append("--resume")
        with (out / f"{arm}.log").open("ab") as log:
            processes[arm] = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        # Ctrl-C reaches the runs too: wait until they have left their checkpoints.
        with Progress("rl d1 + diffpo", budget) as bar, interruptible() as interrupt:
            while any(process.poll() is None for process in processes.values()):
                time.sleep(1)
                latest = {arm: last_line(out / arm / METRICS) for arm in RL_ARMS}
                shown = {
                    f"{arm} {name}": line[name]
                    for arm, line in latest.items()
                    for name in ("solved", "nfe")
                    if name in line
                }
                bar.update(sum(int(line.get("denoiser_calls", 0)) for line in latest.values()), **shown)
    finally:
        for process in processes.values():
            process.terminate()  # nothing to a run that has ended
    if interrupt.requested:
        # What the runs returned then says nothing: one may have been about to start, or to end.
        raise KeyboardInterrupt
    for arm, process in processes.items():
        if process.returncode:
            tail = (out / f"{arm}.log").read_text(errors="replace").splitlines()[-1:]
            raise RuntimeError(f"training of {arm} failed (see {out / arm}.log): {' '.join(tail)}")


def last_line(path: Path) -> Mapping[str, int | float]:
    """The last whole record of a JSON-lines file that may be growing; empty where there is none."""
    if not path.is_file():
        return {}
    lines = path.read_text().split("\n")[:-1]
    record: dict[str, int | float] = json.loads(lines[-1]) if lines else {}
    return record


def evaluate_arms(out: Path, seed: int) -> dict[str, dict[str, Any]]:
    """The three arms on the same unseen puzzles, into `eval/<arm>.json`; AUP is scaled by the best of the three."""
    evaluations: dict[str, Evaluation] = {}
    folders = {}
    for arm in ARMS:
        recipe = load_recipe(EvalRecipe, "sudoku4-eval", [f"seed={seed}", f"model={json.dumps(str(out / arm))}"])
        denoiser, tokenizer, controller = folders[arm] = load(out / arm)
        assert recipe.task is not None, "the built-in recipe names its task"
        task = task_of(recipe.task)
        with Progress(f"eval {arm}", len(rules_of(recipe)) + (controller is not None)) as bar:
            evaluations[arm] = evaluate(recipe, denoiser, tokenizer, controller, task, bar)
    best = max(evaluation.best_accuracy for evaluation in evaluations.values())
    (out / "eval").mkdir(exist_ok=True)
    records = {}
    for arm, evaluation in evaluations.items():
        denoiser, tokenizer, _ = folders[arm]
        about = {"arm": arm, "task": task.name, "split": recipe.split, "seed": seed}
        records[arm] = about | as_record(evaluation, denoiser, tokenizer, best)
        (out / "eval" / f"{arm}.json").write_text(json.dumps(records[arm]) + "\n")
    return records


def summarise(out: Path, seed: int, records: Mapping[str, Mapping[str, Any]], wall_s: float) -> dict[str, Any]:
    """The demo in one small file."""
    arms: dict[str, dict[str, Any]] = {}
    for arm, record in records.items():
        shown = ("rule", "accuracy", "ci95", "nfe", "n")
        arms[arm] = {
            "frontier": [{name: point[name] for name in shown} for point in record["points"]],
            "train_denoiser_calls": read_progress(checkpoints(out / arm)[-1]).denoiser_calls,
            "area": record["area"],
            "aup": record["aup"],
        }
        if record["learned"] is not None:
            arms[arm]["learned"] = {name: record["learned"][name] for name in shown[1:]}
    summary = {"seed": seed, "wall_s": round(wall_s, 1), "arms": arms}
    (out / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
    return summary
