"""Whole frontiers from the results of a study, and the learned sampler against them. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffpo.statistics.constant import (
    ConstantGain,
    best_constant,
    constant_within,
    gain_over_constant,
)
from diffpo.statistics.frontier import frontier_area_estimate
from diffpo.statistics.gain import Gain, gain_over_fixed
from diffpo.statistics.intervals import Estimate, calls_interval, share_interval
from diffpo.study.results import Result
from diffpo.study.summary import groups

LEARNED = "learned"
PRICE = 0.1
"""The price of as many calls as a completion has tokens at which the constant of an arm is chosen."""


@dataclass(frozen=True)
class Frontier:
    """The frontier of an arm at the end of its budget, over its seeds, and its learned sampler if it has one."""

    task: str
    arm: str
    seeds: tuple[int, ...]
    area: Estimate
    constants: tuple[str, ...]
    """For each seed the fixed rule that validation problems chose at a price of `PRICE`."""
    accuracy: Estimate
    """Of these constants, on the test problems."""
    nfe: Estimate
    gain: Gain | None
    """Of the learned sampler over the best mixture of fixed rules."""
    validated_gain: ConstantGain | None
    """Of the learned sampler over the constants that spend at most as many calls as it does on validation problems."""


def frontiers(results: Sequence[Result]) -> list[Frontier]:
    """Return the frontier of each task and arm whose results have validation problems, in the order of the results."""
    return [_frontier(members) for members in groups(results) if all("validation" in m["points"][-1] for m in members)]


def _frontier(members: Sequence[Result]) -> Frontier:
    clusters, length = members[0]["clusters"], members[0]["completion_length"]
    names = [rule["rule"] for rule in members[0]["points"][-1]["validation"]["rules"] if rule["rule"] != LEARNED]
    end = [{rule["rule"]: rule for rule in member["points"][-1]["rules"]} for member in members]
    validation = [{r["rule"]: r for r in member["points"][-1]["validation"]["rules"]} for member in members]
    solved, nfe = (np.stack([_rows(rules, names, key) for rules in end], axis=1) for key in ("solved", "nfe_rows"))

    chosen = [best_constant(*_figures(rules, names), length, PRICE) for rules in validation]
    constant_solved, constant_nfe = (_chosen(table, chosen) for table in (solved, nfe))
    gain = validated_gain = None
    if all(LEARNED in rules for rules in end):
        learned = [
            np.stack([_rows(rules, [LEARNED], key)[:, 0] for rules in end], axis=1) for key in ("solved", "nfe_rows")
        ]
        gain = gain_over_fixed(solved, nfe, learned[0], learned[1], clusters)
        rivals = [constant_within(*_figures(rules, names), rules[LEARNED]["nfe"]) for rules in validation]
        validated_gain = gain_over_constant(
            _chosen(solved, rivals), _chosen(nfe, rivals), learned[0], learned[1], clusters
        )
    return Frontier(
        members[0]["task"],
        members[0]["arm"],
        tuple(member["seed"] for member in members),
        frontier_area_estimate(solved, nfe, clusters, length),
        tuple(names[index] for index in chosen),
        Estimate(float(constant_solved.mean()), share_interval(constant_solved, clusters)),
        Estimate(float(constant_nfe.mean()), calls_interval(constant_nfe, clusters)),
        gain,
        validated_gain,
    )


def _rows(rules: Mapping[str, Mapping[str, Any]], names: Sequence[str], key: str) -> np.ndarray:
    """Return the values of every problem, of shape [problems, rules]."""
    return np.array([rules[name][key] for name in names], dtype=float).T


def _figures(rules: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    accuracy, nfe = (np.array([rules[name][key] for name in names], dtype=float) for key in ("accuracy", "nfe"))
    return accuracy, nfe


def _chosen(values: np.ndarray, index: Sequence[int]) -> np.ndarray:
    """Return for each run the column of its rule: [n, s, k] to [n, s]."""
    return np.stack([values[:, run, column] for run, column in enumerate(index)], axis=1)
