"""Whole frontiers compared: the part of `summary.json` that says by how much one is above each of the others."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from diffpo.report.fields import MOST_CALLS, each, estimate, inside, member, number, required, value_of
from diffpo.statistics.comparison import FrontierDifference
from diffpo.statistics.intervals import FEWEST_CALLS, Estimate

difference_of_shares = partial(estimate, name="value", ends="ci95", low=-1, high=1)


def differences_of(summary: Mapping[str, Any]) -> dict[str, FrontierDifference]:
    """Return the differences in the contents of `summary.json`, by the other arm; none where it compares nothing.

    Raises FieldError for what has another shape.
    """
    return inside("compared", _differences, member(summary, "compared"))


def _differences(compared: Mapping[str, Any]) -> dict[str, FrontierDifference]:
    return {arm: required(compared, arm, _difference) for arm in compared}


def _difference(found: Mapping[str, Any]) -> FrontierDifference:
    value_of(found, "accuracy")
    rows = each(found, "accuracy", _at_calls)
    area = required(found, "area", difference_of_shares)
    return FrontierDifference(tuple(at for at, _ in rows), tuple(more for _, more in rows), area)


def _at_calls(row: Mapping[str, Any]) -> tuple[float, Estimate]:
    return number(row, "nfe", FEWEST_CALLS, MOST_CALLS), difference_of_shares(row)
