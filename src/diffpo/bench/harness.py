"""One comparison: count what both sides ask for, check that they do the same, and time them in turn."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from diffpo.bench.meter import Meter, Number

Direction = Literal["at least", "at most"]


@dataclass(frozen=True)
class Goal:
    """What a median ratio ought to reach."""

    value: Number
    direction: Direction = "at least"

    def __str__(self) -> str:
        return f"{self.direction} {self.value:g}"


@dataclass(frozen=True)
class Case:
    """Two ways to one result, ready to be run any number of times."""

    model: PreTrainedModel
    """The model whose tokens and head rows are counted."""
    plain: Callable[[], Any]
    own: Callable[[], Any]
    difference: Callable[[Any, Any], str]
    """Plain and own result -> how the own one differs from what it must be; empty where it does not."""
    flops: Callable[[Any], Number] | None = None
    """Own result -> the multiplications and additions that every way to it needs. The floor is the time of these."""
    counted: Callable[[Any, Mapping[str, Number]], Mapping[str, Number]] = lambda _result, _counts: {}
    """Own result and its counts -> more ratios that need no clock."""


@dataclass(frozen=True)
class Bench:
    """A case, which is prepared when its turn comes, and what its ratios ought to reach."""

    name: str
    what: str
    """One line that describes it."""
    prepare: Callable[[], Case]
    goals: Mapping[str, Goal] = field(default_factory=dict)
    """Goals by quantity. cpu, wall, calls, tokens, head_rows and peak_bytes are ratios of plain to own; floor is one of
    own to floor; `Case.counted` defines its own quantities."""


@dataclass(frozen=True)
class Measurement:
    """The ratios of one quantity, one for each round; none where the two sides do not do the same."""

    name: str
    ratios: tuple[Number, ...]
    goal: Goal | None
    counts: Mapping[str, Any]
    difference: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the median reaches the goal; None where there is no goal, or no ratio."""
        if self.goal is None or not self.ratios:
            return None
        median = statistics.median(self.ratios)
        return median >= self.goal.value if self.goal.direction == "at least" else median <= self.goal.value

    def record(self) -> dict[str, Any]:
        """Return what `--json` writes. Ratios are null where the identity check failed or no round was run."""
        has = bool(self.ratios)
        return {
            "name": self.name,
            "ratio_median": statistics.median(self.ratios) if has else None,
            "ratio_min": min(self.ratios) if has else None,
            "ratio_max": max(self.ratios) if has else None,
            "rounds": len(self.ratios),
            "identity": not self.difference,
            "goal": self.goal.value if self.goal else None,
            "goal_is": self.goal.direction if self.goal else None,
            "counts": self.counts,
        }

    def line(self) -> str:
        """Return what the terminal shows."""
        if self.difference:
            return f"{self.name:40s} refused: {self.difference}"
        if not self.ratios:
            return f"{self.name:40s} counted only"
        found = f"{statistics.median(self.ratios):8.2f}  ({min(self.ratios):.2f} to {max(self.ratios):.2f})"
        verdict = {True: "met", False: "MISSED", None: ""}[self.is_met]
        return f"{self.name:40s} {found:28s} {self.goal or ''!s:16}  {verdict}".rstrip()


@torch.no_grad()
def matmul_rate(rows: int = 384, inner: int = 256, columns: int = 768, repeats: int = 100) -> float:
    """Measure the FLOP per second of CPU time of products in the shape of the benchmarks' blocks, here and now."""
    left, right = torch.ones(rows, inner), torch.ones(inner, columns)
    left @ right
    start = time.process_time()
    for _ in range(repeats):
        left @ right
    return 2 * rows * inner * columns * repeats / (time.process_time() - start)


def measure(bench: Bench, rounds: int) -> list[Measurement]:
    """Count both sides once, compare their results, then time them in turn (A B A B).

    Each round gives one ratio of each clock, and one to the floor at the matmul rate of that round. Ratios of counts
    need no rounds. Neither side is timed where the results differ.
    """
    case = bench.prepare()
    results, counts = [], {}
    for name, side in (("plain", case.plain), ("own", case.own)):
        meter = Meter(case.model)
        with meter:
            results.append(side())
        counts[name] = meter.counts
    difference = case.difference(*results)
    extra = {} if difference else dict(case.counted(results[1], counts["own"]))
    if difference:
        return [Measurement(bench.name, (), bench.goals.get("cpu"), counts | extra, difference)]
    ratios: dict[str, Sequence[Number]] = {name: [value] for name, value in extra.items()}
    ratios |= {name: [counts["plain"][name] / value] for name, value in counts["own"].items() if value}
    ratios |= _timed(case, rounds, case.flops(results[1]) if case.flops else None)
    return [
        Measurement(f"{bench.name}/{quantity}", tuple(found), bench.goals.get(quantity), counts | extra)
        for quantity, found in ratios.items()
    ]


def _timed(case: Case, rounds: int, flops: Number | None) -> dict[str, list[float]]:
    """Return the ratios of `rounds` rounds, by clock; those to the floor where `flops` is given."""
    ratios: dict[str, list[float]] = {"cpu": [], "wall": [], "floor": []}
    for _ in range(rounds):
        plain_cpu, plain_wall = seconds(case.plain)
        own_cpu, own_wall = seconds(case.own)
        ratios["cpu"].append(plain_cpu / own_cpu)
        ratios["wall"].append(plain_wall / own_wall)
        if flops is not None:
            ratios["floor"].append(own_cpu * matmul_rate() / flops)
    return {name: found for name, found in ratios.items() if found}


def seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """Return the CPU time of this process's threads and the wall time of a call, in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall
