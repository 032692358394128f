"""Does the learned sampler (the controller) use the prompt? It is trained alone, on a strong frozen base.

    make study-sampler          # about 8 minutes on two cores; goes on where it was interrupted

It is compared, on 2000 test puzzles and over three training seeds, with the best mixture of the dense grid of fixed
bounds, with the constant that 2000 validation puzzles choose, and with a supervised ceiling: the same head fitted to
the exact reward of every bound on 2000 training puzzles. The best bound of each test puzzle would be no fair ceiling:
whether a bound solves a puzzle depends on the labels of its digits, which have nothing to do with its difficulty, so
such a choice would mostly be hindsight.
"""

import json
import math
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffpo.core.errors import UserError
from diffpo.core.options import DENSE_BOUNDS
from diffpo.evaluation.loop import evaluate_decodings
from diffpo.recipes import load_recipe
from diffpo.recipes.parts import build_task
from diffpo.recipes.tables import RlRecipe, SftRecipe
from diffpo.sampling.answering import answer_problems, first_call_entropy
from diffpo.sampling.controller import Controller, entropy_features
from diffpo.sampling.controller_files import LearnedController
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import Policy, load
from diffpo.sampling.rules import EntropyBound
from diffpo.statistics.constant import constant_within, gain_over_constant, verdict
from diffpo.statistics.gain import gain_over_fixed
from diffpo.statistics.intervals import share_interval
from diffpo.study.grids import grid_text
from diffpo.tasks.base import Problem
from diffpo.training.rl import run_rl
from diffpo.training.sft import run_sft

OUT = Path("runs/study-sampler")
RESULT = Path("results/learned_sampler.json")
SEEDS = (0, 1, 2)
BOUNDS = DENSE_BOUNDS
STRONG = load_recipe(SftRecipe, "sudoku4-strong")
TASK = build_task(STRONG.task)
LENGTH = TASK.completion_length
TEST, VALIDATION, TRAIN = 2000, 2000, 2000
PRINTED = ("learned", "gain", "validated_gain", "learned_is", "ceiling", "ceiling_gain", "by_clues")


def main() -> None:
    """Train what is missing, measure everything, and write `RESULT`.

    Raises UserError where `RESULT` is there and was measured on another grid.
    """
    check_grid()
    run_sft(STRONG, OUT / "base", resume="auto")
    for seed in SEEDS:
        out = OUT / f"seed-{seed}"
        recipe = load_recipe(RlRecipe, "tiny-diffpo-sampler-only", [f"seed={seed}", f'base="{OUT / "base"}"'])
        run_rl(recipe, out, resume="auto")
    base = load(OUT / "base")

    test = TASK.problems("test", TEST, seed=1)
    clusters = [problem.cluster for problem in test]
    solved, nfe = decode_all_bounds(base, test)
    strength = float(solved[:, 0].mean())
    print(f"base at bound 0: {strength:.3f}")

    runs = [decode_learned(OUT / f"seed-{seed}", test) for seed in SEEDS]
    learned_solved, learned_nfe = (np.stack([run[i] for run in runs], axis=1) for i in (0, 1))
    gain = gain_over_fixed(solved, nfe, learned_solved, learned_nfe, clusters)

    validation = TASK.problems("validation", VALIDATION, seed=3)
    validation_solved, validation_nfe = decode_all_bounds(base, validation)
    validation_runs = [decode_learned(OUT / f"seed-{seed}", validation) for seed in SEEDS]
    chosen = [
        constant_within(validation_solved.mean(axis=0), validation_nfe.mean(axis=0), float(run[1].mean()))
        for run in validation_runs
    ]
    validated = gain_over_constant(solved[:, chosen], nfe[:, chosen], learned_solved, learned_nfe, clusters)

    train = TASK.problems("train", TRAIN, seed=2)
    ceiling = ceiling_controller(base, train)
    ceiling_solved, ceiling_nfe, _ = decode(base, test, ceiling)
    ceiling_gain = gain_over_fixed(solved, nfe, ceiling_solved, ceiling_nfe, clusters)

    record: dict[str, Any] = {
        "command": "make study-sampler",
        "base_at_bound_0": {"accuracy": strength, "ci95": share_interval(solved[:, 0], clusters), "n": TEST},
        "fixed": points(solved, nfe),
        "learned": [
            {"seed": s, "accuracy": float(r[0].mean()), "nfe": float(r[1].mean())}
            for s, r in zip(SEEDS, runs, strict=True)
        ],
        "gain": vars(gain),
        "validated_gain": {"bounds": [BOUNDS[index] for index in chosen]} | vars(validated),
        "learned_is": verdict(gain.accuracy_ci95, validated.accuracy_ci95),
        "gain_by_seed": [vars(gain_over_fixed(solved, nfe, run[0], run[1], clusters)) for run in runs],
        "ceiling": {"accuracy": float(ceiling_solved.mean()), "nfe": float(ceiling_nfe.mean())},
        "ceiling_gain": vars(ceiling_gain),
        "by_clues": by_clues(test, runs),
        "validation": {
            "n": VALIDATION,
            "fixed": points(validation_solved, validation_nfe),
            "learned": [
                {"seed": s, "accuracy": float(r[0].mean()), "nfe": float(r[1].mean())}
                for s, r in zip(SEEDS, validation_runs, strict=True)
            ],
        },
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps({name: record[name] for name in PRINTED}, indent=1))


def check_grid() -> None:
    """Raise UserError where the result that is there was measured on other bounds."""
    if not RESULT.is_file():
        return
    grid = tuple(point["bound"] for point in json.loads(RESULT.read_text())["fixed"])
    if grid != BOUNDS:
        raise UserError(
            f"{RESULT} was measured on {grid_text(grid)}, and this study measures {grid_text(BOUNDS)}, which cannot be "
            "compared; move that file away and run again"
        )


def points(solved: np.ndarray, nfe: np.ndarray) -> list[dict[str, float]]:
    """Return accuracy and denoiser calls under every fixed bound."""
    return [
        {"bound": bound, "accuracy": float(solved[:, i].mean()), "nfe": float(nfe[:, i].mean())}
        for i, bound in enumerate(BOUNDS)
    ]


def decode(
    policy: Policy, problems: list[Problem], controller: LearnedController | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decode every problem greedily; return solved, denoiser calls and bound, each of shape [problems]."""
    decoding = Decoding(EntropyBound(), LENGTH, LENGTH, controller=controller)
    rollout, grades = answer_problems(policy, TASK, problems, decoding)
    return np.array([float(g.is_solved) for g in grades]), rollout.nfe.numpy(), rollout.entropy_bound.numpy()


def decode_all_bounds(policy: Policy, problems: list[Problem]) -> tuple[np.ndarray, np.ndarray]:
    """Return solved and denoiser calls of shape [problems, bounds], under every fixed bound."""
    decodings = {str(bound): Decoding(EntropyBound(bound), LENGTH, LENGTH) for bound in BOUNDS}
    outcomes = evaluate_decodings(policy, TASK, problems, decodings, batch_size=2000)
    return np.stack([o.is_solved for o in outcomes], axis=1), np.stack([o.nfe for o in outcomes], axis=1)


def decode_learned(run: Path, problems: list[Problem]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what `decode` does, under the bounds of a run's controller."""
    policy = load(run)
    return decode(policy, problems, policy.controller)


def ceiling_controller(policy: Policy, problems: list[Problem], steps: int = 1500) -> Controller:
    """Return a controller with the same head, fitted to the exact reward of every bound on every problem."""
    solved, nfe = decode_all_bounds(policy, problems)
    reward = torch.tensor(solved * (1 - nfe / LENGTH))[:, 1:].float()
    log_bounds = torch.tensor([math.log(bound) for bound in BOUNDS[1:]])
    features = entropy_features(first_call_entropy(policy, problems, LENGTH))
    torch.manual_seed(0)
    controller = Controller(initial_bound=0.5)
    controller.observe(features, momentum=1.0)
    optimizer = torch.optim.AdamW(controller.parameters(), lr=3e-3, weight_decay=1e-2)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        rows = torch.randint(len(problems), (256,))
        distribution = controller.log_bound(features[rows])
        near = -((log_bounds - distribution.loc[:, None]) ** 2) / (2 * distribution.scale[:, None] ** 2)
        loss = -(near.softmax(dim=1) * reward[rows]).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return controller


def by_clues(problems: list[Problem], runs: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[dict[str, float]]:
    """Return the median bound, accuracy and denoiser calls by number of clues, over the training seeds."""
    rows: defaultdict[int, list[int]] = defaultdict(list)
    for row, problem in enumerate(problems):
        rows[int(problem.facts["clues"])].append(row)
    solved, nfe, bounds = (np.stack([run[i] for run in runs], axis=1) for i in range(3))
    return [
        {
            "clues": clues,
            "n": len(chosen),
            "bound": float(np.median(bounds[chosen])),
            "accuracy": float(solved[chosen].mean()),
            "nfe": float(nfe[chosen].mean()),
        }
        for clues, chosen in sorted(rows.items())
    ]


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
