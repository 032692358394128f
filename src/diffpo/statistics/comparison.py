"""Two ways to train, compared by their whole frontiers: at every number of calls, and in area."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Shaped

from diffpo.core.errors import UserError
from diffpo.statistics.choice import Figure, measure
from diffpo.statistics.frontier import Number, staircase_accuracy, staircase_area
from diffpo.statistics.gain import accuracy_of_mixture
from diffpo.statistics.intervals import Clusters, Estimate


@dataclass(frozen=True)
class Frontiers:
    """Frontiers of s training runs of one way to train: k rules of each run's model, on the same n problems."""

    solved: Shaped[np.ndarray, "n s k"]
    """1 or 0."""
    nfe: Shaped[np.ndarray, "n s k"]
    """Denoiser calls."""


@dataclass(frozen=True)
class FrontierDifference:
    """By how much one way to train is above another; positive is better."""

    at: tuple[float, ...]
    """Mean denoiser calls."""
    accuracy: tuple[Estimate, ...]
    """Of the best rule of each run that needs at most so many calls; each interval stands for itself."""
    area: Estimate
    """Of the frontier, from 1 call to the completion length."""


def compare_frontiers(
    ours: Frontiers, theirs: Frontiers, clusters: Clusters, length: int, at: Sequence[Number] = ()
) -> FrontierDifference:
    """Compare two ways to train, problem by problem and run by run: run i of both has the same seed.

    `at` are mean calls, by default 1, 2, ... `length`, the completion length L. The numbers of rules may differ. The
    intervals speak of other problems and other training runs. Where a frontier jumps near one of `at`, a run's rule
    may be just within or just beyond it, which the spread between runs tells and the interval of one run does not.
    Raises UserError where the two do not have the same problems and runs.
    """
    calls = tuple(map(float, at or range(1, length + 1)))
    accuracy = tuple(difference(partial(staircase_accuracy, at=x), ours, theirs, clusters) for x in calls)
    return FrontierDifference(calls, accuracy, difference(partial(staircase_area, hi=length), ours, theirs, clusters))


def compare_mixtures(
    ours: Frontiers, theirs: Frontiers, clusters: Clusters, at: Sequence[Number]
) -> tuple[Estimate, ...]:
    """Compare two ways to train at equal mean calls, each by the best mixture of its rules, chosen blindly.

    As `compare_frontiers`, but nothing jumps: a mixture of a quicker and a slower rule takes exactly so many calls. A
    side whose every rule needs more solves nothing.
    """
    return tuple(difference(partial(accuracy_of_mixture, at=x), ours, theirs, clusters) for x in at)


def difference(figure: Figure, ours: Frontiers, theirs: Frontiers, clusters: Clusters) -> Estimate:
    """Return the difference in a figure, paired by problem and run. Raises UserError as `compare_frontiers` does."""
    shapes = [table.shape[:2] for family in (ours, theirs) for table in (family.solved, family.nfe)]
    if len(set(shapes)) > 1 or shapes[0][0] != len(clusters):
        raise UserError(
            f"frontiers of {shapes[0][0]} problems and {shapes[0][1]} runs cannot be compared with those of "
            f"{shapes[2][0]} and {shapes[2][1]} over {len(clusters)} cluster names: evaluate both on the same "
            "problems, with the same seeds"
        )
    mine, other = (measure(figure, family.solved, family.nfe, clusters) for family in (ours, theirs))
    found = mine - other
    return Estimate(found.value, found.interval_of_difference(ours.solved[..., 0].size))
