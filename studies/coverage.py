"""How often does each 95 % interval of the project hold the truth? On simulated data whose truth is known.

    make study-coverage             # two hours on one core; SHARE=0.2 is quicker, and less exact

Coverage from 93 to 97 % is the aim. The Monte Carlo error of a share p of T trials is sqrt(p (1 - p) / T). The quick
version is `tests/statistics/test_coverage.py`.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tests.helpers.simulation import CALLS, LENGTH, RULES, Found, Population, Trial, covered, first_accuracy

from diffpo.core.files import write_json
from diffpo.statistics.comparison import Frontiers, compare_frontiers, compare_mixtures
from diffpo.statistics.frontier import aup, aup_estimate, frontier_area_estimate, staircase_accuracy, staircase_area
from diffpo.statistics.gain import accuracy_of_mixture, crossing, gain_at, gain_over_fixed
from diffpo.statistics.intervals import calls_interval, difference_interval, ratio_interval, share_interval

RESULT = Path("results/coverage.json")
LOG = np.log(CALLS) / math.log(LENGTH)
CURVES = {
    "rising": np.interp(LOG, [0, 1], [0.4, 0.9]),
    "flat from 2 calls": np.interp(LOG, [0, 0.25, 1], [0.5, 0.9, 0.9]),
    "falling at the slow end": np.interp(LOG, [0, 0.35, 1], [0.6, 0.85, 0.8]),
    "all the same": np.full(RULES, 0.8),
    "high": np.interp(LOG, [0, 1], [0.9, 0.98]),
    "low": np.interp(LOG, [0, 1], [0.02, 0.1]),
}
SIZES = ((300, 88), (600, 288))
"""Problems and clusters of unequal sizes."""


@dataclass(frozen=True)
class Scenario:
    """Data and the intervals that are made of them."""

    figure: str
    about: str
    trial: Trial
    labels: tuple[str, ...] = ("",)
    """What tells the intervals of one trial apart."""
    trials: int = 1000


def scenarios() -> Iterator[Scenario]:
    """Yield everything that is simulated."""
    yield from shares()
    yield from shares_over_runs()
    yield from differences()
    yield from ratios()
    yield from areas()
    yield from aups()
    yield from gains()
    yield from comparisons()
    yield from corners()


def shares() -> Iterator[Scenario]:
    for problems, clusters in SIZES:
        for accuracy in (0.02, 0.1, 0.5, 0.9, 0.98):
            population = Population((accuracy,), (4.0,), problems=problems, clusters=clusters)

            def trial(rng: np.random.Generator, population: Population = population) -> Found:
                sample = population.sample(rng)
                interval = share_interval(sample.solved[:, 0, 0], sample.clusters)
                calls = calls_interval(sample.nfe[:, 0, 0], sample.clusters)
                return [(interval, population.accuracy[0]), (calls, population.calls[0])]

            yield Scenario("one run", sizes_text(population, 1) + f", {accuracy:.0%}", trial, ("accuracy", "NFE"), 2000)


def shares_over_runs() -> Iterator[Scenario]:
    for runs in (3, 5, 10):
        for spread in (0.0, 0.05, 0.15, 0.4):
            for accuracy in (0.05, 0.5, 0.9):
                population = Population((accuracy,), (4.0,), run_spread=spread)
                truths = [population.truth(lambda a, *_: a[:, 0]), population.truth(lambda _, calls, __: calls[:, 0])]

                def trial(rng: np.random.Generator, population: Population = population, runs: int = runs,
                          truths: Sequence[float] = truths) -> Found:  # fmt: skip
                    sample = population.sample(rng, runs)
                    interval = share_interval(sample.solved[..., 0], sample.clusters)
                    calls = calls_interval(sample.nfe[..., 0], sample.clusters)
                    return [(interval, truths[0]), (calls, truths[1])]

                about = f"{sizes_text(population, runs)}, {accuracy:.0%}"
                yield Scenario("mean over runs", about, trial, ("accuracy", "NFE"), 2000)


def differences() -> Iterator[Scenario]:
    for runs in (1, 3, 5, 10):
        for spread in (0.0, 0.05, 0.15):
            for ours, theirs in ((0.5, 0.5), (0.95, 0.93), (0.1, 0.02)):
                if runs == 1 and spread:
                    continue
                mine, other = (Population((a,), (4.0,), run_spread=spread) for a in (ours, theirs))
                truth = mine.truth(first_accuracy) - other.truth(first_accuracy)

                def trial(rng: np.random.Generator, pair: tuple[Population, Population] = (mine, other),
                          runs: int = runs, truth: float = truth) -> Found:  # fmt: skip
                    problems = pair[0].draw_problems(rng)
                    a, b = (population.sample(rng, runs, problems).solved[..., 0] for population in pair)
                    return [(difference_interval(a - b, problems.clusters), truth)]

                about = f"{sizes_text(mine, runs)}, {ours:.0%} - {theirs:.0%}"
                yield Scenario("paired difference", about, trial, trials=2000)


def ratios() -> Iterator[Scenario]:
    """KL per token: skewed sums over few tokens, as at the late calls of a study of likelihoods."""
    for runs in (1, 3):
        for tokens in (2.0, 0.5, 0.2):
            for spread in (0.0, 0.1) if runs > 1 else (0.0,):

                def trial(rng: np.random.Generator, runs: int = runs, tokens: float = tokens,
                          spread: float = spread) -> Found:  # fmt: skip
                    clusters = rng.choice(96, size=128)
                    of_cluster, of_run = rng.normal(size=96)[clusters][:, None], rng.normal(size=runs)
                    counts = rng.poisson(tokens, size=(128, runs)).astype(float)
                    mean = np.exp(0.4 * of_cluster - 0.08 + spread * of_run - spread**2 / 2)
                    sums = np.where(counts > 0, rng.gamma(np.maximum(counts, 1)), 0) * mean
                    return [(ratio_interval(sums, counts, clusters) or (-math.inf, math.inf), 1.0)]

                about = f"{runs} runs, spread {spread:g}, 128 problems, {tokens:g} tokens each"
                yield Scenario("KL per token", about, trial, trials=2000)


def areas() -> Iterator[Scenario]:
    for problems, clusters in SIZES:
        for name, curve in CURVES.items():
            for runs, spread in ((1, 0.0), (3, 0.1), (10, 0.1)):
                for neighbours in (0.97, 0.8) if runs == 1 else (0.97,):
                    population = Population(
                        tuple(curve), run_spread=spread, problems=problems, clusters=clusters, neighbours=neighbours
                    )
                    truth = population.truth(partial(staircase_area, hi=LENGTH))

                    def trial(rng: np.random.Generator, population: Population = population, runs: int = runs,
                              truth: float = truth) -> Found:  # fmt: skip
                        sample = population.sample(rng, runs)
                        found = frontier_area_estimate(sample.solved, sample.nfe, sample.clusters, LENGTH)
                        return [(found.ci95, truth)]

                    yield Scenario("area", f"{sizes_text(population, runs)}, {name}, {neighbours:g}", trial)


def aups() -> Iterator[Scenario]:
    falling = {
        "all kept": np.interp(LOG, [0, 1], [0.87, 0.9]),
        "dropped below 2 calls": np.interp(LOG, [0, 0.25, 1], [0.4, 0.89, 0.9]),
        "slow end below": np.interp(LOG, [0, 0.4, 1], [0.3, 0.7, 0.6]),
        "one point at the margin": np.append([0.4, 0.5, 0.65], np.full(RULES - 3, 0.7)),
        "slope through the margin": np.interp(LOG, [0, 1], [0.8, 0.9]),
    }
    for problems, clusters in SIZES:
        for name, curve in falling.items():
            for every in (1, 4):
                population = Population(
                    tuple(curve[::every]), tuple(CALLS[::every]), problems=problems, clusters=clusters
                )
                best = 100 * float(max(curve[::every]))
                truth = aup(LENGTH / CALLS[::every], 100 * curve[::every], best)

                def trial(rng: np.random.Generator, population: Population = population,
                          truth: float = truth) -> Found:  # fmt: skip
                    sample = population.sample(rng)
                    found = aup_estimate(sample.solved[:, 0], sample.nfe[:, 0], sample.clusters, LENGTH)
                    return [(found.ci95, truth)]

                about = f"{sizes_text(population, 1)}, {len(curve[::every])} rules, {name}"
                yield Scenario("AUP", about, trial, trials=500)


def gains() -> Iterator[Scenario]:
    for name, curve in CURVES.items():
        for runs, spread, every in ((1, 0.0, 1), (1, 0.0, 4), (3, 0.1, 2), (10, 0.1, 2)):
            yield gain_scenario(name, curve[::every], CALLS[::every], runs, spread, 0.02)
    yield gain_scenario("rising", CURVES["rising"], CALLS, 1, 0.0, 0.0)


def gain_scenario(
    name: str, curve: np.ndarray, calls: np.ndarray, runs: int, spread: float, better: float, at: float = 3.0
) -> Scenario:
    """Return a learned sampler among fixed rules: at 3 calls, as good as their mixture in a typical run or better."""
    place = int(np.searchsorted(calls, at))
    fixed = np.arange(len(calls) + 1) != place
    mixed = -float(gain_at(0.0)(np.append(curve, 0.0), np.append(calls, at), np.append(curve, 0.0)))
    accuracy = np.insert(curve, place, min(mixed + better, 0.985))
    population = Population(tuple(accuracy), tuple(np.insert(calls, place, at)), run_spread=spread)

    def last(table: np.ndarray) -> np.ndarray:
        """Put the learned sampler behind the fixed rules."""
        return np.concatenate([table[..., fixed], table[..., [place]]], axis=-1)

    def truth_at(more: float) -> float:
        return population.truth(lambda *tables: gain_at(more)(*map(last, tables)))

    truth = truth_at(0.0)
    saved = crossing(lambda d: truth_at(d) <= 1e-12, calls[0] - at, calls[-1] - at, 1e-3)

    def trial(rng: np.random.Generator) -> Found:
        sample = population.sample(rng, runs)
        solved, nfe = last(sample.solved), last(sample.nfe)
        found = gain_over_fixed(solved[..., :-1], nfe[..., :-1], solved[..., -1], nfe[..., -1], sample.clusters)
        return [(found.accuracy_ci95, truth), (found.nfe_ci95, saved)]

    about = f"{sizes_text(population, runs)}, {name}, {len(calls)} rules, {better:+.0%}"
    return Scenario("gain", about, trial, ("accuracy", "calls saved"), 300)


def comparisons() -> Iterator[Scenario]:
    """Two families of frontiers; the second has as many rules, or one in all."""
    at = (1, 2, 4, 16)
    small = Population((), tuple(CALLS[::2]), problems=300, clusters=88)
    for runs in (3, 5, 10):
        for spread in (0.0, 0.2):
            for ours, theirs in (("rising", "rising"), ("flat from 2 calls", "all the same"), ("high", "one rule")):
                mine = replace(small, accuracy=tuple(CURVES[ours][::2]), run_spread=spread)
                other = (
                    Population((0.9,), (1.0,), run_spread=spread)
                    if theirs == "one rule"
                    else replace(small, accuracy=tuple(CURVES[theirs][::2]), run_spread=spread)
                )
                yield comparison_scenario(mine, other, runs, at, f"{ours} - {theirs}")
                yield mixtures_scenario(mine, other, runs, at, f"{ours} - {theirs}")


def comparison_scenario(ours: Population, theirs: Population, runs: int, at: Sequence[float], name: str) -> Scenario:
    figures: list[Callable[..., np.ndarray]] = [partial(staircase_accuracy, at=x) for x in at]
    figures.append(partial(staircase_area, hi=LENGTH))
    truths = [ours.truth(figure) - theirs.truth(figure) for figure in figures]

    def trial(rng: np.random.Generator) -> Found:
        problems = ours.draw_problems(rng)
        mine, other = (population.sample(rng, runs, problems) for population in (ours, theirs))
        found = compare_frontiers(
            Frontiers(mine.solved, mine.nfe), Frontiers(other.solved, other.nfe), problems.clusters, LENGTH, at
        )
        return [(e.ci95, truth) for e, truth in zip((*found.accuracy, found.area), truths, strict=True)]

    labels = (*(f"at {x:g} calls" for x in at), "area")
    return Scenario("frontiers compared", f"{sizes_text(ours, runs)}, {name}", trial, labels, 500)


def mixtures_scenario(ours: Population, theirs: Population, runs: int, at: Sequence[float], name: str) -> Scenario:
    """Return the best mixtures of each family's rules at so many calls on average."""
    truths = [ours.truth(figure) - theirs.truth(figure) for figure in (partial(accuracy_of_mixture, at=x) for x in at)]

    def trial(rng: np.random.Generator) -> Found:
        problems = ours.draw_problems(rng)
        mine, other = (Frontiers(s.solved, s.nfe) for s in (p.sample(rng, runs, problems) for p in (ours, theirs)))
        found = compare_mixtures(mine, other, problems.clusters, at)
        return [(estimate.ci95, truth) for estimate, truth in zip(found, truths, strict=True)]

    labels = tuple(f"at {x:g} calls" for x in at)
    return Scenario("mixtures compared", f"{sizes_text(ours, runs)}, {name}", trial, labels, 500)


def corners() -> Iterator[Scenario]:
    """Accuracy where no interval from so little can be exact."""
    for name, population, runs in (
        ("20 problems", Population((0.002,), (4.0,), problems=20, skew=0), 1),
        ("20 problems", Population((0.05,), (4.0,), problems=20, skew=0), 1),
        ("300 problems", Population((0.002,), (4.0,), problems=300, clusters=88), 1),
        ("30 clusters that differ much", Population((0.05,), (4.0,), clusters=30, of_cluster=0.3, of_problem=0.2), 1),
        ("30 clusters that differ much", Population((0.5,), (4.0,), clusters=30, of_cluster=0.3, of_problem=0.2), 1),
        ("3 runs between 1 and 20 %", Population((0.05,), (4.0,), run_spread=0.5), 3),
        ("10 runs between 1 and 20 %", Population((0.05,), (4.0,), run_spread=0.5), 10),
    ):
        truth = population.truth(first_accuracy)

        def trial(rng: np.random.Generator, population: Population = population, runs: int = runs,
                  truth: float = truth) -> Found:  # fmt: skip
            sample = population.sample(rng, runs)
            return [(share_interval(sample.solved[..., 0], sample.clusters), truth)]

        yield Scenario("corner", f"{name}, {truth:.1%} on average", trial, ("accuracy",), 2000)


def sizes_text(population: Population, runs: int) -> str:
    return f"{runs} runs, spread {population.run_spread:g}, {population.problems} problems"


def summary_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each kind of interval the mean coverage over its scenarios, the least and the largest.

    `outside` names scenarios that are off 93 to 97 % by more than two Monte Carlo errors.
    """
    found = []
    for figure, of in dict.fromkeys((row["figure"], row["of"]) for row in rows):
        members = [row for row in rows if (row["figure"], row["of"]) == (figure, of)]
        coverage = [row["coverage"] for row in members]
        line = {"figure": figure, "of": of, "scenarios": len(members), "trials": members[0]["trials"]}
        line |= {"mean": round(float(np.mean(coverage)), 4), "lowest": min(coverage), "highest": max(coverage)}
        off = [max(0.93 - share, share - 0.97) / math.sqrt(0.95 * 0.05 / members[0]["trials"]) for share in coverage]
        line["outside"] = [row["about"] for row, errors in zip(members, off, strict=True) if errors > 2]
        found.append(line)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the trials of each scenario (default: 1)")
    parser.add_argument("--only", default="", help="those whose figure has this in it; the others' results are kept")
    arguments = parser.parse_args()
    kept = json.loads(RESULT.read_text())["rows"] if arguments.only and RESULT.is_file() else []
    rows = []
    for scenario in scenarios():
        if arguments.only not in scenario.figure:
            rows += [row for row in kept if (row["figure"], row["about"]) == (scenario.figure, scenario.about)]
            continue
        trials = max(20, round(arguments.share * scenario.trials))
        coverage, width = covered(scenario.trial, trials)
        for label, share, wide in zip(scenario.labels, coverage, width, strict=True):
            error = math.sqrt(share * (1 - share) / trials)
            row = {"figure": scenario.figure, "of": label, "about": scenario.about, "trials": trials}
            row |= {"coverage": round(float(share), 4), "error": round(error, 4), "width": float(f"{wide:.4g}")}
            rows.append(row)
            text = f"{scenario.figure:18s} {label:12s} {scenario.about:66s}"
            print(f"{text} {share:.3f} +- {error:.3f}  width {wide:.3g}", flush=True)
    summary = summary_of(rows)
    for line in summary:
        print(json.dumps(line))
    command = f"make study-coverage SHARE={arguments.share:g}"
    write_json(RESULT, {"command": command, "summary": summary, "rows": rows}, indent=1)


if __name__ == "__main__":
    main()
