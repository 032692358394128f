"""Arms at equal calls, steps and CPU time, by hand."""

from typing import Any

import numpy as np
import pytest

from diffpo.study.equal import Spent, arm_at, at_equal, place_of
from diffpo.study.report import equal_sections
from diffpo.study.tables import equal_tables

RULES = ("entropy bound 0", "entropy bound 1", "temperature 1")


def point(step: int, calls: int, solved: dict[str, list[int]], nfe: dict[str, float]) -> dict[str, Any]:
    rules = [
        {"rule": rule, "accuracy": np.mean(right), "nfe": nfe[rule], "solved": right, "nfe_rows": [nfe[rule]] * 4}
        for rule, right in solved.items()
    ]
    return {"step": step, "calls": calls, "rules": rules}


def result(arm: str, seed: int, steps: int, cpu: list[float], last: list[int]) -> dict[str, Any]:
    """A run of two points after its base: it learns to solve what `last` says, at bound 1 in two calls and later."""
    nothing = [0, 0, 0, 0]
    slow = dict.fromkeys(RULES, 8.0)
    fast = slow | {"entropy bound 1": 2.0}
    points = [
        point(0, 0, dict(zip(RULES, [nothing, nothing, nothing], strict=True)), slow),
        point(steps // 2, 500, dict(zip(RULES, [last, nothing, last], strict=True)), fast),
        point(steps, 1000, dict(zip(RULES, [last, last, last], strict=True)), fast),
    ]
    line = {"study": "s", "kind": "arms", "task": "t", "arm": arm, "seed": seed, "settings": {"base": {}}}
    return line | {"completion_length": 8, "clusters": list("abcd"), "points": points, "cpu_seconds": cpu}


COSTS: tuple[Spent, ...] = ("calls", "steps", "cpu_seconds")
SLOW = result("slow", 0, 40, [0.0, 20.0, 40.0], [1, 1, 1, 1])
QUICK = result("quick", 0, 200, [0.0, 5.0, 10.0], [1, 1, 0, 0])


def test_a_place_lies_between_two_points() -> None:
    spent = np.array([0.0, 4.0, 8.0])
    assert [place_of(spent, amount) for amount in (0.0, 1.0, 4.0, 7.0, 8.0)] == [
        (0, 0.0), (0, 0.25), (1, 0.0), (1, 0.75), (1, 1.0)
    ]  # fmt: skip


def test_arms_are_compared_from_where_the_first_ends_to_where_the_last_does() -> None:
    found = {name: {(one.arm, round(one.amount)): one for one in at_equal([SLOW, QUICK], name)} for name in COSTS}
    assert list(found["calls"]) == [("slow", 1000), ("quick", 1000)]
    # 40 and 200 steps, and two between in equal ratios; slow has not got further than 40.
    assert list(found["steps"]) == [("slow", 40), ("quick", 40), ("quick", 68), ("quick", 117), ("quick", 200)]
    assert list(found["cpu_seconds"]) == [("slow", 10), ("quick", 10), ("slow", 16), ("slow", 25), ("slow", 40)]
    # After 40 of its 200 steps quick is at two fifths of the way to its first point, where it solves half.
    assert {rule: one.value for rule, one in found["steps"]["quick", 40].accuracy.items()} == pytest.approx(
        {"entropy bound 0": 0.2, "entropy bound 1": 0.0, "temperature 1": 0.2}
    )
    # After 10 of its 40 seconds slow is half way to its first point, where it solves all at bound 0.
    early = found["cpu_seconds"]["slow", 10].accuracy["entropy bound 0"]
    assert early.value == pytest.approx(0.5)
    assert early.ci95[0] < 0.1 and early.ci95[1] > 0.9, "four problems tell little, also where they are all alike"


def test_the_area_is_that_of_the_greedy_frontier() -> None:
    slow, quick = at_equal([SLOW, QUICK], "calls")
    # All in two calls of eight: two thirds of the way from 1 to 8 in logarithms. Temperature 1 does not count.
    assert slow.area.value == pytest.approx(2 / 3)
    assert quick.area.value == pytest.approx(1 / 3)
    assert quick.area.ci95[0] < 1 / 3 < quick.area.ci95[1]


def test_seeds_are_averaged() -> None:
    other = result("quick", 1, 100, [0.0, 5.0, 10.0], [1, 1, 1, 1])
    both = arm_at([QUICK, other], "calls", 1000.0)
    assert both.seeds == (0, 1) and both.accuracy["entropy bound 1"].value == pytest.approx(0.75)
    # At 50 steps QUICK is half way to its first point, the other is there.
    assert arm_at([QUICK, other], "steps", 50.0).accuracy["entropy bound 0"].value == pytest.approx((0.25 + 1) / 2)


def test_tables_are_there_where_all_results_have_cpu_times() -> None:
    tables = [table.section for table in equal_tables([SLOW, QUICK])]
    titles = [table.splitlines()[0] for table in tables]
    assert titles == [f"## t: area at equal {what}" for what in ("denoiser calls", "steps", "CPU seconds")]
    assert "| slow | 0.667 [0.131, 0.964] |" in tables[0], "four problems"
    assert "| arm | 40 steps | 68 steps | 117 steps | 200 steps |" in tables[1]
    assert "| slow | 0.667 [0.131, 0.964] | - | - | - |" in tables[1]
    old = {name: value for name, value in SLOW.items() if name != "cpu_seconds"}
    assert equal_sections([old, QUICK]) == []
