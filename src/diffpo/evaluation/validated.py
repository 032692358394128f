"""The part of a record that is of validation problems: their frontier, and the constants that it chooses.

A fixed rule that was chosen on other problems is what a learned sampler has to beat: of the best one on the test
problems themselves, one cannot say how much of its accuracy is choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffpo.evaluation.loop import Outcome
from diffpo.evaluation.points import point_of
from diffpo.recipes.tables import RuleRecipe
from diffpo.statistics.constant import best_constant, constant_within, gain_over_constant
from diffpo.tasks.base import Problem

PRICES = (0.0, 0.1, 0.3, 1.0)
"""Prices at which records name the best constant: what as many calls as the completion has tokens cost in accuracy."""


@dataclass(frozen=True)
class Outcomes:
    """What the fixed rules and, where there is one, the learned sampler achieve on one set of problems."""

    problems: Sequence[Problem]
    fixed: Sequence[Outcome]
    learned: Outcome | None
    front: Sequence[Outcome] = ()
    """Where the policy has a sampler with prices, the rules that it uses for any number of calls, cheapest first."""

    @property
    def clusters(self) -> list[str]:
        return [problem.cluster for problem in self.problems]


def validation_record(validation: Outcomes, rules: Mapping[str, RuleRecipe], length: int) -> dict[str, Any]:
    """Return the frontier on validation problems, and the best constant at each of `PRICES`."""
    clusters = validation.clusters
    points = [point_of(outcome, rules[outcome.name], clusters) for outcome in validation.fixed]
    accuracy, nfe = _columns(points)
    chosen = [(price, points[best_constant(accuracy, nfe, length, price)]) for price in PRICES]
    return {
        "n": len(validation.problems),
        "points": points,
        "learned": point_of(validation.learned, None, clusters) if validation.learned is not None else None,
        "best_constants": [{"price": price, "rule": point["rule"], "bound": point["bound"]} for price, point in chosen],
    }


def validated_gain(test: Outcomes, validation: Mapping[str, Any]) -> dict[str, Any] | None:
    """Compare the learned sampler, on the test problems, with the validated constant; None without a learned one.

    The validated constant is the rule with the best accuracy on validation problems among those that spend at most as
    many calls there as the learned sampler does, or else the cheapest. `validation` is a `validation_record`.
    """
    if test.learned is None or validation["learned"] is None:
        return None
    points = validation["points"]
    point = points[constant_within(*_columns(points), validation["learned"]["nfe"])]
    constant = next(outcome for outcome in test.fixed if outcome.name == point["rule"])
    gain = gain_over_constant(constant.is_solved, constant.nfe, test.learned.is_solved, test.learned.nfe, test.clusters)
    return {"rule": point["rule"], "bound": point["bound"]} | vars(gain)


def _columns(points: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    accuracy, nfe = (np.array([point[name] for point in points]) for name in ("accuracy", "nfe"))
    return accuracy, nfe
