"""Which parts of `tiny-any-speed-gradient` matter? Arms that change one thing each, on bases that need several calls.

    python studies/any_speed.py                      # all arms on seeds 100 and 101: about an hour on one quiet core
    python studies/any_speed.py --arms d1 one-call   # some of them
    python studies/any_speed.py --table              # the table of what is there

Every arm trains from the base of its seed (`sudoku4-shallow`) for the same denoiser calls, and decodes the same
validation puzzles greedily at every bound of the dense grid. A finished run is a line of `runs.jsonl`; a run that has
one is not repeated, and an unfinished one goes on from its last checkpoint. A line holds the settings of its run: with
other settings it is another run.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffpo.core.options import DENSE_BOUNDS
from diffpo.evaluation.loop import evaluate_decodings
from diffpo.models.model_paths import METRICS
from diffpo.recipes import load_recipe
from diffpo.recipes.parts import build_task
from diffpo.recipes.tables import RlRecipe, SftRecipe
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import load
from diffpo.sampling.rules import EntropyBound
from diffpo.statistics.frontier import frontier_area, upper_hull_accuracy
from diffpo.study.tables import markdown_table
from diffpo.training.rl import run_rl
from diffpo.training.sft import run_sft

CALLS = 90_000
SEEDS = (100, 101)
"""Tuning seeds. The record's, 0 to 9, are for arms that were chosen before."""
AT = (1, 1.5, 2, 3, 4, 8, 16)
"""Denoiser calls at which accuracies are shown."""
PROBLEMS = 400
ANY_SPEED = "tiny-any-speed-gradient"
ARMS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "any-speed": (ANY_SPEED, ()),
    "one bound for the batch": (ANY_SPEED, ("rollout.speeds.shared_by=batch",)),
    "a bound for each completion": (ANY_SPEED, ("rollout.speeds.shared_by=completion",)),
    "bounds up to 10": (ANY_SPEED, ("rollout.speeds.high=10",)),
    "bounds from 0.001": (ANY_SPEED, ("rollout.speeds.low=0.001",)),
    "bounds from 0.3": (ANY_SPEED, ("rollout.speeds.low=0.3",)),
    "72 more prompts, in one call": (
        ANY_SPEED,
        ("rollout.speeds.high=10", "rollout.speeds.one_call_share=0.75", "rollout.prompts_per_step=96"),
    ),
    "half of the prompts": (ANY_SPEED, ("rollout.prompts_per_step=16",)),
    "mean-field": (ANY_SPEED, ("estimator={kind='mean-field', prompt_mask_rate=0.0}",)),
    "exact": (ANY_SPEED, ("estimator={kind='exact'}",)),
    "sampled-exact": (ANY_SPEED, ("estimator={kind='sampled-exact', draws=2}",)),
    "twice the rate": (ANY_SPEED, ("optimizer.lr=2.4e-4",)),
    "no KL": (ANY_SPEED, ("objective.kl_coef=0",)),
    "plain sums": (ANY_SPEED, ("rollout.rule={kind='entropy-bound', subtract_max=false}",)),
    "d1": ("tiny-d1", ()),
    "one-call d1": ("tiny-d1", ("rollout.rule.bound=10",)),
    "DiFFPO": ("tiny-diffpo", ()),
}


def main() -> None:
    """Run what is missing, a line for each run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--calls", type=int, default=CALLS, help="denoiser calls of each run")
    parser.add_argument("--runs", type=Path, default=Path("runs/any-speed"), help="where models are kept")
    parser.add_argument("--results", type=Path, default=Path("results/any_speed/runs.jsonl"))
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    if not options.table:
        for arm in options.arms:
            for seed in options.seeds:
                run(arm, seed, options.calls, options.runs, options.results)
    print(table(lines_of(options.results)))


def run(arm: str, seed: int, calls: int, runs: Path, results: Path) -> None:
    """Train and measure one arm on one seed, unless there is a line of it."""
    name, overrides = ARMS[arm]
    base, out = runs / f"base-{seed}", runs / f"{arm.replace(' ', '-')}-{calls}-{seed}"
    shallow = load_recipe(SftRecipe, "sudoku4-shallow", [f"seed={seed}"])
    task = "task={kind='sudoku', min_clues=4, max_clues=10}"
    recipe = load_recipe(
        RlRecipe, name, [f"seed={seed}", f'base="{base}"', task, f"budget.denoiser_calls={calls}", *overrides]
    )
    settings = recipe.model_dump(mode="json", exclude={"base", "checkpoint"})
    if any(line["arm"] == arm and line["settings"] == settings for line in lines_of(results)):
        return
    run_sft(shallow, base, resume="auto")
    run_rl(recipe, out, resume="auto")
    steps = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    line = {
        "arm": arm,
        "seed": seed,
        "calls": calls,
        "steps": len(steps),
        "cpu_seconds": sum(step["cpu_seconds"] for step in steps),
        "points": points_of(out, shallow),
        "settings": settings,
    }
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def points_of(folder: Path, shallow: SftRecipe) -> list[dict[str, float]]:
    """Return accuracy and mean denoiser calls at every bound, greedily, on validation puzzles."""
    task = build_task(shallow.task)
    length = task.completion_length
    problems = task.problems("validation", PROBLEMS, seed=0)
    decodings = {str(bound): Decoding(EntropyBound(bound), length, length) for bound in DENSE_BOUNDS}
    outcomes = evaluate_decodings(load(folder), task, problems, decodings, batch_size=100 * len(decodings))
    return [
        {"bound": float(one.name), "accuracy": float(one.is_solved.mean()), "nfe": float(one.nfe.mean())}
        for one in outcomes
    ]


def lines_of(results: Path) -> list[dict[str, Any]]:
    """Return the lines of finished runs; half a line, of a run that was killed while writing, is none."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines(True) if line.endswith("\n")]


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a row for each arm and number of calls: means over seeds, and half the range over seeds in brackets."""
    header = ("arm", "calls", "seeds", "steps", "CPU s", *(f"@ {at}" for at in AT), "area")
    rows = []
    for arm, calls in dict.fromkeys((line["arm"], line["calls"]) for line in lines):
        own = [line for line in lines if (line["arm"], line["calls"]) == (arm, calls)]
        figures = np.array([figures_of(line["points"]) for line in own])
        spread = (figures.max(axis=0) - figures.min(axis=0)) / 2
        rows.append(
            (
                arm,
                str(calls),
                " ".join(str(line["seed"]) for line in own),
                f"{np.mean([line['steps'] for line in own]):.0f}",
                f"{np.mean([line['cpu_seconds'] for line in own]):.0f}",
                *(f"{mean:.1f} [{half:.1f}]" for mean, half in zip(figures.mean(axis=0), spread, strict=True)),
            )
        )
    return markdown_table(header, rows)


def figures_of(points: Sequence[Mapping[str, float]]) -> list[float]:
    """Return, in percent, the accuracies of the best mixture of bounds at the calls of `AT`, and the area."""
    nfe, accuracy = (np.array([point[key] for point in points]) for key in ("nfe", "accuracy"))
    at = [upper_hull_accuracy(nfe, accuracy, max(calls, float(nfe.min()))) for calls in AT]
    return [100 * value for value in (*at, frontier_area(nfe, accuracy, hi=AT[-1]))]


if __name__ == "__main__":
    main()
