"""One comparison: what both sides count, whether they do the same, and then, in turn, how long they take."""

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
    value: Number
    direction: Direction = "at least"

    def __str__(self) -> str:
        return f"{self.direction} {self.value:g}"


@dataclass(frozen=True)
class Case:
    """Two ways to one result, ready to run as often as is asked for."""

    model: PreTrainedModel
    """Whose tokens and head rows are counted."""
    plain: Callable[[], Any]
    own: Callable[[], Any]
    difference: Callable[[Any, Any], str]
    """Where the second result is not what the first says it must be; empty where it is."""
    flops: Callable[[Any], Number] | None = None
    """Of the own result: multiplications and additions that no way to it can do without. The floor is their time."""
    counted: Callable[[Any, Mapping[str, Number]], Mapping[str, Number]] = lambda _result, _counts: {}
    """More ratios that need no clock, of the own result and its counts."""


@dataclass(frozen=True)
class Bench:
    """A case that is made when its turn comes, and what its ratios ought to reach."""

    name: str
    what: str
    """One line for people."""
    prepare: Callable[[], Case]
    goals: Mapping[str, Goal] = field(default_factory=dict)
    """By quantity. cpu, wall, calls, tokens, head_rows and peak_bytes are plain over own; floor is own over floor; what
    `Case.counted` adds is as it says."""


@dataclass(frozen=True)
class Measurement:
    """Ratios of one quantity, of as many rounds; none where the two sides do not do the same."""

    name: str
    ratios: tuple[Number, ...]
    goal: Goal | None
    counts: Mapping[str, Any]
    difference: str = ""

    @property
    def is_met(self) -> bool | None:
        """None where there is no goal, or nothing to compare with it."""
        if self.goal is None or not self.ratios:
            return None
        median = statistics.median(self.ratios)
        return median >= self.goal.value if self.goal.direction == "at least" else median <= self.goal.value

    def record(self) -> dict[str, Any]:
        """What `--json` writes. Ratios are null where the identity check failed or no round was run."""
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
        if self.difference:
            return f"{self.name:40s} refused: {self.difference}"
        if not self.ratios:
            return f"{self.name:40s} counted only"
        found = f"{statistics.median(self.ratios):8.2f}  ({min(self.ratios):.2f} to {max(self.ratios):.2f})"
        verdict = {True: "met", False: "MISSED", None: ""}[self.is_met]
        return f"{self.name:40s} {found:28s} {self.goal or ''!s:16}  {verdict}".rstrip()


@torch.no_grad()
def matmul_rate(rows: int = 384, inner: int = 256, columns: int = 768, repeats: int = 100) -> float:
    """FLOP per second of CPU time of products in the shape of the benchmarks' body, on this machine, now."""
    left, right = torch.ones(rows, inner), torch.ones(inner, columns)
    left @ right
    start = time.process_time()
    for _ in range(repeats):
        left @ right
    return 2 * rows * inner * columns * repeats / (time.process_time() - start)


def measure(bench: Bench, rounds: int) -> list[Measurement]:
    """Count both sides once, compare their results, then time them in turn (A B A B).

    Each round gives one ratio of each clock, and of the floor at the matmul rate of that round. Ratios of counts need
    no rounds. No side is timed where the results differ.
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
    """CPU time of this process's threads, and wall time."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall
