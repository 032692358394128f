"""A made-up run for reports, as a demo writes one: three arms, with evaluations and logs."""

import json
from pathlib import Path
from typing import Any

import numpy as np

ANSWER = "1234341221434321"
SKILL = {"base": 0.35, "d1": 0.5, "diffpo": 0.7}
N = 120


def point(rule: str, accuracy: float, nfe: float, **more: Any) -> dict[str, Any]:
    return {"rule": rule, "accuracy": accuracy, "ci95": [accuracy - 0.04, accuracy + 0.04], "nfe": nfe, "n": N, **more}


def gain(accuracy: float, interval: list[float]) -> dict[str, Any]:
    return {"accuracy": accuracy, "accuracy_ci95": interval, "nfe": 0.6, "nfe_ci95": [-0.1, 1.2]}


def evaluation(arm: str, rng: np.random.Generator) -> dict[str, Any]:
    skill = SKILL[arm]
    clues = rng.integers(4, 9, size=N)

    def rows(accuracy: float, nfe: float) -> dict[str, Any]:
        solved = (rng.random(N) < accuracy + 0.05 * (clues - 6)).astype(int)
        calls = np.clip(rng.poisson(nfe, N), 1, 16)
        return {"solved": solved.tolist(), "nfe_rows": calls.tolist(), "nfe_ci95": [nfe - 0.2, nfe + 0.2]}

    points = []
    for bound in (0.01, 0.05, 0.1, 0.2, 0.5, 1.0):
        accuracy, calls = skill - 0.25 * bound**1.5, 12 - 9.5 * bound**0.5
        found = rows(accuracy, calls)
        points.append(point(f"entropy bound {bound}", accuracy, calls, kind="entropy-bound", bound=bound, **found))
    points.append(point("top-2", skill - 0.06, 8.0, kind="top-k", bound=None, **rows(skill - 0.06, 8)))
    learned = None
    if arm == "diffpo":
        learned = point("learned", skill + 0.02, 3.2, bounds=(0.1 * clues).tolist(), **rows(skill + 0.02, 3.2))
    steps = [0, 0, 1, 1, 0, 2, 2, 3, 0, 4, 4, 3, 0, 3, 2, 4]
    return {
        "arm": arm,
        "task": "sudoku4",
        "split": "test",
        "seed": 0,
        "completion_length": 16,
        "clusters": [ANSWER] * N,
        "clues": clues.tolist(),
        "points": points,
        "learned": learned,
        "area": {"value": skill / 2, "ci95": [skill / 2 - 0.02, skill / 2 + 0.02]},
        "aup": {"value": 200 * skill, "ci95": [200 * skill - 9, 200 * skill + 9]},
        "gain": gain(0.021, [0.004, 0.04]) if learned else None,
        "validated_gain": gain(0.012, [-0.01, 0.03]) | {"rule": "entropy bound 0.2"} if learned else None,
        "validation": {"best_constants": [{"price": 0.1, "rule": "entropy bound 0.2", "bound": 0.2}]},
        "playback": [
            {
                "prompt": "1..43....1.3...1=",
                "clues": 5,
                "completion": ANSWER if arm == "diffpo" else ANSWER.replace("2143", "2134"),
                "answer": ANSWER,
                "unmask_step": steps if arm == "diffpo" else list(range(16)),
                "logp": [-0.01 * i for i in range(16)],
                "nfe": 5 if arm == "diffpo" else 16,
                "solved": arm == "diffpo",
                "rule": "learned" if arm == "diffpo" else "entropy bound 0.2",
                "entropy_bound": 0.21 if arm == "diffpo" else 0.2,
            }
        ],
    }


def metrics(arm: str, rng: np.random.Generator) -> list[dict[str, float]]:
    if arm == "base":
        return [{"step": i, "loss": 2.0 * 0.98**i + 0.1 * rng.random()} for i in range(150)]
    return [
        {
            "step": i,
            "denoiser_calls": 4000 * (i + 1),
            "accuracy": 0.3 + 0.002 * i + 0.08 * rng.random(),
            "nfe": 9 - (0.04 if arm == "diffpo" else 0.0) * i + rng.random(),
            "kl": 1e-4 * i * rng.random(),
            "importance_weight_ess": 0.9 - 0.2 * rng.random(),
            "clip_fraction": 0.02 * rng.random(),
            "frac_reward_zero_std": 0.2 + 0.1 * rng.random(),
            **({"bound_median": 0.1 + 0.004 * i} if arm == "diffpo" else {}),
        }
        for i in range(150)
    ]


def fake_run(where: Path) -> Path:
    rng = np.random.default_rng(0)
    (where / "eval").mkdir(parents=True)
    arms: dict[str, Any] = {}
    for arm in SKILL:
        found = evaluation(arm, rng)
        (where / "eval" / f"{arm}.json").write_text(json.dumps(found))
        (where / arm).mkdir()
        (where / arm / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics(arm, rng)))
        keys = ("rule", "accuracy", "ci95", "nfe", "n")
        arms[arm] = {
            "frontier": [{key: p[key] for key in keys} for p in found["points"]],
            "train_denoiser_calls": 600_000,
        }
        if found["learned"]:
            arms[arm]["learned"] = {key: found["learned"][key] for key in keys[1:]}
    (where / "summary.json").write_text(json.dumps({"seed": 0, "wall_s": 412.3, "arms": arms}))
    (where / "clock.json").write_text(json.dumps({"seed": 0, "seconds": 412.3}))
    return where
