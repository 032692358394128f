"""Whole frontiers compared: the part of `summary.json` that says by how much one is above each of the others."""

from collections.abc import Mapping
from typing import Any

from diffpo.report.fields import interval, member, number, objects, required
from diffpo.statistics.comparison import FrontierDifference
from diffpo.statistics.intervals import Estimate


def differences_of(summary: Mapping[str, Any]) -> dict[str, FrontierDifference]:
    """Return the differences in the contents of `summary.json`, by the other arm; none where it compares nothing.

    Raises KeyError or ValueError for what has another shape.
    """
    compared = member(summary, "compared")
    return {arm: _difference(member(compared, arm)) for arm in compared}


def _difference(found: Mapping[str, Any]) -> FrontierDifference:
    rows = objects({"accuracy": found["accuracy"]}, "accuracy")
    at = tuple(number(row, "nfe") for row in rows)
    return FrontierDifference(at, tuple(map(estimate, rows)), estimate(required(found, "area")))


def estimate(found: Mapping[str, Any]) -> Estimate:
    """Return a value with its interval."""
    return Estimate(number(found, "value"), interval(found, "ci95"))
