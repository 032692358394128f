"""The demo: train a base by SFT, three ways to go on from it at equal denoiser calls, evaluate all, write a report."""

import json
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffpo.cli.demo_arms import (
    ARMS,
    BASE,
    BASE_RECIPE,
    RL_ARMS,
    SAMPLED,
    SAMPLER,
    SAMPLER_CALLS,
    eval_command,
    rl_command,
    sampler_command,
)
from diffpo.cli.demo_summary import SUMMARY, rescale_aup, summarise
from diffpo.cli.job_queue import Job, JobQueue, advance_all
from diffpo.cli.next_step import say_next
from diffpo.core.errors import Stopped, UserError
from diffpo.core.files import explain_write_errors, write_json, write_whole
from diffpo.core.output import say, show
from diffpo.models.model_paths import METRICS
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import SftRecipe
from diffpo.report import frontier_svg, read_run, standalone, table_text, write_report
from diffpo.report.agreement import aup_sentence
from diffpo.report.headline import comparison, headline
from diffpo.report.sentences import basis
from diffpo.runs.interrupt import interruptible
from diffpo.runs.progress import ProgressBar
from diffpo.statistics.constant import STANDING_PRICE
from diffpo.training.sft import run_sft

CLOCK = "clock.json"


def run_demo(out: Path, seed: int) -> None:
    """Run the demo in the folder `out`, which then holds `summary.json`, `report.html` and `frontier.svg`.

    An interrupted demo goes on where it was; a finished one, or one of another seed, is kept under another name. Raises
    UserError where `out` holds something else, Stopped when interrupted.
    """
    started = time.perf_counter() - prepare_folder(out, seed)
    with Clock(out / CLOCK, seed, started):
        say("1/4  the base model learns 4x4 Sudoku from solved puzzles, and stops half-way")
        train_base(out, seed)
        records = train_and_evaluate(out, seed)
        say("4/4  the report")
        summarise(out, seed, records, time.perf_counter() - started)
        write_report(out)
        run = read_run(out)
        evaluated = [arm for arm in run.arms if arm.is_evaluated]
        write_whole(out / "frontier.svg", standalone(frontier_svg(evaluated)))
    found = comparison(run.arms, run.compared, run.main)
    said = [
        headline(run.arms, run.compared, run.main),
        basis(run.arms, run.compared, found.main) if found else None,
        aup_sentence(evaluated),
    ]
    show("\n\n".join(["", table_text(evaluated).rstrip(), *filter(None, said), f"open {out / 'report.html'}"]))
    prompt = next(completion.prompt for arm in run.arms for completion in arm.playback)
    say_next("sample", str(out / SAMPLER), "--prompt", prompt, "--price", f"{STANDING_PRICE:g}")


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
    say(f"the demo that was in {out} is kept as {kept}")
    return 0.0


def train_base(out: Path, seed: int) -> None:
    """Train the base, or go on with it; one that an interrupted demo has trained to its end is left as it is."""
    recipe = load_recipe(SftRecipe, BASE_RECIPE, [f"seed={seed}"])
    run_sft(recipe, out / BASE, resume="auto")


def train_and_evaluate(out: Path, seed: int) -> dict[str, dict[str, Any]]:
    """Train all arms, two at a time, with the commands that a user would type, and evaluate their models.

    Returns the records of `eval/<arm>.json`, in which AUP is scaled by the best accuracy of them all.
    """
    say("2/4  d1, DiFFPO and any-speed go on from it, two at a time; a sampler learns from any-speed")
    queues = queues_of(out, seed)
    try:
        with interruptible() as interrupt:
            total = sum(arm.calls for arm in RL_ARMS.values()) + SAMPLER_CALLS
            with ProgressBar("training", total, unit="denoiser call") as bar:
                while not all(queue.has_done_own for queue in queues):
                    advance_all(queues, interrupt)
                    show_training(bar, out)
            say("3/4  all four meet puzzles whose solutions nobody has trained on")
            with ProgressBar("eval", len(ARMS), unit="model") as bar:
                while not all(queue.is_finished for queue in queues):
                    advance_all(queues, interrupt)
                    bar.update(sum(queue.num_shared_done for queue in queues))
    finally:
        for queue in queues:
            queue.terminate()
    return rescale_aup(out)


def queues_of(out: Path, seed: int) -> list[JobQueue]:
    """Return a queue for each core. A model is evaluated, by whichever is free, when it is trained."""

    def evaluation(name: str) -> Job:
        return Job(out / f"{name}.log", eval_command(out, name, seed))

    def training(name: str) -> Job:
        return Job(out / f"{name}.log", rl_command(out, name, seed), evaluation(name) if name in ARMS else None)

    shared = deque([evaluation(BASE)])
    second = [training(SAMPLED)]
    if command := sampler_command(out, seed):
        second.append(Job(out / f"{SAMPLER}.log", command, evaluation(SAMPLER)))
    else:
        shared.append(evaluation(SAMPLER))
    first = [training(name) for name in RL_ARMS if name != SAMPLED]
    return [JobQueue(first, shared), JobQueue(second, shared)]


def show_training(bar: ProgressBar, out: Path) -> None:
    """Show the denoiser calls that all arms have spent, and how many of its last puzzles each has solved."""
    latest = {arm: last_record(out / arm / METRICS) for arm in (*RL_ARMS, SAMPLER)}
    shown = {arm: step["accuracy"] for arm, step in latest.items() if "accuracy" in step}
    bar.update(sum(int(step.get("denoiser_calls", 0)) for step in latest.values()), **shown)


def last_record(path: Path) -> Mapping[str, int | float]:
    """Return the last whole record of a JSON-lines file that may be growing; an empty one where there is none."""
    if not path.is_file():
        return {}
    lines = path.read_text().split("\n")[:-1]
    record: dict[str, int | float] = json.loads(lines[-1]) if lines else {}
    return record
