"""Fields of a run's files, read strictly: of the right type, within the range of what they measure, and of one length.

What is wrong raises FieldError, which names the field, by its way from the top of the file, and what is expected there.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from diffpo.statistics.intervals import FEWEST_CALLS, Estimate, Interval

Bound = int | float
T = TypeVar("T")
LARGEST, MOST_CALLS = 1e30, 10**9
"""Of any number, beyond which no axis reaches; and of denoiser calls, problems and the like."""
INFINITE = (math.inf, -math.inf)
NEARLY = 1e-6
"""An interval may miss its value by so much of it, for both are rounded."""


class FieldError(ValueError):
    """A field that is missing or holds what cannot be."""

    def __init__(self, field: str, told: str) -> None:
        super().__init__(f"the field {field!r} {told}")
        self.field, self.told = field, told


def wrong(name: str, expected: str, value: Any) -> FieldError:
    """Return the error for a field that should be something else."""
    return FieldError(name, f"should be {expected}, and is {value!r:.40}")


def value_of(found: Mapping[str, Any], name: str) -> Any:
    """Return what a field holds. Raises FieldError where it is missing."""
    if name not in found:
        raise FieldError(name, "is missing")
    return found[name]


def number(found: Mapping[str, Any], name: str, low: Bound = -LARGEST, high: Bound = LARGEST) -> float:
    """Return a finite number within bounds."""
    return _number(value_of(found, name), name, low, high)


def optional_number(found: Mapping[str, Any], name: str, low: Bound = -LARGEST, high: Bound = LARGEST) -> float | None:
    """Return a number; None where it is null or missing."""
    return None if found.get(name) is None else number(found, name, low, high)


def whole(found: Mapping[str, Any], name: str, low: int = 0, high: int = MOST_CALLS) -> int:
    """Return a whole number within bounds."""
    return _whole(value_of(found, name), name, low, high)


def optional_whole(found: Mapping[str, Any], name: str, low: int = 0, high: int = MOST_CALLS) -> int | None:
    """Return a whole number; None where it is null or missing."""
    return None if found.get(name) is None else whole(found, name, low, high)


def numbers(found: Mapping[str, Any], name: str, low: Bound = -LARGEST, high: Bound = LARGEST) -> tuple[float, ...]:
    """Return a list of numbers, an empty one where it is null or missing."""
    return tuple(_number(value, f"{name}[{i}]", low, high) for i, value in enumerate(items(found, name)))


def wholes(found: Mapping[str, Any], name: str, low: int = 0, high: int = MOST_CALLS) -> tuple[int, ...]:
    """Return a list of whole numbers, an empty one where it is null or missing."""
    return tuple(_whole(value, f"{name}[{i}]", low, high) for i, value in enumerate(items(found, name)))


def check_length(values: Sequence[Any], name: str, expected: int, of: str, may_be_empty: bool = True) -> None:
    """Raise FieldError unless a list has a value for each of so many things, or none where it may be empty."""
    if len(values) != expected and (values or not may_be_empty):
        raise FieldError(name, f"should have a value for each of {expected} {of}, and has {len(values)}")


def estimate(found: Mapping[str, Any], name: str, ends: str, low: Bound = -LARGEST, high: Bound = LARGEST) -> Estimate:
    """Return a number and the interval around it, both within bounds. Without a bound an end may be infinite."""
    value = number(found, name, low, high)
    interval = interval_around(found, ends, value, low, high)
    return Estimate(value, interval)


def interval_around(
    found: Mapping[str, Any], name: str, value: float, low: Bound = -LARGEST, high: Bound = LARGEST
) -> Interval:
    """Return the two ends of an interval around a value."""
    ends = items({name: value_of(found, name)}, name)
    reach = NEARLY * max(1.0, abs(value))
    least, most = (end if abs(end) < LARGEST else math.copysign(math.inf, end) for end in (low, high))
    if len(ends) == 2 and all(_is_number(end) and (abs(end) <= LARGEST or end in INFINITE) for end in ends):
        first, last = ends
        if least - NEARLY <= first <= value + reach and value - reach <= last <= most + NEARLY:
            return float(max(first, least)), float(min(last, most))
    bounds = "" if math.isinf(most) and math.isinf(least) else f" from {least:g} to {most:g}"
    raise wrong(name, f"a list of two numbers{bounds} around {value:g}", value_of(found, name))


def calls_interval(found: Mapping[str, Any], name: str, value: float) -> Interval:
    """Return the interval around mean denoiser calls; older records have some that begin below one call."""
    low, high = interval_around(found, name, value)
    return max(FEWEST_CALLS, low), high


def words(found: Mapping[str, Any], name: str) -> str:
    """Return a text."""
    value = value_of(found, name)
    if isinstance(value, str):
        return value
    raise wrong(name, "a text", value)


def optional_words(found: Mapping[str, Any], name: str) -> str | None:
    """Return a text; None where it is null or missing."""
    return None if found.get(name) is None else words(found, name)


def flag(found: Mapping[str, Any], name: str) -> bool:
    """Return true or false, which may be written as 1 or 0."""
    value = value_of(found, name)
    if value in (0, 1) and isinstance(value, int | float):
        return bool(value)
    raise wrong(name, "true or false", value)


def items(found: Mapping[str, Any], name: str) -> list[Any]:
    """Return a list, an empty one where it is null or missing."""
    value = found.get(name)
    if value is not None and not isinstance(value, list | tuple):
        raise wrong(name, "a list", value)
    return list(value or ())


def objects(found: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return a list of objects, as `items`."""
    values = items(found, name)
    for i, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise wrong(f"{name}[{i}]", "an object", value)
    return values


def each(found: Mapping[str, Any], name: str, make: Callable[[Mapping[str, Any]], T]) -> tuple[T, ...]:
    """Return what `make` makes of each of a list of objects."""
    return tuple(inside(f"{name}[{i}]", make, value) for i, value in enumerate(objects(found, name)))


def inside(name: str, make: Callable[[Mapping[str, Any]], T], found: Mapping[str, Any]) -> T:
    """Return what `make` makes of an object; an error in it names the way to its field."""
    try:
        return make(found)
    except FieldError as error:
        raise FieldError(f"{name}.{error.field}", error.told) from error


def member(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object, an empty one where it is null or missing."""
    value = found.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise wrong(name, "an object", value)
    return value or {}


def optional(found: Mapping[str, Any], name: str, make: Callable[[Mapping[str, Any]], T]) -> T | None:
    """Return what `make` makes of an object; None where it is null, missing or empty."""
    value = member(found, name)
    return inside(name, make, value) if value else None


def required(found: Mapping[str, Any], name: str, make: Callable[[Mapping[str, Any]], T]) -> T:
    """Return what `make` makes of an object that must be there."""
    value = value_of(found, name)
    if not isinstance(value, Mapping):
        raise wrong(name, "an object", value)
    return inside(name, make, value)


def _number(value: Any, name: str, low: Bound, high: Bound) -> float:
    if not _is_number(value) or not low <= value <= high:
        raise wrong(name, f"a number{_bounds(low, high)}", value)
    return float(value)


def _whole(value: Any, name: str, low: int, high: int) -> int:
    if not _is_number(value) or not low <= value <= high or value != int(value):
        raise wrong(name, f"a whole number{_bounds(low, high)}", value)
    return int(value)


def _bounds(low: Bound, high: Bound) -> str:
    if low == -LARGEST:
        return "" if high == LARGEST else f" of at most {high:g}"
    return f" of at least {low:g}" if high in (LARGEST, MOST_CALLS) else f" from {low:g} to {high:g}"


def _is_number(value: Any) -> bool:
    # numpy's numbers are read, too: a demo's summary is shown before it is a file
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
