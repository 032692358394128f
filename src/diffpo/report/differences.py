"""Whole frontiers compared: the part of `summary.json` that says by how much one is above each of the others."""

from collections.abc import Mapping
from typing import Any

from diffpo.statistics.comparison import FrontierDifference
from diffpo.statistics.intervals import Estimate


def differences_of(summary: Mapping[str, Any]) -> dict[str, FrontierDifference]:
    """Return the differences in the contents of `summary.json`, by the other arm; none where it compares nothing.

    Raises KeyError, TypeError or ValueError for what has another shape.
    """
    return {arm: _difference(found) for arm, found in summary.get("compared", {}).items()}


def _difference(found: Mapping[str, Any]) -> FrontierDifference:
    rows = found["accuracy"]
    return FrontierDifference(
        tuple(float(row["nfe"]) for row in rows), tuple(_estimate(row) for row in rows), _estimate(found["area"])
    )


def _estimate(found: Mapping[str, Any]) -> Estimate:
    low, high = found["ci95"]
    return Estimate(float(found["value"]), (float(low), float(high)))
