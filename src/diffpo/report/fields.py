"""Fields of a run's files, read strictly: of the right type, and numbers that a page can show.

Raises KeyError where a field is missing and ValueError, which names it, for what has another shape.
"""

from collections.abc import Mapping
from typing import Any

Bound = int | float
LARGEST, MOST_CALLS = 1e30, 10**9
"""Of any number, beyond which no axis reaches; and of denoiser calls, problems and the like."""


def number(found: Mapping[str, Any], name: str, low: Bound = -LARGEST, high: Bound = LARGEST) -> float:
    """Return a finite number within bounds."""
    return _number(found[name], name, low, high)


def optional_number(found: Mapping[str, Any], name: str) -> float | None:
    """Return a number; None where it is null or missing."""
    return None if found.get(name) is None else number(found, name)


def whole(found: Mapping[str, Any], name: str, low: int = 0) -> int:
    """Return a whole number from `low` to `MOST_CALLS`."""
    return int(_number(found[name], name, low, MOST_CALLS))


def numbers(found: Mapping[str, Any], name: str, low: Bound = -LARGEST, high: Bound = LARGEST) -> tuple[float, ...]:
    """Return a list of numbers, an empty one where it is null or missing."""
    return tuple(_number(value, name, low, high) for value in items(found, name))


def interval(found: Mapping[str, Any], name: str) -> tuple[float, float]:
    """Return the two ends of an interval."""
    ends = numbers({name: found[name]}, name)
    if len(ends) != 2:
        raise ValueError(f"{name!r} should be a list of two numbers")
    return ends[0], ends[1]


def words(found: Mapping[str, Any], name: str) -> str:
    """Return a text."""
    value = found[name]
    if isinstance(value, str):
        return value
    raise ValueError(f"{name!r} should be a text, and is {value!r:.40}")


def items(found: Mapping[str, Any], name: str) -> list[Any]:
    """Return a list, an empty one where it is null or missing."""
    value = found.get(name)
    if value is not None and not isinstance(value, list | tuple):
        raise ValueError(f"{name!r} should be a list, and is {value!r:.40}")
    return list(value or ())


def objects(found: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return a list of objects, as `items`."""
    if wrong := [value for value in items(found, name) if not isinstance(value, Mapping)]:
        raise ValueError(f"{name!r} should be a list of objects, and one is {wrong[0]!r:.40}")
    return items(found, name)


def member(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object, an empty one where it is null or missing."""
    value = found.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{name!r} should be an object, and is {value!r:.40}")
    return value or {}


def required(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object that must be there, with something in it."""
    if not found[name]:
        raise ValueError(f"{name!r} should be an object, and is {found[name]!r:.40}")
    return member(found, name)


def _number(value: Any, name: str, low: Bound, high: Bound) -> float:
    # numpy's numbers are read, too: a demo's summary is shown before it is a file
    if isinstance(value, str | list | dict | tuple) or value is None or not low <= value <= high:
        raise ValueError(f"{name!r} should be a number from {low:g} to {high:g}, and is {value!r:.40}")
    return float(value)
