"""Data of known truth in the shape of an evaluation, and how often an interval holds the truth.

A problem is solved where a normal variable is above 0. Its parts are shared by a cluster, by a problem, by a problem in
one training run, and by neighbouring rules, so outcomes are correlated as those of one model under many bounds are. A
training run shifts all of its rules. Harder problems take more calls.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int

from diffpo.statistics.intervals import Interval

NORMAL = NormalDist()
LENGTH = 16
RULES = 20
CALLS = np.concatenate([[1.0], 1 + (LENGTH - 1) * np.geomspace(0.003, 1, RULES - 1)])
"""Mean calls of a dense grid of bounds."""
TRUTH_RUNS = 5_000
"""Runs over which the truth of a figure is averaged."""


@dataclass(frozen=True)
class Sample:
    """What was measured: rows of n problems, s training runs and k rules."""

    solved: Float[np.ndarray, "n s k"]
    nfe: Float[np.ndarray, "n s k"]
    clusters: Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Problems:
    """What all rules and runs meet: the cluster of each problem, and how easy it is."""

    clusters: Int[np.ndarray, " n"]
    ease: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Population:
    """Where samples come from. The shares of the variance of one outcome add up to 1 with what a run's problem has."""

    accuracy: Sequence[float]
    """Of each rule, in a typical run."""
    calls: Sequence[float] = tuple(CALLS)
    run_spread: float = 0.0
    """Standard deviation, between runs, of the shift of all rules of a run; 1 is that of the outcomes."""
    problems: int = 600
    clusters: int = 288
    skew: float = 0.5
    """Squared coefficient of variation of the clusters' shares of the problems; 0: each problem is its own cluster."""
    of_cluster: float = 0.1
    of_problem: float = 0.4
    of_rule: float = 0.3
    neighbours: float = 0.97
    """Correlation of that part between a rule and the next."""

    def runs(self, rng: np.random.Generator, count: int) -> tuple[Float[np.ndarray, "s k"], Float[np.ndarray, "s k"]]:
        """Draw the true accuracy and mean calls of each rule in each of so many runs."""
        k = len(self.accuracy)
        typical = np.array([NORMAL.inv_cdf(share) for share in self.accuracy])
        tilt = 0.3 * rng.normal(size=(count, 1)) * np.linspace(-1, 1, k) if k > 1 else 0.0
        shift = self.run_spread * (rng.normal(size=(count, 1)) + tilt)
        calls = 1 + (np.array(self.calls) - 1) * np.exp(self.run_spread / 2 * rng.normal(size=(count, 1)))
        return normal_cdf(typical + shift), np.minimum(calls, LENGTH)

    def truth(self, figure: Callable[..., Float[np.ndarray, " s"]]) -> float:
        """Return the mean over runs of `figure(accuracy, calls, accuracy)`, with true values throughout."""
        count = TRUTH_RUNS if self.run_spread else 1
        accuracy, calls = self.runs(np.random.default_rng(1), count)
        return float(figure(accuracy, calls, accuracy).mean())

    def draw_problems(self, rng: np.random.Generator) -> Problems:
        clusters = np.arange(self.problems)
        if self.skew:
            weights = rng.gamma(1 / self.skew, size=self.clusters)
            clusters = rng.choice(self.clusters, size=self.problems, p=weights / weights.sum())
        ease = math.sqrt(self.of_cluster) * rng.normal(size=clusters.max() + 1)[clusters]
        return Problems(clusters, ease + math.sqrt(self.of_problem) * rng.normal(size=self.problems))

    def sample(self, rng: np.random.Generator, runs: int = 1, problems: Problems | None = None) -> Sample:
        """Draw so many runs and, unless they are given, the problems on which all of them are measured."""
        problems = problems or self.draw_problems(rng)
        accuracy, calls = self.runs(rng, runs)
        shape = (len(problems.ease), *accuracy.shape)
        rule = rng.normal(size=shape)
        for i in range(1, shape[2]):
            rule[..., i] *= math.sqrt(1 - self.neighbours**2)
            rule[..., i] += self.neighbours * rule[..., i - 1]
        own = math.sqrt(1 - self.of_cluster - self.of_problem - self.of_rule) * rng.normal(size=shape[:2])
        ease = (problems.ease[:, None] + own)[..., None]
        threshold = np.vectorize(NORMAL.inv_cdf)(1 - accuracy)
        solved = ease + math.sqrt(self.of_rule) * rule > threshold
        slowness = np.exp(-0.5 * ease / math.sqrt(1 - self.of_rule) - 0.125)  # its mean is 1
        return Sample(solved.astype(float), 1 + (calls - 1) * slowness, problems.clusters)


def normal_cdf(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    found: Float[np.ndarray, ...] = np.vectorize(NORMAL.cdf)(x)
    return found


def first_accuracy(accuracy: Float[np.ndarray, "s k"], *_: Float[np.ndarray, "s k"]) -> Float[np.ndarray, " s"]:
    """The figure that is the accuracy of one rule."""
    return accuracy[:, 0]


Found = Sequence[tuple[Interval, float]]
Trial = Callable[[np.random.Generator], Found]
"""Draws data, and returns each interval with the truth that it should hold."""


def covered(trial: Trial, trials: int, seed: int = 0) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Return in which share of the trials each interval holds its truth, and its mean width."""
    rng = np.random.default_rng(seed)
    found = np.array([[(*interval, truth) for interval, truth in trial(rng)] for _ in range(trials)])
    low, high, truth = np.moveaxis(found, 2, 0)
    # Sums in another order may differ in the last digit.
    holds = (low <= truth + 1e-12) & (truth <= high + 1e-12)
    return holds.mean(axis=0), (high - low).mean(axis=0)
