"""Figures from the results of a study: means over seeds with 95 % intervals. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffpo.core.errors import UserError
from diffpo.statistics.intervals import Estimate, calls_interval, difference_interval, ratio_interval, share_interval
from diffpo.study.results import BOUNDARIES, Result

BOUND = "entropy bound "
MOST_BOUNDS = 8
SHOWN = frozenset(f"{BOUND}{bound:g}" for bound in (0, 0.03, 0.1, 0.3, 1, 10))
"""The fixed bounds that are shown where all would be too many."""


@dataclass(frozen=True)
class TrajectoryPoint:
    """Mean figures of one rule at one share of the budget, over the seeds of an arm."""

    calls: float
    """Denoiser calls of training until then."""
    accuracy: Estimate
    nfe: Estimate
    by_seed: tuple[float, ...]
    """The accuracy of each seed."""


@dataclass(frozen=True)
class Trajectory:
    """The points of an arm on a task under one rule, from the base to the end of the budget."""

    task: str
    arm: str
    rule: str
    seeds: tuple[int, ...]
    shares: tuple[float, ...]
    points: tuple[TrajectoryPoint, ...]
    num_problems: int = 0


@dataclass(frozen=True)
class Profile:
    """KL figures of a model on a task in nats per token: by call for an estimator, or the rise by boundary."""

    task: str
    arm: str
    estimator: str
    seeds: tuple[int, ...]
    mean: Estimate
    """The mean over all tokens."""
    by_step: tuple[Estimate | None, ...]
    """One figure for each call or boundary, None where fewer than two clusters of rollouts committed a token."""
    num_problems: int = 0


def groups(results: Sequence[Result]) -> list[list[Result]]:
    """Return the results of each task, arm and estimator, by seed. Raises UserError where their problems differ."""
    found: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        found.setdefault((result["task"], result["arm"], result.get("estimator", "")), []).append(result)
    for key, members in found.items():
        members.sort(key=lambda result: int(result["seed"]))
        if any(result["clusters"] != members[0]["clusters"] for result in members):
            raise UserError(f"the results of {' '.join(key).strip()} were not measured on the same problems")
    return list(found.values())


def trajectories(results: Sequence[Result]) -> list[Trajectory]:
    """Return a trajectory for each task, arm and rule of `rules_along`, in the order of the results."""
    found = []
    for members in groups(results):
        first = members[0]
        shares = tuple(float(point["share"]) for point in first["points"])
        for rule in rules_along(members):
            # The controller has no figure at the base, which has none yet.
            at = [i for i, point in enumerate(first["points"]) if rule in {r["rule"] for r in point["rules"]}]
            found.append(
                Trajectory(
                    first["task"],
                    first["arm"],
                    rule,
                    tuple(result["seed"] for result in members),
                    tuple(shares[i] for i in at),
                    tuple(_point(members, i, rule) for i in at),
                    len(first["clusters"]),
                )
            )
    return found


def rules_along(members: Sequence[Result]) -> list[str]:
    """Return the rules that tables and figures show one by one: those that every point after the base has.

    Of more fixed bounds than `MOST_BOUNDS` only some are shown; all are in the area of the frontier.
    """
    points = [point for result in members for point in (result["points"][1:] or result["points"])]
    measured = set.intersection(*({rule["rule"] for rule in point["rules"]} for point in points))
    if sum(rule.startswith(BOUND) for rule in measured) > MOST_BOUNDS:
        measured = {rule for rule in measured if rule in SHOWN or not rule.startswith(BOUND)}
    return [rule["rule"] for rule in points[-1]["rules"] if rule["rule"] in measured]


def _point(members: Sequence[Result], index: int, rule: str) -> TrajectoryPoint:
    rows = [next(r for r in result["points"][index]["rules"] if r["rule"] == rule) for result in members]
    solved, nfe = (np.array([row[name] for row in rows], dtype=float).T for name in ("solved", "nfe_rows"))
    clusters = members[0]["clusters"]
    return TrajectoryPoint(
        float(np.mean([result["points"][index]["calls"] for result in members])),
        Estimate(float(solved.mean()), share_interval(solved, clusters)),
        Estimate(float(nfe.mean()), calls_interval(nfe, clusters)),
        tuple(float(value) for value in solved.mean(axis=0)),
    )


@dataclass(frozen=True)
class Difference:
    """By how much the accuracy of an arm is above another's at the end of the budget, under one rule."""

    task: str
    arm: str
    against: str
    rule: str
    seeds: tuple[int, ...]
    """The seeds that both arms have."""
    gain: Estimate


def differences(results: Sequence[Result], against: str) -> list[Difference]:
    """Compare every arm with one, problem by problem and seed by seed: equal seeds met the same problems in training.

    It is done under the rules that both have all along (`rules_along`).

    Raises UserError where there are no results of the arm `against`, and where the problems differ.
    """
    if against not in (arms := list(dict.fromkeys(result["arm"] for result in results))):
        raise UserError(f"there are no results of an arm {against} to compare with; choose from {', '.join(arms)}")
    found = []
    for members in groups([result for result in results if result["arm"] != against]):
        others = {
            result["seed"]: result
            for result in results
            if (result["task"], result["arm"]) == (members[0]["task"], against)
        }
        pairs = [(result, others[result["seed"]]) for result in members if result["seed"] in others]
        if not pairs:
            continue
        if any(result["clusters"] != other["clusters"] for result, other in pairs):
            raise UserError(f"{members[0]['arm']} and {against} were not measured on the same problems")
        seeds = tuple(result["seed"] for result, _ in pairs)
        for rule in rules_along([result for pair in pairs for result in pair]):
            gains = np.stack([_end(result)[rule] - _end(other)[rule] for result, other in pairs], axis=1)
            estimate = Estimate(float(gains.mean()), difference_interval(gains, members[0]["clusters"]))
            found.append(Difference(members[0]["task"], members[0]["arm"], against, rule, seeds, estimate))
    return found


def _end(result: Result) -> dict[str, np.ndarray]:
    """Return for each rule which problems were solved at the end of the budget (1.0 or 0.0)."""
    return {rule["rule"]: np.array(rule["solved"], dtype=float) for rule in result["points"][-1]["rules"]}


def profiles(results: Sequence[Result]) -> list[Profile]:
    """Return the KL per token by call for every task, model and estimator.

    The rises by boundary have the name `BOUNDARIES` in place of an estimator.
    """
    found = []
    for members in groups(results):
        first = members[0]
        sums, counts = (
            np.stack([np.array(result[name], dtype=float) for result in members], axis=1) for name in ("sums", "counts")
        )
        steps = range(sums.shape[2])
        by_step = tuple(_ratio(sums[..., step], counts[..., step], first["clusters"]) for step in steps)
        mean = _ratio(sums.sum(axis=2), counts.sum(axis=2), first["clusters"]) or Estimate(0.0, (0.0, 0.0))
        seeds = tuple(result["seed"] for result in members)
        count = len(first["clusters"])
        found.append(Profile(first["task"], first["arm"], first["estimator"], seeds, mean, by_step, count))
    return found


def _ratio(sums: np.ndarray, counts: np.ndarray, clusters: list[str]) -> Estimate | None:
    """Return the sum over tokens; None where they are of one cluster at most, which tells nothing of others."""
    interval = ratio_interval(sums, counts, clusters)
    return Estimate(float(sums.sum() / counts.sum()), interval) if interval is not None else None


@dataclass(frozen=True)
class Verdicts:
    """Counts of the pairs (call, boundary) of a model and seed at which the KL falls, rises, or does neither surely."""

    task: str
    arm: str
    seed: int
    falling: int
    rising: int
    undecided: int


def verdicts(results: Sequence[Result]) -> list[Verdicts]:
    """Test Assumption 2 pair by pair: the KL rises where the whole interval is above 0, and falls where it is below."""
    found = []
    for result in results:
        if result.get("estimator") != BOUNDARIES:
            continue
        intervals = [pair["ci95"] for pair in result["pairs"]]
        falling, rising = sum(high < 0 for _, high in intervals), sum(low > 0 for low, _ in intervals)
        undecided = len(intervals) - falling - rising
        found.append(Verdicts(result["task"], result["arm"], result["seed"], falling, rising, undecided))
    return found
