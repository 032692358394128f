"""Whole frontiers, seed by seed: the any-speed policy with its sampler against d1, d1 in one call and DiFFPO.

    make study-frontier                              # hours on two cores; goes on where it was interrupted
    python studies/frontier.py --tasks sudoku-shallow --seeds 100,101 --out runs/tuning
    python studies/frontier.py --report              # only the verdicts of what is there

Every arm of a seed starts from the same base and may spend the same denoiser calls, those that fit its sampler
included. The plan is studies/frontier.toml; its settings were chosen on seeds from 100 up (docs/log.md). Each finished
arm is a line of OUT/TASK.jsonl: what every rule made of every test problem.
"""

import argparse
import json
import shutil
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from diffpo.evaluation.fit_sampler import run_fit_sampler
from diffpo.evaluation.loop import Outcome, evaluate_decodings, evaluation_problems
from diffpo.evaluation.run import decodings_of, rule_name, rules_of
from diffpo.models.model_paths import METRICS, checkpoints
from diffpo.recipes import load_recipe
from diffpo.recipes.parts import build_task
from diffpo.recipes.stored import stored_task
from diffpo.recipes.tables import EvalRecipe, RlRecipe, SamplerRecipe, SftRecipe
from diffpo.runs.resume import read_progress
from diffpo.sampling.policy import load
from diffpo.statistics.comparison import Frontiers, compare_frontiers, compare_mixtures
from diffpo.statistics.frontier import frontier_area, staircase_accuracy
from diffpo.statistics.intervals import Estimate
from diffpo.tasks.base import Problem, Task
from diffpo.training.rl import run_rl
from diffpo.training.sft import run_sft

PLAN = Path(__file__).with_suffix(".toml")
WORK = Path("runs/study-frontier")
OUT = Path("results/frontier")
COUNT = 400
TUNING = 100
"""From this seed on runs are for tuning, and are measured on validation problems."""
SHOWN = (1, 2, 3, 4, 6, 8, 12, 16, 24, 36)
"""Numbers of calls at which figures are printed."""
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""One for each number of denoiser calls, so that a rule's figures are two short texts."""


@dataclass(frozen=True)
class Piece:
    """One arm on one task with one seed."""

    task: str
    arm: str
    seed: int


def main() -> None:
    """Train and measure what is missing, and print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--tasks", help="names of the plan, with commas; all without it")
    parser.add_argument("--arms", help="names of the plan, with commas; all without it")
    parser.add_argument("--seeds", default="0,1,2,3,4,5,6,7,8,9")
    parser.add_argument("--plan", type=Path, default=PLAN)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="train nothing")
    given = parser.parse_args()
    plan = tomllib.loads(given.plan.read_text())
    tasks = given.tasks.split(",") if given.tasks else list(plan)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    if min(seeds) < TUNING <= max(seeds):
        parser.error(f"seeds below {TUNING} are reported and those from there on tune: give only the one or the other")
    if not given.report:
        jobs = [(plan, task, seed, given.arms, given.out) for seed in seeds for task in tasks]
        with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            list(pool.map(run_seed, *zip(*jobs, strict=True)))
    for task in tasks:
        print(report(task, plan[task], read_lines(given.out / f"{task}.jsonl"), seeds), flush=True)


# --------------------------------------------------------------------------------------------- training and measuring


def run_seed(plan: Mapping[str, Any], task: str, seed: int, arms: str | None, out: Path) -> None:
    """Train and measure what is missing of one seed on one task."""
    done = {line["arm"] for line in read_lines(out / f"{task}.jsonl") if line["seed"] == seed}
    wanted = arms.split(",") if arms else ["base", *plan[task]["arms"]]
    for arm in wanted:
        if arm not in done:
            piece = Piece(task, arm, seed)
            line = measured(plan[task], piece)
            out.mkdir(parents=True, exist_ok=True)
            with (out / f"{task}.jsonl").open("a") as file:
                file.write(json.dumps(line, separators=(",", ":")) + "\n")


def measured(settings: Mapping[str, Any], piece: Piece) -> dict[str, Any]:
    """Return the line of a piece: what it cost, and the figures of every rule on every test problem."""
    started = time.process_time()
    folder = WORK / piece.task / str(piece.seed)
    base, calls = trained_base(settings, piece, folder), 0
    if piece.arm != "base":
        stages = settings["arms"][piece.arm]["stages"]
        for index, stage in enumerate(stages):
            base = trained_stage(settings, stage, piece, base, folder / f"{piece.arm}-{index}")
            calls += spent(base)
    seconds = time.process_time() - started
    outcomes, front = outcomes_of(base, piece.seed)
    return {
        "task": piece.task,
        "arm": piece.arm,
        "seed": piece.seed,
        "calls": calls,
        "cpu_seconds": round(seconds),
        "front": front,
        "rules": {outcome.name: [solved_text(outcome), nfe_text(outcome)] for outcome in outcomes},
    }


def trained_base(settings: Mapping[str, Any], piece: Piece, folder: Path) -> Path:
    """Return the folder of the seed's base, trained if it is not there."""
    out = folder / "base"
    recipe = load_recipe(SftRecipe, settings["base"], [*settings.get("base_overrides", ()), f"seed={piece.seed}"])
    if not checkpoints(out) or not read_progress(checkpoints(out)[-1]).is_finished:
        run_sft(recipe, out, resume="auto")
    return out


def trained_stage(settings: Mapping[str, Any], stage: Mapping[str, Any], piece: Piece, base: Path, out: Path) -> Path:
    """Return the folder of a stage of an arm, trained anew if it is not finished."""
    calls = round(settings["calls"] * stage.get("share", 1.0))
    common = [f'base="{base}"', f"seed={piece.seed}", "threads=1"]
    if out.is_dir():
        shutil.rmtree(out)
    if stage["recipe"] == "sampler":
        recipe = [f"states.denoiser_calls={calls}", *stage.get("overrides", ())]
        run_fit_sampler(load_recipe(SamplerRecipe, None, [*recipe, *common]), out)
        return out
    overrides = [*settings.get("arm_overrides", ()), *stage.get("overrides", ()), *common]
    run_rl(load_recipe(RlRecipe, stage["recipe"], [*overrides, f"budget.denoiser_calls={calls}"]), out)
    return out


def measuring(model: str, seed: int) -> EvalRecipe:
    """Return how a model of this seed is measured."""
    return EvalRecipe(model=model, count=COUNT, split="validation" if seed >= TUNING else "test")


def spent(run: Path) -> int:
    """Return the denoiser calls of a run. Those that measure a sampler's rules are no training, and do not count."""
    last = (run / METRICS).read_text().splitlines()[-1]
    return int(json.loads(last)["denoiser_calls"])


def outcomes_of(model: Path, seed: int) -> tuple[list[Outcome], list[str]]:
    """Return what every rule does on the test problems, and the names of those that the model's sampler uses."""
    task = task_of(model)
    recipe = measuring(str(model), seed)
    problems, _ = evaluation_problems(task, recipe)
    policy = load(model)
    rules = {rule_name(rule): rule for rule in rules_of(recipe)}
    decodings = decodings_of(recipe, rules, policy, task.completion_length, task.completion_length)
    outcomes = evaluate_decodings(policy, task, problems, decodings, batch_size=4096)
    return outcomes, [candidate.name for candidate in policy.sampler.front()] if policy.sampler else []


def task_of(model: Path) -> Task:
    """Return the task in the recipe of a run."""
    return build_task(stored_task(model))


def solved_text(outcome: Outcome) -> str:
    """Return a 1 for each solved problem and a 0 for each other."""
    return "".join(str(int(solved)) for solved in outcome.is_solved)


def nfe_text(outcome: Outcome) -> str:
    """Return a digit for the denoiser calls of each problem."""
    return "".join(DIGITS[nfe] for nfe in outcome.nfe)


# ------------------------------------------------------------------------------------------------------------ verdicts


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a results file; a last one that was cut short is left out."""
    if not file.is_file():
        return []
    found = []
    for text in file.read_text().splitlines():
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return found


def report(name: str, settings: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> str:
    """Return the areas of the arms and the differences of the plan's comparisons, over the seeds that all arms have."""
    arms = ["base", *settings["arms"]]
    line_of = {(line["arm"], line["seed"]): line for line in lines}
    whole = [seed for seed in seeds if all((arm, seed) in line_of for arm in arms)]
    if not whole:
        return "no seed has all arms yet"
    task = build_task(load_recipe(SftRecipe, settings["base"], settings.get("base_overrides", ())).task)
    recipe = measuring("", max(whole))
    problems, _ = evaluation_problems(task, recipe)
    found = [f"{name}: {task.name}, seeds {', '.join(map(str, whole))}, {len(problems)} {recipe.split} problems"]
    seconds = {arm: [line_of[arm, seed]["cpu_seconds"] for seed in whole] for arm in arms}
    families = dict(frontiers_by_arm(settings, line_of, whole))
    length = task.completion_length
    for family_name, family in families.items():
        areas = [
            frontier_area(family.nfe[:, i].mean(0), family.solved[:, i].mean(0), length) for i in range(len(whole))
        ]
        spread = " ".join(f"{area:.3f}" for area in areas)
        found.append(f"{family_name:28s} area {np.mean(areas):.3f}   by seed {spread}")
        accuracy, nfe = family.solved.mean(0), family.nfe.mean(0)
        within = (
            f"{at}: {100 * staircase_accuracy(accuracy, nfe, accuracy, at).mean():.1f}" for at in SHOWN if at <= length
        )
        cpu = "" if ":" in family_name else f"   {np.mean(seconds[family_name]):.0f} CPU s"
        found.append(f"{'':28s} % within NFE {'  '.join(within)}{cpu}")
    for ours, theirs in settings["compare"]:
        found += comparison(ours, theirs, families, problems, length)
    return "\n".join(found)


def frontiers_by_arm(
    settings: Mapping[str, Any], line_of: Mapping[tuple[str, int], Mapping[str, Any]], seeds: Sequence[int]
) -> Iterator[tuple[str, Frontiers]]:
    """Yield each arm under the fixed bounds.

    One with a sampler also as NAME:sampler, under the sampler's rules, and as NAME:fixed, under all rules that need no
    learning: the bounds, and the plain sums among the sampler's rules.
    """
    for arm in ["base", *settings["arms"]]:
        own = [line_of[arm, seed] for seed in seeds]
        fixed = [[name for name in line["rules"] if name not in line["front"] or is_fixed(name)] for line in own]
        yield arm, frontiers(own, fixed)
        if own[0]["front"]:
            yield f"{arm}:sampler", frontiers(own, [line["front"] for line in own])
            plain = [[name for name in line["rules"] if name.startswith("entropy bound")] for line in own]
            yield f"{arm}:fixed", frontiers(own, plain)


def is_fixed(name: str) -> bool:
    """Whether a rule is one of the dense entropy bounds."""
    return name.startswith("entropy bound") and not name.endswith("(plain sum)")


def frontiers(lines: Sequence[Mapping[str, Any]], names: Sequence[Sequence[str]]) -> Frontiers:
    """Return some rules of each line; where a line has fewer than another, its last one counts several times."""
    most = max(map(len, names))
    padded = [[*own, *[own[-1]] * (most - len(own))] for own in names]
    solved, nfe = (
        np.array(
            [[decoded(line["rules"][name][column]) for name in own] for line, own in zip(lines, padded, strict=True)]
        )
        for column in (0, 1)
    )
    return Frontiers(solved.transpose(2, 0, 1), nfe.transpose(2, 0, 1))


def decoded(text: str) -> list[int]:
    """Return the numbers of a text of DIGITS."""
    return [DIGITS.index(digit) for digit in text]


def comparison(
    ours: str, theirs: str, families: Mapping[str, Frontiers], problems: Sequence[Problem], length: int
) -> list[str]:
    """Return the difference in area, and those in accuracy at some numbers of calls, with the worst of all."""
    clusters = [problem.cluster for problem in problems]
    found = compare_frontiers(families[ours], families[theirs], clusters, length)
    low, high = found.area.ci95
    points = list(zip(found.at, found.accuracy, strict=True))
    at = [x for x in found.at if x in SHOWN]
    mixed = list(zip(at, compare_mixtures(families[ours], families[theirs], clusters, at), strict=True))
    worst = min(points, key=lambda point: point[1].ci95[0])
    return [
        f"{ours} - {theirs}: area {found.area.value:+.3f} [{low:+.3f}, {high:+.3f}]; "
        f"least lower end {100 * worst[1].ci95[0]:+.1f} points, at {worst[0]:g} calls",
        f"    accuracy in points within NFE {in_points(points)}",
        f"    the same by mixtures, at NFE {in_points(mixed)}",
    ]


def in_points(estimates: Sequence[tuple[float, Estimate]]) -> str:
    """Return differences at some numbers of calls, in points of accuracy."""
    return "  ".join(
        f"{at:g}: {100 * e.value:+.1f} [{100 * e.ci95[0]:+.1f}, {100 * e.ci95[1]:+.1f}]"
        for at, e in estimates
        if at in SHOWN
    )


if __name__ == "__main__":
    main()
