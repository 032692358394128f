"""The record of an evaluation: figures with intervals, and the rows that they are computed from."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffpo.evaluation.loop import Outcome
from diffpo.models.tokenizer import decode_text
from diffpo.recipes.tables import EntropyBoundRule, RuleRecipe
from diffpo.sampling.policy import Policy
from diffpo.statistics.bootstrap import Estimate, mean_interval
from diffpo.statistics.frontier import aup_estimate, frontier_area_estimate, gain_over_fixed
from diffpo.tasks.base import Problem

PLAYED_BACK = 6
"""Problems whose decoding a report can replay."""
FRONTIER_FIGURES = (("area under the frontier", "area"), ("AUP", "aup"))


@dataclass(frozen=True)
class Evaluation:
    """All outcomes of one model on one set of problems."""

    problems: Sequence[Problem]
    rules: Mapping[str, RuleRecipe]
    """The rule of each fixed outcome, by its name."""
    fixed: Sequence[Outcome]
    learned: Outcome | None
    length: int
    prompts_too_long: int = 0
    """Problems that were left out."""

    @property
    def clusters(self) -> list[str]:
        return [problem.cluster for problem in self.problems]


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
    if gain := record["gain"]:
        lines.append(
            f"{'learned - best fixed':24s} "
            f"accuracy {_with_interval(gain['accuracy'], gain['accuracy_ci95'])} at equal NFE, "
            f"calls saved {_with_interval(gain['nfe'], gain['nfe_ci95'])} at equal accuracy"
        )
    if left_out := record["prompts_too_long"]:
        lines.append(f"{'prompts too long':24s} {left_out}, left out of all of this; {points[0]['n']} were measured")
    return "\n".join(lines)


def _with_interval(value: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def as_record(evaluation: Evaluation, policy: Policy) -> dict[str, Any]:
    """Return figures with intervals, and the rows that they are computed from."""
    fixed, learned, clusters, length = evaluation.fixed, evaluation.learned, evaluation.clusters, evaluation.length
    solved = np.stack([outcome.is_solved for outcome in fixed], axis=1)
    nfe = np.stack([outcome.nfe for outcome in fixed], axis=1)
    gain = None
    if learned is not None:
        found = gain_over_fixed(solved, nfe, learned.is_solved, learned.nfe, clusters)
        gain = dict(vars(found))
    points = [_point(outcome, evaluation.rules[outcome.name], clusters) for outcome in fixed]
    replayed = learned or fixed[int(np.argmin(np.abs(nfe.mean(axis=0) - length / 3)))]
    return {
        "completion_length": length,
        "prompts_too_long": evaluation.prompts_too_long,
        "clusters": clusters,
        "clues": clues_of(evaluation.problems),
        "points": points,
        "learned": _learned(learned, evaluation.problems, clusters) if learned is not None else None,
        "area": _estimate(frontier_area_estimate(solved, nfe, clusters, hi=length)),
        "aup": aup_of(points, clusters, length, best_accuracy=max(point["accuracy"] for point in points)),
        "gain": gain,
        "playback": [
            _played_back(evaluation.problems[row], replayed, row, policy)
            for row in range(min(PLAYED_BACK, len(evaluation.problems)))
        ],
    }


def aup_of(
    points: Sequence[Mapping[str, Any]], clusters: Sequence[str], length: int, best_accuracy: float
) -> dict[str, Any]:
    """Return the AUP of a record's points, scaled by the best accuracy of all methods that are compared."""
    solved, nfe = (np.array([point[rows] for point in points], dtype=float).T for rows in ("solved", "nfe_rows"))
    return _estimate(aup_estimate(solved, nfe, clusters, length, 100 * best_accuracy))


def clues_of(problems: Sequence[Problem]) -> list[int]:
    """Return the number of clues of each problem, by which tables group; empty for a task without clues."""
    return [int(problem.facts["clues"]) for problem in problems if "clues" in problem.facts]


def _point(outcome: Outcome, rule: RuleRecipe | None, clusters: list[str]) -> dict[str, Any]:
    return {
        "rule": outcome.name,
        "kind": rule.kind if rule is not None else "learned",
        "bound": rule.bound if isinstance(rule, EntropyBoundRule) else None,
        "accuracy": float(outcome.is_solved.mean()),
        "ci95": mean_interval(outcome.is_solved, clusters),
        "nfe": float(outcome.nfe.mean()),
        "nfe_ci95": mean_interval(outcome.nfe, clusters),
        "n": len(outcome.is_solved),
        "unparseable": outcome.count("unparseable"),
        "grader_failed": outcome.count("grader_failed"),
        "solved": outcome.is_solved.astype(int).tolist(),
        "nfe_rows": outcome.nfe.tolist(),
    }


def _learned(outcome: Outcome, problems: Sequence[Problem], clusters: list[str]) -> dict[str, Any]:
    bounds = outcome.rollout.entropy_bound.cpu().numpy()
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for row, clues in enumerate(clues_of(problems)):
        groups[clues].append(row)
    by_clues = [
        {
            "clues": clues,
            "n": len(rows),
            "bound": float(np.median(bounds[rows])),
            "accuracy": float(outcome.is_solved[rows].mean()),
            "nfe": float(outcome.nfe[rows].mean()),
        }
        for clues, rows in sorted(groups.items())
    ]
    return _point(outcome, None, clusters) | {"bounds": bounds.tolist(), "by_clues": by_clues}


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "ci95": estimate.ci95}


def _played_back(problem: Problem, outcome: Outcome, row: int, policy: Policy) -> dict[str, Any]:
    rollout = outcome.rollout
    bound = float(rollout.entropy_bound[row])
    return {
        "prompt": problem.prompt,
        "clues": problem.facts.get("clues"),
        "answer": problem.answer,
        "completion": decode_text(policy.tokenizer, rollout.completion_ids[row].tolist(), policy.denoiser.stop_ids),
        "unmask_step": rollout.unmask_step[row].tolist(),
        "nfe": int(rollout.nfe[row]),
        "solved": bool(outcome.is_solved[row]),
        "entropy_bound": None if np.isnan(bound) else bound,
    }
