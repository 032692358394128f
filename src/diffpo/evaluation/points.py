"""The figures of one rule on a set of problems, as records hold them."""

from typing import Any

from diffpo.evaluation.loop import Outcome
from diffpo.recipes.tables import EntropyBoundRule, RuleRecipe
from diffpo.statistics.intervals import calls_interval, share_interval


def point_of(outcome: Outcome, rule: RuleRecipe | None, clusters: list[str]) -> dict[str, Any]:
    """Return accuracy and denoiser calls with their intervals; `rule` is None for the learned sampler."""
    return {
        "rule": outcome.name,
        "kind": rule.kind if rule is not None else "learned",
        "bound": rule.bound if isinstance(rule, EntropyBoundRule) else None,
        "accuracy": float(outcome.is_solved.mean()),
        "ci95": share_interval(outcome.is_solved, clusters),
        "nfe": float(outcome.nfe.mean()),
        "nfe_ci95": calls_interval(outcome.nfe, clusters),
        "n": len(outcome.is_solved),
        "unparseable": outcome.count("unparseable"),
        "grader_failed": outcome.count("grader_failed"),
    }


def point_with_rows(outcome: Outcome, rule: RuleRecipe | None, clusters: list[str]) -> dict[str, Any]:
    """Return what `point_of` does, and the values of every problem from which it is computed."""
    rows = {"solved": outcome.is_solved.astype(int).tolist(), "nfe_rows": outcome.nfe.tolist()}
    return point_of(outcome, rule, clusters) | rows
