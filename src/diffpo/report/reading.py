"""Arms from the JSON that evaluations and demos have written; a field that is missing or cannot be is a UserError."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from diffpo.core.errors import UserError
from diffpo.report.data import (
    Arm,
    FrontierPoint,
    LearnedSampler,
    PriceCurve,
    Rows,
    ValidatedGain,
)
from diffpo.report.differences import difference_of_shares
from diffpo.report.fields import (
    MOST_CALLS,
    FieldError,
    calls_interval,
    check_length,
    each,
    estimate,
    inside,
    interval_around,
    items,
    member,
    number,
    numbers,
    optional,
    optional_number,
    optional_whole,
    optional_words,
    required,
    whole,
    wholes,
    words,
    wrong,
)
from diffpo.report.played import completion_of
from diffpo.statistics.constant import ConstantGain
from diffpo.statistics.gain import Gain
from diffpo.statistics.intervals import FEWEST_CALLS

P = ParamSpec("P")
T = TypeVar("T")
share = partial(estimate, name="value", ends="ci95", low=0, high=1)


def build(path: Path | str, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `make`. Raises UserError naming `path` where a field is missing or holds what cannot be."""
    try:
        return make(*args, **kwargs)
    except FieldError as error:
        raise UserError(f"{path}: {error}; mend the file, or write it again") from error


def arms_of_summary(summary: Mapping[str, Any]) -> tuple[Arm, ...]:
    """Return the arms in the contents of a demo's `summary.json`, in their order there."""
    arms = member(summary, "arms")
    return tuple(
        inside(f"arms.{name}", partial(_arm_of_summary, name), member({f"arms.{name}": arms[name]}, f"arms.{name}"))
        for name in arms
    )


def _arm_of_summary(name: str, found: Mapping[str, Any]) -> Arm:
    arm = Arm(name=name, train_denoiser_calls=optional_whole(found, "train_denoiser_calls"))
    return with_evaluation(arm, {**found, "points": items(found, "frontier")})


def with_evaluation(arm: Arm, found: Mapping[str, Any]) -> Arm:
    """Return an arm with the figures of an evaluation, as `diffpo eval` or a demo's summary records them.

    Raises FieldError for a figure that cannot be: out of its range, outside of its interval, or of another number of
    problems than the rest.
    """
    points = each(found, "points", point_of)
    sampler = optional(found, "learned", _learned)
    prices = optional(found, "price_curve", _price_curve)
    family = prices.points if prices else (*points, *([sampler.point] if sampler else []))
    clusters = tuple(map(str, items(found, "clusters")))
    clues = wholes(found, "clues")
    for name, values in (("clusters", clusters), ("clues", clues)):
        if family:
            check_length(values, name, family[0].n, "problems")
    return replace(
        arm,
        points=points or arm.points,
        learned=sampler or arm.learned,
        area=optional(found, "area", share) or arm.area,
        aup=optional(found, "aup", partial(estimate, name="value", ends="ci95", low=0)) or arm.aup,
        gain=optional(found, "gain", _gain) or arm.gain,
        validated_gain=optional(found, "validated_gain", _validated_gain) or arm.validated_gain,
        price_curve=prices or arm.price_curve,
        best_constants=inside("validation", _constants, member(found, "validation")) or arm.best_constants,
        clues=clues,
        playback=each(found, "playback", partial(completion_of, length=_recorded_length(found))),
        task=_short(found, "task") or arm.task,
        split=_short(found, "split") or arm.split,
        problem_seed=_seed(found),
        completion_length=_length(found) or arm.completion_length,
        rows=_rows(clusters, family) or arm.rows,
    )


def _rows(clusters: tuple[str, ...], points: Sequence[FrontierPoint]) -> Rows | None:
    """Return the values behind the points; None where one has none, or all problems are of one cluster."""
    if len(set(clusters)) < 2 or not points or not all(point.solved and point.nfe_rows for point in points):
        return None
    for point in points:
        check_length(point.solved, f"solved (of {point.rule})", len(clusters), "problems")
    solved, nfe = (np.array([getattr(point, name) for point in points]).T[:, None] for name in ("solved", "nfe_rows"))
    return Rows(clusters, solved, nfe)


def _recorded_length(found: Mapping[str, Any]) -> int | None:
    return optional_whole(found, "completion_length", 1)


def _length(found: Mapping[str, Any]) -> int | None:
    length = _recorded_length(found)
    return None if length == 1 else length  # there is no frontier then


def _short(found: Mapping[str, Any], name: str) -> str | None:
    text = optional_words(found, name)
    return None if text is None else f"{text:.60}"


def _seed(found: Mapping[str, Any]) -> int | str | None:
    seed = found.get("seed")
    if seed is None or (isinstance(seed, int) and not isinstance(seed, bool)):
        return seed
    if isinstance(seed, str):
        return f"{seed:.60}"
    raise wrong("seed", "a whole number", seed)


def point_of(found: Mapping[str, Any]) -> FrontierPoint:
    """Return the figures of one rule."""
    rule = optional_words(found, "rule") or "learned sampler"
    accuracy = number(found, "accuracy", 0, 1)
    nfe = number(found, "nfe", FEWEST_CALLS, MOST_CALLS)
    n = whole(found, "n", 1)
    rows = {"solved": numbers(found, "solved", 0, 1), "nfe_rows": numbers(found, "nfe_rows", FEWEST_CALLS, MOST_CALLS)}
    for name, values in rows.items():
        check_length(values, name, n, "problems", may_be_empty=not any(rows.values()))
    return FrontierPoint(
        rule=rule,
        kind=optional_words(found, "kind") or re.sub(r"[-\s]*(\d[\d.e-]*|inf)$", "", rule),
        accuracy=accuracy,
        ci95=interval_around(found, "ci95", accuracy, 0, 1),
        nfe=nfe,
        n=n,
        bound=_bound(found, rule),
        nfe_ci95=calls_interval(found, "nfe_ci95", nfe) if found.get("nfe_ci95") is not None else None,
        **rows,
    )


def _bound(found: Mapping[str, Any], rule: str) -> float | None:
    """Return a point's entropy bound, which its rule names with so many digits."""
    bound = optional_number(found, "bound", 0)
    named = re.fullmatch(r"entropy bound (\d+(?:\.\d+)?(?:e[+-]?\d+)?)", rule)
    if bound is not None and named and not math.isclose(bound, float(named[1]), rel_tol=1e-4):
        raise wrong("bound", f"{named[1]}, as its rule has it", found["bound"])
    return bound


def _learned(found: Mapping[str, Any]) -> LearnedSampler:
    point, bounds = point_of(found), numbers(found, "bounds", 0)
    check_length(bounds, "bounds", point.n, "problems")
    return LearnedSampler(point, bounds)


def _gain(found: Mapping[str, Any]) -> Gain:
    accuracy = estimate(found, "accuracy", "accuracy_ci95", -1, 1)
    nfe = estimate(found, "nfe", "nfe_ci95")
    return Gain(accuracy.value, accuracy.ci95, nfe.value, nfe.ci95)


def _validated_gain(found: Mapping[str, Any]) -> ValidatedGain:
    return ValidatedGain(words(found, "rule"), ConstantGain(**vars(_gain(found))))


def _price_curve(found: Mapping[str, Any]) -> PriceCurve:
    points, prices = each(found, "points", point_of), _rules_by_price(found, "prices")
    if not points:
        raise wrong("points", "a list of at least one rule", found.get("points"))
    area, gain = required(found, "area", share), required(found, "area_gain", difference_of_shares)
    # A record has them by their calls on validation problems; on those of the test two near ones may change places.
    by_calls = tuple(sorted(points, key=lambda point: point.nfe))
    return PriceCurve(by_calls, prices, area, gain)


def _constants(validation: Mapping[str, Any]) -> dict[float, str]:
    return _rules_by_price(validation, "best_constants")


def _rules_by_price(found: Mapping[str, Any], name: str) -> dict[float, str]:
    return dict(each(found, name, lambda price: (number(price, "price", 0), words(price, "rule"))))
