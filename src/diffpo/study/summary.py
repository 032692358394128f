"""What the lines of a study say: means over seeds with 95 % intervals. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffpo.core.errors import UserError
from diffpo.statistics.bootstrap import Estimate, percentile_interval, resampled_run_means
from diffpo.study.results import BOUNDARIES, Result


@dataclass(frozen=True)
class Point:
    """One rule at one share of the budget, over the seeds of an arm."""

    calls: float
    accuracy: Estimate
    nfe: Estimate
    by_seed: tuple[float, ...]
    """Accuracy of each."""


@dataclass(frozen=True)
class Trajectory:
    """An arm on a task under one rule, from the base to the end of the budget."""

    task: str
    arm: str
    rule: str
    seeds: tuple[int, ...]
    shares: tuple[float, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Profile:
    """A column of KL figures of a model on a task: by call for an estimator, by boundary for their rise."""

    task: str
    arm: str
    estimator: str
    seeds: tuple[int, ...]
    mean: Estimate
    """Over all tokens."""
    by_step: tuple[Estimate | None, ...]
    """None where there was no token."""


def groups(lines: Sequence[Result]) -> list[list[Result]]:
    """The lines of each task, arm and estimator, by seed. Raises UserError where they were not measured alike."""
    found: dict[tuple[str, str, str], list[Result]] = {}
    for line in lines:
        found.setdefault((line["task"], line["arm"], line.get("estimator", "")), []).append(line)
    for key, members in found.items():
        members.sort(key=lambda line: int(line["seed"]))
        if any(line["clusters"] != members[0]["clusters"] for line in members):
            raise UserError(f"the lines of {' '.join(key).strip()} were not measured on the same problems")
    return list(found.values())


def trajectories(lines: Sequence[Result]) -> list[Trajectory]:
    """One for each task, arm and rule, in the order of the lines."""
    found = []
    for members in groups(lines):
        first = members[0]
        shares = tuple(float(point["share"]) for point in first["points"])
        for rule in first["points"][-1]["rules"]:
            # A learned sampler has no figure at the base, where there is none yet.
            at = [i for i, point in enumerate(first["points"]) if rule["rule"] in {r["rule"] for r in point["rules"]}]
            found.append(
                Trajectory(
                    first["task"],
                    first["arm"],
                    rule["rule"],
                    tuple(line["seed"] for line in members),
                    tuple(shares[i] for i in at),
                    tuple(_point(members, i, rule["rule"]) for i in at),
                )
            )
    return found


def _point(members: Sequence[Result], index: int, rule: str) -> Point:
    rows = [next(r for r in line["points"][index]["rules"] if r["rule"] == rule) for line in members]
    solved, nfe = (np.array([row[name] for row in rows], dtype=float).T for name in ("solved", "nfe_rows"))
    drawn = resampled_run_means(np.stack([solved, nfe], axis=2), members[0]["clusters"])
    return Point(
        float(np.mean([line["points"][index]["calls"] for line in members])),
        Estimate(float(solved.mean()), percentile_interval(drawn[:, 0])),
        Estimate(float(nfe.mean()), percentile_interval(drawn[:, 1])),
        tuple(float(value) for value in solved.mean(axis=0)),
    )


@dataclass(frozen=True)
class Difference:
    """By how much an arm solves more than another at the end of the budget, under one rule."""

    task: str
    arm: str
    against: str
    rule: str
    seeds: tuple[int, ...]
    """Those that both arms have."""
    gain: Estimate


def differences(lines: Sequence[Result], against: str) -> list[Difference]:
    """Every arm against one, problem by problem and seed by seed: equal seeds met the same problems in training.

    Raises UserError for an arm that the lines do not have.
    """
    if against not in (arms := list(dict.fromkeys(line["arm"] for line in lines))):
        raise UserError(f"there are no results of an arm {against} to compare with; choose from {', '.join(arms)}")
    found = []
    for members in groups([line for line in lines if line["arm"] != against]):
        others = {line["seed"]: line for line in lines if (line["task"], line["arm"]) == (members[0]["task"], against)}
        pairs = [(line, others[line["seed"]]) for line in members if line["seed"] in others]
        if not pairs:
            continue
        if any(line["clusters"] != other["clusters"] for line, other in pairs):
            raise UserError(f"{members[0]['arm']} and {against} were not measured on the same problems")
        seeds = tuple(line["seed"] for line, _ in pairs)
        for rule in (rule for rule in _end(pairs[0][0]) if rule in _end(pairs[0][1])):
            gains = np.stack([_end(line)[rule] - _end(other)[rule] for line, other in pairs], axis=1)
            drawn = resampled_run_means(gains[:, :, None], members[0]["clusters"])[:, 0]
            estimate = Estimate(float(gains.mean()), percentile_interval(drawn))
            found.append(Difference(members[0]["task"], members[0]["arm"], against, rule, seeds, estimate))
    return found


def _end(line: Result) -> dict[str, np.ndarray]:
    """Which problems were solved at the end of the budget, by rule."""
    return {rule["rule"]: np.array(rule["solved"], dtype=float) for rule in line["points"][-1]["rules"]}


def profiles(lines: Sequence[Result]) -> list[Profile]:
    """KL per token of each call, of every task, model and estimator; rises by boundary under the name `BOUNDARIES`."""
    found = []
    for members in groups(lines):
        first = members[0]
        sums, counts = (
            np.stack([np.array(line[name], dtype=float) for line in members], axis=1) for name in ("sums", "counts")
        )
        steps = sums.shape[2]
        table = np.concatenate([sums, counts, sums.sum(2, keepdims=True), counts.sum(2, keepdims=True)], axis=2)
        drawn, whole = resampled_run_means(table, first["clusters"]), table.mean(axis=(0, 1))
        by_step = tuple(_ratio(whole, drawn, step, steps + step) for step in range(steps))
        mean = _ratio(whole, drawn, 2 * steps, 2 * steps + 1) or Estimate(0.0, (0.0, 0.0))
        seeds = tuple(line["seed"] for line in members)
        found.append(Profile(first["task"], first["arm"], first["estimator"], seeds, mean, by_step))
    return found


def _ratio(whole: np.ndarray, drawn: np.ndarray, over: int, under: int) -> Estimate | None:
    """A ratio of two columns; resamples without a token do not count."""
    if whole[under] == 0:
        return None
    has_tokens = drawn[:, under] > 0
    ratios = drawn[has_tokens, over] / drawn[has_tokens, under]
    return Estimate(float(whole[over] / whole[under]), percentile_interval(ratios))


@dataclass(frozen=True)
class Verdicts:
    """Pairs (call, boundary) of one line by whether the KL falls, rises, or neither can be said."""

    task: str
    arm: str
    seed: int
    falling: int
    rising: int
    undecided: int


def verdicts(lines: Sequence[Result]) -> list[Verdicts]:
    """Assumption 2, pair by pair: it rises where the whole interval is above 0, falls where it is below."""
    found = []
    for line in lines:
        if line.get("estimator") != BOUNDARIES:
            continue
        intervals = [pair["ci95"] for pair in line["pairs"]]
        falling, rising = sum(high < 0 for _, high in intervals), sum(low > 0 for low, _ in intervals)
        undecided = len(intervals) - falling - rising
        found.append(Verdicts(line["task"], line["arm"], line["seed"], falling, rising, undecided))
    return found
