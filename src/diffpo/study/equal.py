"""Arms at equal denoiser calls, equal steps and equal CPU time, read off their trajectories. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from diffpo.statistics.frontier import frontier_area_estimate
from diffpo.statistics.intervals import Estimate, share_interval
from diffpo.study.results import Result
from diffpo.study.summary import groups

Spent = Literal["calls", "steps", "cpu_seconds"]
"""What training has spent: denoiser calls, batches, or seconds of the processor."""


NUM_AMOUNTS = 4


@dataclass(frozen=True)
class AtEqual:
    """An arm on a task, where all its runs have spent some amount."""

    task: str
    arm: str
    seeds: tuple[int, ...]
    amount: float
    area: Estimate
    """The area under the greedy frontier."""
    accuracy: dict[str, Estimate]
    """By rule."""


def at_equal(results: Sequence[Result], spent: Spent) -> list[AtEqual]:
    """Return every arm at each of its task's amounts that all its runs have reached.

    Between two points of a trajectory, accuracy and calls of each problem are taken in proportion: about what a run
    that stopped there would show, but for the curve's shape in between, and for a rate that decays with the budget.
    """
    arms = groups(results)
    return [
        arm_at(members, spent, amount)
        for task in dict.fromkeys(members[0]["task"] for members in arms)
        for amount in amounts_of([members for members in arms if members[0]["task"] == task], spent)
        for members in arms
        if members[0]["task"] == task and amount <= reach(members, spent)
    ]


def amounts_of(arms: Sequence[Sequence[Result]], spent: Spent) -> list[float]:
    """Return the amounts at which the arms of a task are compared.

    They go in equal ratios from the largest that all arms have reached to the largest that any has; just the former
    where the two are within a tenth.
    """
    reached = [reach(members, spent) for members in arms]
    if max(reached) <= 1.1 * min(reached):
        return [min(reached)]
    return [float(amount) for amount in np.geomspace(min(reached), max(reached), NUM_AMOUNTS)[:-1]] + [max(reached)]


def reach(members: Sequence[Result], spent: Spent) -> float:
    """Return what all runs of an arm have spent at least, in all."""
    return min(float(spent_by(result, spent)[-1]) for result in members)


def spent_by(result: Result, spent: Spent) -> Float[np.ndarray, " points"]:
    """Return what a run had spent at each of its points."""
    if spent == "cpu_seconds":
        return np.array(result["cpu_seconds"], dtype=float)
    name = "step" if spent == "steps" else "calls"
    return np.array([point[name] for point in result["points"]], dtype=float)


def arm_at(members: Sequence[Result], spent: Spent, amount: float) -> AtEqual:
    """Return the runs of an arm on a task where each of them has spent `amount`."""
    first = members[0]
    places = [place_of(spent_by(result, spent), amount) for result in members]
    rules = [
        name
        for name in _rules(first, -1)
        if all(
            name in _rules(result, point)
            for result, (index, _) in zip(members, places, strict=True)
            for point in (index, index + 1)
        )
    ]
    solved, nfe = (
        np.stack([_values(result, *place, rules, what) for result, place in zip(members, places, strict=True)], axis=1)
        for what in ("solved", "nfe_rows")
    )
    clusters = first["clusters"]
    greedy = [i for i, name in enumerate(rules) if not name.startswith("temperature")]
    return AtEqual(
        task=first["task"],
        arm=first["arm"],
        seeds=tuple(result["seed"] for result in members),
        amount=amount,
        area=frontier_area_estimate(solved[..., greedy], nfe[..., greedy], clusters, hi=first["completion_length"]),
        accuracy={
            name: Estimate(float(solved[..., i].mean()), share_interval(solved[..., i], clusters))
            for i, name in enumerate(rules)
        },
    )


def place_of(spent: Float[np.ndarray, " points"], amount: float) -> tuple[int, float]:
    """Return the point before the amount, and how far it lies on the way to the next one, from 0 to 1."""
    index = min(int(np.searchsorted(spent, amount, side="right")) - 1, len(spent) - 2)
    width = spent[index + 1] - spent[index]
    return index, float((amount - spent[index]) / width) if width > 0 else 1.0


def _rules(result: Result, index: int) -> list[str]:
    return [rule["rule"] for rule in result["points"][index]["rules"]]


def _values(result: Result, index: int, share: float, rules: Sequence[str], what: str) -> Float[np.ndarray, "n k"]:
    """Return a column for each rule, in proportion between two points of a run's trajectory."""
    before, after = (
        np.array([next(r[what] for r in point["rules"] if r["rule"] == rule) for rule in rules], dtype=float).T
        for point in result["points"][index : index + 2]
    )
    between: np.ndarray = (1 - share) * before + share * after
    return between
