"""Small records of evaluations and results of studies, as `diffpo eval` and `diffpo study` write them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

PROBLEMS, LENGTH = 40, 8
BOUNDS = (0.0, 0.3, 3.0)


def rows(skill: float, seed: int = 0) -> list[dict[str, Any]]:
    """Return the rules of a model: those that keep more tokens a call solve less."""
    rng = np.random.default_rng(seed)
    luck = rng.random(PROBLEMS)
    found = []
    for bound in BOUNDS:
        solved = (luck < skill - 0.08 * bound).astype(int)
        nfe = np.clip(np.full(PROBLEMS, round(LENGTH / (1 + bound))) + rng.integers(-1, 2, PROBLEMS), 1, LENGTH)
        found.append({"rule": f"entropy bound {bound:g}", "solved": solved.tolist(), "nfe_rows": nfe.tolist()})
    return found


def record(skill: float, **changes: Any) -> dict[str, Any]:
    """Return the record of an evaluation."""
    points = []
    for row in rows(skill):
        accuracy, nfe = float(np.mean(row["solved"])), float(np.mean(row["nfe_rows"]))
        around = {"ci95": [max(0.0, accuracy - 0.1), min(1.0, accuracy + 0.1)], "nfe_ci95": [nfe - 0.2, nfe + 0.2]}
        bound = float(row["rule"].rpartition(" ")[2])
        kind = {"kind": "entropy-bound", "bound": bound, "n": PROBLEMS}
        points.append(row | around | kind | {"accuracy": accuracy, "nfe": nfe})
    found: dict[str, Any] = {
        "arm": "whatever",
        "task": "walk",
        "split": "test",
        "seed": 0,
        "completion_length": LENGTH,
        "clusters": [f"p{i}" for i in range(PROBLEMS)],
        "clues": [],
        "points": points,
        "area": {"value": skill, "ci95": [max(0.0, skill - 0.1), min(1.0, skill + 0.1)]},
        "aup": {"value": 100 * skill, "ci95": [90 * skill, 110 * skill]},
        "playback": [],
    }
    return found | changes


def write_record(path: Path, skill: float, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record(skill, **changes)))
    return path


def write_run(folder: Path, skill: float | None, recipe: str = 'seed = 3\n[task]\nkind = "walk"\n') -> Path:
    """Write a run of reinforcement learning, evaluated where it has a skill."""
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(recipe)
    steps = [{"step": i, "denoiser_calls": 10 * i, "accuracy": 0.1 * i, "nfe": 5.0} for i in range(1, 4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    if skill is not None:
        write_record(folder / "eval.json", skill)
    return folder


def result(task: str, arm: str, seed: int, skill: float) -> dict[str, Any]:
    """Return a line of a study's results."""
    base = {"share": 0, "step": 0, "calls": 0, "rules": rows(0.3, seed)}
    end = {"share": 1, "step": 9, "calls": 240, "rules": rows(skill, seed)}
    return {
        "study": "tiny",
        "kind": "arms",
        "task": task,
        "arm": arm,
        "seed": seed,
        "settings": {"measured": {"bounds": list(BOUNDS), "split": "test"}},
        "completion_length": LENGTH,
        "clusters": [f"p{i}" for i in range(PROBLEMS)],
        "points": [base, end],
        "training": [{"step": i, "denoiser_calls": 80 * i, "accuracy": 0.2 * i} for i in range(1, 4)],
    }
