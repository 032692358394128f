"""Sentences about whole frontiers claim what the intervals show, losses too."""

import json
from pathlib import Path

import pytest

from diffpo.core.errors import UserError
from diffpo.report.compared import area_sentence, frontier_sentences
from diffpo.report.differences import differences_of
from diffpo.report.sources import read_run
from diffpo.statistics.comparison import FrontierDifference
from diffpo.statistics.intervals import Estimate


def estimate(value: float, half: float = 0.02) -> Estimate:
    return Estimate(value, (value - half, value + half))


def difference(area: float, *accuracy: float) -> FrontierDifference:
    return FrontierDifference(
        tuple(float(at) for at in range(1, len(accuracy) + 1)), tuple(map(estimate, accuracy)), estimate(area)
    )


D1 = difference(0.05, -0.12, -0.09, 0.01, 0.08, 0.2, 0.0, 0.1)
DIFFPO = difference(0.01, 0.03, 0.0, -0.01)


def test_the_areas_and_where_another_is_ahead_are_told() -> None:
    assert area_sentence("any-speed", {"base": difference(0.3, 0.1), "d1": D1, "DiFFPO": DIFFPO}) == (
        "Over all numbers of calls, the area under the frontier of any-speed is larger than that of d1 "
        "(+0.050 [+0.030, +0.070]) and not told apart from that of DiFFPO (+0.010 [-0.010, +0.030]); "
        "any-speed solves more than d1 within 4 to 5 and 7 calls, by most within 5: +20.0 points [+18.0, +22.0]; "
        "d1 solves more within 1 to 2 calls, by most within 1: -12.0 points [-14.0, -10.0]; "
        "any-speed solves more than DiFFPO within 1 call, by +3.0 points [+1.0, +5.0]."
    )
    assert area_sentence("any-speed", {"DiFFPO": difference(0.05, 0.03)}).endswith(
        "; at no number of calls is another ahead, as far as intervals tell."
    )
    assert "the base (-0.050" in area_sentence("any-speed", {"base": difference(-0.05, 0.0), "d1": D1})


def test_of_many_arms_those_that_are_not_simply_beaten_are_told_of() -> None:
    many = {f"a{i}": difference(0.3, 0.1) for i in range(4)} | {"d1": D1}
    found = area_sentence("mine", many, 2)
    assert "d1 solves more within 1 to 2 calls" in found and "that of a0" in found and "a1" not in found
    assert found.endswith(" 3 more are under the differences, with intervals.")
    assert area_sentence("mine", many, 4).endswith(" 1 more is under the differences, with intervals.")
    assert "more is" not in area_sentence("mine", many, 5)


def test_a_smaller_area_is_called_so() -> None:
    assert area_sentence("mine", {"d1": difference(-0.05, -0.1, 0.0)}).endswith(
        "than that of d1 (-0.050 [-0.070, -0.030]); d1 solves more within 1 call, by -10.0 points [-12.0, -8.0]."
    )


def test_where_which_is_ahead_is_said_by_intervals_alone() -> None:
    base, d1, over = frontier_sentences("mine", {"base": difference(0.3, 0.0), "d1": D1}, 3)
    assert base.endswith("has an area larger than that of the base (+0.300 [+0.280, +0.320]).")
    assert over == "Intervals are over problems and training seeds."
    assert frontier_sentences("mine", {"d1": D1}, 1)[-1].endswith("not over training seeds: there is one.")
    assert frontier_sentences("mine", {}, 1) == []
    assert "it is ahead within 4 to 5 and 7 calls, by most within 5: +20.0 points [+18.0, +22.0]" in d1
    assert "it is behind within 1 to 2 calls, by most within 1: -12.0 points [-14.0, -10.0]" in d1


def test_a_summary_is_read(tmp_path: Path) -> None:
    summary = {
        "compared": {
            "d1": {
                "area": {"value": 0.1, "ci95": [0.0, 0.2]},
                "accuracy": [{"nfe": 1.0, "value": -0.1, "ci95": [-0.2, 0.0]}],
            }
        }
    }
    expected = FrontierDifference((1.0,), (Estimate(-0.1, (-0.2, 0.0)),), Estimate(0.1, (0.0, 0.2)))
    assert differences_of(summary) == {"d1": expected}
    assert differences_of({}) == {}
    (tmp_path / "summary.json").write_text(json.dumps({"arms": {"d1": {}}, "compared": {"d1": {"area": 3}}}))
    with pytest.raises(UserError, match=r"summary\.json: the field 'compared\.d1\.accuracy' is missing"):
        read_run(tmp_path)
