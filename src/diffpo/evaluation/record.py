"""The record of an evaluation: figures with intervals, and the rows that they are computed from."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffpo.evaluation.loop import Outcome
from diffpo.evaluation.playback import playback
from diffpo.evaluation.points import point_with_rows
from diffpo.evaluation.price_curve import price_curve
from diffpo.evaluation.validated import Outcomes, validated_gain, validation_record
from diffpo.recipes.tables import RuleRecipe
from diffpo.sampling.policy import Policy
from diffpo.statistics.frontier import aup_estimate, frontier_area_estimate
from diffpo.statistics.gain import gain_over_fixed
from diffpo.statistics.intervals import Estimate
from diffpo.tasks.base import Problem

FRONTIER_FIGURES = (("area under the frontier", "area"), ("AUP", "aup"))


@dataclass(frozen=True)
class Evaluation:
    """All outcomes of one model."""

    test: Outcomes
    """Those that are reported."""
    validation: Outcomes | None
    """Those that choose constants; None where there are no validation problems."""
    rules: Mapping[str, RuleRecipe]
    """The rule of each fixed outcome, by its name."""
    length: int
    prompts_too_long: int = 0
    """Problems that were left out of the test."""


def table(record: dict[str, Any]) -> str:
    """Return a text with a line for each rule, then the figures of the whole frontier."""
    points = [*record["points"], *([record["learned"]] if record["learned"] else [])]
    lines = []
    for point in points:
        accuracy, nfe = (
            _with_interval(point["accuracy"], point["ci95"]),
            _with_interval(point["nfe"], point["nfe_ci95"]),
        )
        failed = f"  grader failed on {point['grader_failed']} of {point['n']}" if point["grader_failed"] else ""
        lines.append(f"{point['rule']:24s} accuracy {accuracy}  NFE {nfe}{failed}")
    lines += [
        f"{name:24s} {_with_interval(record[key]['value'], record[key]['ci95'])}" for name, key in FRONTIER_FIGURES
    ]
    lines += _constant_lines(record)
    if gain := record["gain"]:
        lines.append(
            f"{'learned - best mixture':24s} "
            f"accuracy {_with_interval(gain['accuracy'], gain['accuracy_ci95'])} at equal NFE, "
            f"calls saved {_with_interval(gain['nfe'], gain['nfe_ci95'])} at equal accuracy"
        )
    if gain := record["validated_gain"]:
        lines.append(
            f"{'learned - validated':24s} accuracy {_with_interval(gain['accuracy'], gain['accuracy_ci95'])}, "
            f"calls saved {_with_interval(gain['nfe'], gain['nfe_ci95'])}, against {gain['rule']}"
        )
    lines += _price_lines(record["price_curve"])
    if left_out := record["prompts_too_long"]:
        lines.append(f"{'prompts too long':24s} {left_out}, left out of all of this; {points[0]['n']} were measured")
    return "\n".join(lines)


def _constant_lines(record: Mapping[str, Any]) -> list[str]:
    """Return a line for each constant that the validation problems choose, or what is missing without them."""
    if record["validation"] is None:
        return [f"{'validated constant':24s} none: validation_count is 0"] if record["learned"] else []
    point_of_rule = {point["rule"]: point for point in record["points"]}
    chosen = [(found["price"], point_of_rule[found["rule"]]) for found in record["validation"]["best_constants"]]
    return [
        f"{f'constant at price {price:g}':24s} {point['rule']}: {point['accuracy']:.3f} in {point['nfe']:.3f} calls"
        for price, point in chosen
    ]


def _price_lines(curve: Mapping[str, Any] | None) -> list[str]:
    """Return a line for each price that the model's sampler was asked for, and the area under its frontier."""
    if curve is None:
        return []
    point_of_rule = {point["rule"]: point for point in curve["points"]}
    chosen = [(found["price"], point_of_rule[found["rule"]]) for found in curve["prices"]]
    lines = [
        f"{f'sampler at price {price:g}':24s} accuracy {_with_interval(point['accuracy'], point['ci95'])}  "
        f"NFE {_with_interval(point['nfe'], point['nfe_ci95'])}  by {point['rule']}"
        for price, point in chosen
    ]
    area, gain = (_with_interval(curve[name]["value"], curve[name]["ci95"]) for name in ("area", "area_gain"))
    return [*lines, f"{'area, sampler':24s} {area}, against fixed bounds {gain}"]


def _with_interval(value: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def as_record(evaluation: Evaluation, policy: Policy) -> dict[str, Any]:
    """Return figures with intervals, and the rows that they are computed from."""
    test, length = evaluation.test, evaluation.length
    fixed, learned, clusters = test.fixed, test.learned, test.clusters
    solved = np.stack([outcome.is_solved for outcome in fixed], axis=1)
    nfe = np.stack([outcome.nfe for outcome in fixed], axis=1)
    gain = None
    if learned is not None:
        found = gain_over_fixed(solved, nfe, learned.is_solved, learned.nfe, clusters)
        gain = dict(vars(found))
    points = [point_with_rows(outcome, evaluation.rules[outcome.name], clusters) for outcome in fixed]
    validation = validation_record(evaluation.validation, evaluation.rules, length) if evaluation.validation else None
    curve = price_curve(test, policy.sampler, length) if policy.sampler and test.front else None
    return {
        "completion_length": length,
        "prompts_too_long": evaluation.prompts_too_long,
        "clusters": clusters,
        "clues": clues_of(test.problems),
        "points": points,
        "learned": _learned(learned, test.problems, clusters) if learned is not None else None,
        "price_curve": curve,
        "validation": validation,
        "area": _estimate(frontier_area_estimate(solved, nfe, clusters, hi=length)),
        "aup": aup_of(points, clusters, length),
        "gain": gain,
        "validated_gain": validated_gain(test, validation) if validation else None,
        "playback": playback(test, validation, curve, policy),
    }


def aup_of(
    points: Sequence[Mapping[str, Any]],
    clusters: Sequence[str],
    length: int,
    rivals: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the AUP of a record's points, scaled by the best accuracy of these and of rivals on the same problems."""
    solved, nfe = (np.array([point[rows] for point in points], dtype=float).T for rows in ("solved", "nfe_rows"))
    rivals_solved = np.array([point["solved"] for point in rivals], dtype=float).T if rivals else None
    return _estimate(aup_estimate(solved, nfe, clusters, length, rivals_solved))


def clues_of(problems: Sequence[Problem]) -> list[int]:
    """Return the number of clues of each problem, by which tables group; empty unless all problems have it."""
    if not all("clues" in problem.facts for problem in problems):
        return []
    return [int(problem.facts["clues"]) for problem in problems]


def _learned(outcome: Outcome, problems: Sequence[Problem], clusters: list[str]) -> dict[str, Any]:
    bounds = outcome.rollout.entropy_bound.cpu().numpy()
    has_bounds = not np.isnan(bounds).any()
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for row, clues in enumerate(clues_of(problems)):
        groups[clues].append(row)
    by_clues = [
        {
            "clues": clues,
            "n": len(rows),
            "bound": float(np.median(bounds[rows])) if has_bounds else None,
            "accuracy": float(outcome.is_solved[rows].mean()),
            "nfe": float(outcome.nfe[rows].mean()),
        }
        for clues, rows in sorted(groups.items())
    ]
    found = {"bounds": bounds.tolist() if has_bounds else [], "by_clues": by_clues}
    return point_with_rows(outcome, None, clusters) | found


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "ci95": estimate.ci95}
