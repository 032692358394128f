"""What can be compared among the arms of one report, problem by problem, and what cannot, in sentences."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from diffpo.report.data import Arm, ReportedRun, Rows
from diffpo.statistics.comparison import FrontierDifference, Frontiers, compare_frontiers
from diffpo.statistics.frontier import aup_estimate

T = TypeVar("T")
BASE = "base"
MOST_LENGTH = 64
"""Of longer completions the difference is told at this many numbers of calls, at equal steps of their logarithm."""


def compared(run: ReportedRun) -> ReportedRun:
    """Return a report with one arm compared with the others, problem by problem, and notes on what could not be.

    It is the report's main arm or, where it names none, the one with the largest area; not the base, which others start
    from.

    Where rows were recorded, AUP is scaled by the best accuracy of all arms on the same problems.
    """
    evaluated = [arm for arm in run.arms if arm.is_evaluated]
    if not evaluated:
        return replace(run, notes=(*run.notes, *_notes(run.arms, None, ())))
    main = next((arm for arm in evaluated if arm.name == run.main), None) or max(evaluated, key=_area)
    others = [arm for arm in evaluated if arm is not main]
    paired = [arm for arm in others if _is_paired(arm, main)]
    differences = {arm.name: _difference(main, arm) for arm in paired} or run.compared
    seed: int | str | None = evaluated[0].problem_seed
    has_one_seed = all(arm.problem_seed == seed for arm in evaluated)
    return replace(
        run,
        arms=tuple(_rescaled(arm, [main, *paired]) for arm in run.arms),
        main=main.name,
        compared=differences,
        seed=run.seed if run.seed is not None or not has_one_seed else seed,
        split=_agreed([arm.split for arm in evaluated]),
        completion_length=_agreed([arm.completion_length for arm in evaluated]),
        notes=(*run.notes, *_notes(run.arms, main, [arm for arm in others if arm.name not in differences])),
    )


def _area(arm: Arm) -> float:
    area = arm.price_curve.area if arm.price_curve else arm.area
    return -1.0 if area is None or arm.name == BASE else area.value


def _is_paired(arm: Arm, main: Arm) -> bool:
    """Return whether two arms were measured on the same problems, by models of the same seeds."""
    if arm.rows is None or main.rows is None or main.completion_length is None:
        return False
    return (
        arm.rows.clusters == main.rows.clusters
        and arm.rows.solved.shape[1] == main.rows.solved.shape[1]
        and (arm.seeds == main.seeds or len(main.seeds) <= 1)
        and arm.completion_length == main.completion_length
    )


def _difference(main: Arm, arm: Arm) -> FrontierDifference:
    if main.rows is None or arm.rows is None or main.completion_length is None:
        raise ValueError("only arms with rows can be compared")
    length = main.completion_length
    at = range(1, length + 1) if length <= MOST_LENGTH else np.unique(np.geomspace(1, length, MOST_LENGTH).round())
    return compare_frontiers(
        _frontiers(main.rows), _frontiers(arm.rows), main.rows.clusters, length, [float(x) for x in at]
    )


def _frontiers(rows: Rows) -> Frontiers:
    return Frontiers(rows.solved, rows.nfe)


def _rescaled(arm: Arm, together: Sequence[Arm]) -> Arm:
    """Return an arm whose AUP has the best accuracy of all fixed rules on the same problems for its scale."""
    if arm not in together or arm.rows is None or arm.aup is None or arm.completion_length is None:
        return arm
    count = len(arm.rows.clusters)
    if not arm.points or {len(rows) for p in arm.points for rows in (p.solved, p.nfe_rows)} != {count}:
        return arm
    solved, nfe = (np.array([getattr(p, name) for p in arm.points]).T for name in ("solved", "nfe_rows"))
    rivals = [p.solved for other in together if other is not arm for p in other.points if len(p.solved) == count]
    found = aup_estimate(solved, nfe, arm.rows.clusters, arm.completion_length, np.array(rivals).T if rivals else None)
    best = max(float(np.mean(column)) for column in [*solved.T, *rivals])
    return replace(arm, aup=found, aup_best=best)


def _notes(arms: Sequence[Arm], main: Arm | None, unpaired: Sequence[Arm]) -> list[str]:
    found = []
    if waiting := [arm.name for arm in arms if not arm.is_evaluated]:
        found.append(f"Not evaluated: {_listed(waiting)}; diffpo eval writes the record that this page then shows.")
    if main is None:
        return found
    if unknown := [arm.name for arm in unpaired if arm.rows is None or main.rows is None]:
        found.append(
            f"Not compared with {main.name} problem by problem: {_listed(unknown)}; the records do not hold what each "
            "problem gave, or all problems are of one cluster."
        )
    if others := [arm.name for arm in unpaired if arm.name not in unknown]:
        found.append(
            f"Not compared with {main.name} problem by problem: {_listed(others)}; they met other problems, another "
            "completion length or other training seeds, and stand beside it by their own figures and intervals."
        )
    return found


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _agreed(values: Sequence[T | None]) -> T | None:
    """Return the one value that all have; None where they differ."""
    return values[0] if len(set(values)) == 1 else None
