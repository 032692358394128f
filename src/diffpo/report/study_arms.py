"""Arms from the results of a study: what each had learned at the end of its budget, over its seeds."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffpo.core.errors import UserError
from diffpo.report.data import Arm, FrontierPoint, LearnedSampler, Rows
from diffpo.report.fields import (
    MOST_CALLS,
    FieldError,
    check_length,
    each,
    inside,
    items,
    member,
    numbers,
    objects,
    optional_number,
    whole,
    words,
    wrong,
)
from diffpo.report.metrics import parse_object
from diffpo.report.reading import build
from diffpo.statistics.frontier import frontier_area_estimate
from diffpo.statistics.gain import gain_over_fixed
from diffpo.statistics.intervals import FEWEST_CALLS, Estimate, calls_interval, share_interval

LEARNED, BOUND = "learned", "entropy bound "
BASE = "base"
Results = dict[tuple[str, str], list[Mapping[str, Any]]]
"""By task and arm, the lines of its seeds."""


def read_study(path: Path) -> tuple[list[Arm], list[str]]:
    """Return the arms in a file of a study's results, and notes on what it lacks.

    The base is an arm where the study measured it. Raises UserError for a line that is broken, and for a file without
    arms: a study of likelihoods has figures of its own.
    """
    found: Results = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line.strip():
            result = parse_object(line, path, number)
            if result.get("kind") == "arms":
                where = f"{path}:{number}"
                build(where, _check, result)
                found.setdefault(build(where, _key, result), []).append(result)
            elif result.get("kind") != "likelihood":
                raise UserError(f"{path}:{number}: no result of a study; give a file that diffpo study has written")
    if not found:
        raise UserError(
            f"{path}: no arms to report; a study of likelihoods has no page, but figures and tables: diffpo report "
            f"{path} --figures DIR"
        )
    return build(path, _arms, found), _notes(found)


def _check(result: Mapping[str, Any]) -> None:
    """Raise FieldError unless a line has what is read of it: the rules of its first point and of its last."""
    for name in ("task", "arm"):
        words(result, name)
    whole(result, "seed")
    whole(result, "completion_length", 2)
    clusters = items(result, "clusters")
    points = objects(result, "points")
    for name, values in (("clusters", clusters), ("points", points)):
        if not values:
            raise wrong(name, "a list with something in it", result.get(name))
    for i in {0, len(points) - 1}:
        inside(f"points[{i}]", partial(_check_point, num_problems=len(clusters)), points[i])
    member(member(result, "settings"), "measured")
    objects(result, "training")


def _check_point(point: Mapping[str, Any], num_problems: int) -> None:
    optional_number(point, "share", 0, 1)
    optional_number(point, "calls", 0, MOST_CALLS)
    if not each(point, "rules", partial(_check_rule, num_problems=num_problems)):
        raise wrong("rules", "a list of at least one rule", point.get("rules"))


def _check_rule(rule: Mapping[str, Any], num_problems: int) -> None:
    words(rule, "rule")
    for name, low, high in (("solved", 0, 1), ("nfe_rows", FEWEST_CALLS, MOST_CALLS)):
        check_length(numbers(rule, name, low, high), name, num_problems, "problems", may_be_empty=False)


def _key(result: Mapping[str, Any]) -> tuple[str, str]:
    return words(result, "task"), words(result, "arm")


def _arms(found: Results) -> list[Arm]:
    arms = []
    for task in dict.fromkeys(task for task, _ in found):
        of_task = {arm: members for (known, arm), members in found.items() if known == task}
        first = next(iter(of_task.values()))
        start = objects(first[0], "points")[:1]
        if BASE not in of_task and start and start[0].get("share") == 0:
            arms.append(_arm(task, BASE, first, 0))
        arms += [_arm(task, arm, members, -1) for arm, members in of_task.items()]
    return arms


def _arm(task: str, name: str, members: Sequence[Mapping[str, Any]], index: int) -> Arm:
    """Return the figures of an arm at one point of its budget: means over seeds, of problems that all of them met."""
    members = sorted(members, key=lambda result: whole(result, "seed"))
    clusters = tuple(map(str, items(members[0], "clusters")))
    length = whole(members[0], "completion_length", 2)
    if any(tuple(map(str, items(member, "clusters"))) != clusters for member in members):
        raise FieldError("clusters", f"should be the same for all seeds of {name}, and is not: they met other problems")
    if any(whole(member, "completion_length", 2) != length for member in members):
        raise FieldError("completion_length", f"should be the same for all seeds of {name}, and is not")
    ends = [{words(rule, "rule"): rule for rule in objects(objects(m, "points")[index], "rules")} for m in members]
    shared = [rule for rule in ends[0] if all(rule in end for end in ends)]
    if not shared:
        raise FieldError("rules", f"should have a rule that all seeds of {name} were measured by, and have none")
    points = {rule: _point(rule, [end[rule] for end in ends], clusters) for rule in shared}
    fixed = [point for rule, point in points.items() if rule != LEARNED]
    solved, nfe = (_table(ends, shared, key) for key in ("solved", "nfe_rows"))
    is_fixed = np.array([rule != LEARNED for rule in shared])
    learned = points.get(LEARNED)
    at = shared.index(LEARNED) if learned else 0
    return Arm(
        name,
        points=tuple(fixed),
        learned=LearnedSampler(learned) if learned else None,
        area=frontier_area_estimate(solved[..., is_fixed], nfe[..., is_fixed], clusters, length) if fixed else None,
        gain=gain_over_fixed(solved[..., is_fixed], nfe[..., is_fixed], solved[..., at], nfe[..., at], clusters)
        if learned and fixed
        else None,
        metrics=_curve(members) if index else (),
        train_denoiser_calls=_spent(members) if index else None,
        seeds=tuple(whole(member, "seed") for member in members),
        task=task,
        split=str(_measured(members[0]).get("split") or "test"),
        completion_length=length,
        rows=Rows(clusters, solved, nfe) if len(set(clusters)) > 1 else None,
    )


def _point(rule: str, rows: Sequence[Mapping[str, Any]], clusters: tuple[str, ...]) -> FrontierPoint:
    solved, nfe = (_rows(rows, key, len(clusters)) for key in ("solved", "nfe_rows"))
    accuracy = Estimate(float(solved.mean()), share_interval(solved, clusters))
    is_bound = rule.startswith(BOUND)
    return FrontierPoint(
        rule=rule,
        kind="learned" if rule == LEARNED else "entropy-bound" if is_bound else rule.rpartition(" ")[0] or rule,
        accuracy=accuracy.value,
        ci95=accuracy.ci95,
        nfe=float(nfe.mean()),
        n=len(clusters),
        bound=_number_in(rule.removeprefix(BOUND)) if is_bound else None,
        solved=tuple(solved.mean(axis=1).tolist()),
        nfe_rows=tuple(nfe.mean(axis=1).tolist()),
        nfe_ci95=calls_interval(nfe, clusters),
    )


def _number_in(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # a rule of another making may be called anything
        return None


def _rows(rows: Sequence[Mapping[str, Any]], key: str, count: int) -> np.ndarray:
    """Return the values of every problem and seed, of shape [n, s]."""
    low, high = (0, 1) if key == "solved" else (FEWEST_CALLS, MOST_CALLS)
    columns = [numbers(row, key, low, high) for row in rows]
    for column in columns:
        check_length(column, key, count, "problems", may_be_empty=False)
    return np.array(columns).T


def _table(ends: Sequence[Mapping[str, Mapping[str, Any]]], rules: Sequence[str], key: str) -> np.ndarray:
    """Return the values of every problem, seed and rule, of shape [n, s, k]."""
    return np.array([[end[rule][key] for end in ends] for rule in rules], dtype=float).T


def _curve(members: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, float], ...]:
    """Return the training log of the first seed; the ends of all seeds are in `points`."""
    rows = objects(members[0], "training")
    return tuple({name: float(value) for name, value in row.items() if _is_number(value)} for row in rows)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e30


def _spent(members: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the denoiser calls that training took, on average over seeds."""
    calls = [objects(result, "points")[-1].get("calls") for result in members]
    known = [float(value) for value in calls if isinstance(value, int | float)]
    return round(sum(known) / len(known)) if known else None


def _measured(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return member(member(result, "settings"), "measured")


def _notes(found: Results) -> list[str]:
    """Return a sentence on arms that lack seeds or whole tasks that others have: the study may still be running."""
    seeds = {key: {whole(result, "seed") for result in members} for key, members in found.items()}
    every = set().union(*seeds.values())
    tasks, arms = ({key[i] for key in found} for i in (0, 1))
    missing = sum(len(every - seeds.get((task, arm), set())) for task in tasks for arm in arms)
    notes = ["Training curves are of the first seed of each arm."] if len(every) > 1 else []
    if not missing:
        return notes
    return [
        *notes,
        f"This study is not finished, or some of its runs failed: {missing} of {len(tasks) * len(arms) * len(every)} "
        "runs are not here, so that arms may stand on different seeds (the tables say how many).",
    ]
