"""What comes out of a demo, in one small file: figures of every arm, and our frontier against each of the others."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffpo.cli.demo_arms import ARMS, SAMPLED, SAMPLER
from diffpo.core.files import write_json
from diffpo.evaluation.record import aup_of
from diffpo.models.model_paths import METRICS, checkpoints
from diffpo.runs.resume import read_progress
from diffpo.statistics.comparison import Frontiers, compare_frontiers

SUMMARY = "summary.json"
POINT = ("rule", "accuracy", "ci95", "nfe", "n")
"""What the summary keeps of a point of an evaluation; the learned sampler has no rule."""
GAINS = ("gain", "validated_gain")


def rescale_aup(out: Path) -> dict[str, dict[str, Any]]:
    """Return the records of all arms, rewritten with AUP scaled by the best accuracy of any arm instead of its own."""
    records = {arm: json.loads((out / "eval" / f"{arm}.json").read_text()) for arm in ARMS}
    for arm, record in records.items():
        rivals = [point for name, other in records.items() if name != arm for point in other["points"]]
        record["aup"] = aup_of(record["points"], record["clusters"], record["completion_length"], rivals)
        write_json(out / "eval" / f"{arm}.json", record)
    return records


def summarise(out: Path, seed: int, records: Mapping[str, Mapping[str, Any]], wall_s: float) -> dict[str, Any]:
    """Write `summary.json`, and return what it holds. `wall_s` is in seconds."""
    arms = {arm: arm_summary(record) | {"train_denoiser_calls": calls_of(out, arm)} for arm, record in records.items()}
    summary = {"seed": seed, "wall_s": round(wall_s, 1), "arms": arms, "compared": compared(records)}
    write_json(out / SUMMARY, summary, indent=2)
    return summary


def calls_of(out: Path, arm: str) -> int:
    """Return the denoiser calls that trained a model; of the base, the puzzles it was shown.

    The sampler's are those of its policy and of the states that it learnt from. Its rules are chosen on validation
    puzzles, whose calls count for no arm.
    """
    if arm == SAMPLER:
        states = json.loads((out / SAMPLER / METRICS).read_text().splitlines()[-1])
        return calls_of(out, SAMPLED) + int(states["denoiser_calls"])
    return read_progress(checkpoints(out / arm)[-1]).denoiser_calls


def arm_summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of an evaluation without the rows behind them."""
    found: dict[str, Any] = {
        "frontier": kept(record["points"]),
        "area": record["area"],
        "aup": record["aup"],
        "validation": validation_summary(record["validation"]),
    }
    if record["learned"] is not None:
        found["learned"] = {name: record["learned"][name] for name in POINT[1:]}
        found |= {name: record[name] for name in GAINS}
    if record["price_curve"] is not None:
        found["price_curve"] = price_curve_summary(record["price_curve"])
    return found


def validation_summary(validation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constants that the validation problems chose, and what they chose them by."""
    learned = validation["learned"]
    return {
        "best_constants": validation["best_constants"],
        "frontier": kept(validation["points"]),
        "learned": {name: learned[name] for name in POINT[1:]} if learned is not None else None,
    }


def price_curve_summary(curve: Mapping[str, Any]) -> dict[str, Any]:
    """Return the learned sampler's points, what each price buys, the area, and its gain on that of fixed bounds."""
    points = kept(curve["points"])
    of_rule = {point["rule"]: point for point in points}
    return {
        "points": points,
        "prices": [{"price": found["price"], **of_rule[found["rule"]]} for found in curve["prices"]],
        "area": curve["area"],
        "area_gain": curve["area_gain"],
    }


def compared(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return by how much the sampler's frontier is above that of each other arm, in area and at 1, 2, ... calls.

    Paired by puzzle. To the other arm's rules belong all bounds that were measured and its learned sampler, if any.
    """
    ours = records[SAMPLER]
    found = {}
    for arm, theirs in records.items():
        if arm == SAMPLER:
            continue
        rivals = [*theirs["points"], *([theirs["learned"]] if theirs["learned"] else [])]
        difference = compare_frontiers(
            frontiers(ours["price_curve"]["points"]), frontiers(rivals), ours["clusters"], ours["completion_length"]
        )
        found[arm] = {
            "area": vars(difference.area),
            "accuracy": [{"nfe": at, **vars(e)} for at, e in zip(difference.at, difference.accuracy, strict=True)],
        }
    return found


def frontiers(points: Sequence[Mapping[str, Any]]) -> Frontiers:
    """Return the rows of one training run's points."""
    solved, nfe = (np.array([point[rows] for point in points], dtype=float).T for rows in ("solved", "nfe_rows"))
    return Frontiers(solved[:, None], nfe[:, None])


def kept(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: point[name] for name in POINT} for point in points]
