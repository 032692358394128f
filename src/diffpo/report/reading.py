"""Arms from the JSON that evaluations and demos have written; a field that is missing or odd is a UserError."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from diffpo.core.errors import UserError
from diffpo.report.data import (
    Arm,
    FrontierPoint,
    LearnedSampler,
    PlaybackCompletion,
    PriceCurve,
    Rows,
    ValidatedGain,
)
from diffpo.report.differences import estimate
from diffpo.report.fields import (
    MOST_CALLS,
    interval,
    items,
    member,
    number,
    numbers,
    objects,
    optional_number,
    required,
    whole,
    words,
)
from diffpo.statistics.constant import ConstantGain
from diffpo.statistics.gain import Gain
from diffpo.statistics.intervals import Estimate

FEWEST_CALLS = 0.01
"""For a problem, on average; its logarithm is drawn."""

P = ParamSpec("P")
T = TypeVar("T")


def build(path: Path, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `make`. Raises UserError naming `path` where a field is missing or has the wrong shape."""
    try:
        return make(*args, **kwargs)
    except KeyError as error:
        raise UserError(f"{path}: the field {error} is missing; was it written by another version?") from error
    except ValueError as error:
        raise UserError(f"{path}: a field has the wrong shape ({error}); was it written by another version?") from error


def arms_of_summary(summary: Mapping[str, Any]) -> tuple[Arm, ...]:
    """Return the arms in the contents of a demo's `summary.json`, in their order there."""
    arms = member(summary, "arms")
    return tuple(_arm_of_summary(name, member(arms, name)) for name in arms)


def _arm_of_summary(name: str, found: Mapping[str, Any]) -> Arm:
    calls = whole(found, "train_denoiser_calls") if found.get("train_denoiser_calls") is not None else None
    return with_evaluation(Arm(name=name, train_denoiser_calls=calls), {**found, "points": items(found, "frontier")})


def with_evaluation(arm: Arm, found: Mapping[str, Any]) -> Arm:
    """Return an arm with the figures of an evaluation, as `diffpo eval` or a demo's summary records them."""
    learned, gain, validated = (member(found, name) for name in ("learned", "gain", "validated_gain"))
    curve = member(found, "price_curve")
    points = tuple(map(point_of, objects(found, "points")))
    sampler = LearnedSampler(point_of(learned), numbers(learned, "bounds")) if learned else None
    prices = _price_curve(curve) if curve else None
    family = prices.points if prices else (*points, *([sampler.point] if sampler else []))
    return replace(
        arm,
        points=points or arm.points,
        learned=sampler or arm.learned,
        area=_estimate(found, "area") or arm.area,
        aup=_estimate(found, "aup") or arm.aup,
        gain=_gain(gain) if gain else arm.gain,
        validated_gain=ValidatedGain(words(validated, "rule"), ConstantGain(**vars(_gain(validated))))
        if validated
        else arm.validated_gain,
        price_curve=prices or arm.price_curve,
        best_constants=_rules_by_price(member(found, "validation"), "best_constants") or arm.best_constants,
        clues=tuple(map(int, numbers(found, "clues", 0, MOST_CALLS))),
        playback=tuple(map(_completion, objects(found, "playback"))),
        task=_short(found.get("task")) or arm.task,
        split=_short(found.get("split")) or arm.split,
        problem_seed=found["seed"] if isinstance(found.get("seed"), int) else _short(found.get("seed")),
        completion_length=_length(found) or arm.completion_length,
        rows=_rows(items(found, "clusters"), family) or arm.rows,
    )


def _rows(clusters: Sequence[Any], points: Sequence[FrontierPoint]) -> Rows | None:
    """Return the values behind the points; None where one has none, or all problems are of one cluster."""
    names = tuple(map(str, clusters))
    if len(set(names)) < 2 or not points or not all(point.solved and point.nfe_rows for point in points):
        return None
    if {len(rows) for point in points for rows in (point.solved, point.nfe_rows)} != {len(names)}:
        raise ValueError(f"'clusters', 'solved' and 'nfe_rows' should have a value for each of {len(names)} problems")
    solved, nfe = (np.array([getattr(point, name) for point in points]).T[:, None] for name in ("solved", "nfe_rows"))
    return Rows(names, solved, nfe)


def _length(found: Mapping[str, Any]) -> int | None:
    length = found.get("completion_length")
    return length if isinstance(length, int) and not isinstance(length, bool) and 1 < length <= MOST_CALLS else None


def _short(value: Any) -> str | None:
    return None if value is None else f"{value!s:.60}"


def point_of(found: Mapping[str, Any]) -> FrontierPoint:
    """Return the figures of one rule."""
    rule = str(found.get("rule", "learned sampler"))
    return FrontierPoint(
        rule=rule,
        kind=str(found.get("kind") or re.sub(r"[-\s]*(\d[\d.e-]*|inf)$", "", rule)),
        accuracy=number(found, "accuracy"),
        ci95=interval(found, "ci95"),
        nfe=number(found, "nfe", FEWEST_CALLS, MOST_CALLS),
        n=whole(found, "n"),
        bound=optional_number(found, "bound"),
        solved=numbers(found, "solved", 0, 1),
        nfe_rows=numbers(found, "nfe_rows", FEWEST_CALLS, MOST_CALLS),
        nfe_ci95=interval(found, "nfe_ci95") if found.get("nfe_ci95") is not None else None,
    )


def _completion(found: Mapping[str, Any]) -> PlaybackCompletion:
    return PlaybackCompletion(
        prompt=words(found, "prompt"),
        completion=words(found, "completion"),
        answer=words(found, "answer"),
        unmask_step=tuple(map(int, numbers(found, "unmask_step", 0, MOST_CALLS))),
        logp=numbers(found, "logp"),
        nfe=whole(found, "nfe"),
        is_solved=bool(found["solved"]),
        entropy_bound=optional_number(found, "entropy_bound"),
        clues=None if found.get("clues") is None else whole(found, "clues"),
        tokens=tuple(words({"tokens": token}, "tokens") for token in items(found, "tokens")),
        special=tuple(map(int, numbers(found, "special", 0, MOST_CALLS))),
        rule=None if found.get("rule") is None else words(found, "rule"),
        difficulty=None if found.get("difficulty") is None else words(found, "difficulty"),
    )


def _gain(found: Mapping[str, Any]) -> Gain:
    return Gain(
        accuracy=number(found, "accuracy"),
        accuracy_ci95=interval(found, "accuracy_ci95"),
        nfe=number(found, "nfe"),
        nfe_ci95=interval(found, "nfe_ci95"),
    )


def _price_curve(found: Mapping[str, Any]) -> PriceCurve:
    area, gain = (estimate(required(found, key)) for key in ("area", "area_gain"))
    return PriceCurve(tuple(map(point_of, objects(found, "points"))), _rules_by_price(found, "prices"), area, gain)


def _rules_by_price(found: Mapping[str, Any], name: str) -> dict[float, str]:
    return {number(price, "price"): words(price, "rule") for price in objects(found, name)}


def _estimate(found: Mapping[str, Any], key: str) -> Estimate | None:
    inner = member(found, key)
    return estimate(inner) if inner else None
