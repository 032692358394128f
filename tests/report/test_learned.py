"""What a report says of the learned sampler follows from both comparisons, and claims no more than they show."""

from dataclasses import replace
from typing import Any

import pytest

from diffpo.report.data import Arm, FrontierPoint, LearnedSampler, ReportedRun, ValidatedGain
from diffpo.report.learned import gain_sentences
from diffpo.report.page import render
from diffpo.report.prompt_view import prompt_view
from diffpo.report.sentences import basis, figures, frontier_sentence, representative
from diffpo.report.table import table_rows
from diffpo.statistics.constant import ConstantGain
from diffpo.statistics.gain import Gain
from diffpo.statistics.intervals import Interval

UP, DOWN, AROUND = (0.01, 0.05), (-0.05, -0.01), (-0.02, 0.03)


def point(rule: str, accuracy: float, nfe: float) -> FrontierPoint:
    return FrontierPoint(rule, "entropy-bound", accuracy, (accuracy - 0.03, accuracy + 0.03), nfe, 600)


def arm(mixture: Interval, constant: Interval | None, name: str = "DiFFPO", **more: Any) -> Arm:
    """An arm whose learned sampler has these intervals against the best mixture and the validated constant."""
    learned = LearnedSampler(point("learned", 0.9, 2.0))
    gain = Gain(sum(mixture) / 2, mixture, 0.2, (-0.1, 0.5))
    validated = ConstantGain(sum(constant) / 2, constant, -0.1, (-0.2, 0.0)) if constant else None
    return Arm(
        name,
        (point("entropy bound 0", 0.95, 16.0), point("entropy bound 0.07", 0.92, 2.0)),
        learned,
        gain=gain,
        validated_gain=ValidatedGain("entropy bound 0.07", validated) if validated else None,
        **more,
    )


@pytest.mark.parametrize(("mixture", "constant"), [(UP, UP), (UP, AROUND), (AROUND, UP), (UP, DOWN), (UP, None)])
def test_no_more_is_claimed_than_both_comparisons_show(mixture: Interval, constant: Interval | None) -> None:
    is_ahead = (mixture, constant) == (UP, UP)
    assert (
        "Its learned sampler is ahead of fixed bounds." in str(basis([arm(mixture, constant)], {}, "DiFFPO"))
    ) == is_ahead


def test_both_comparisons_are_told_with_their_intervals() -> None:
    mixture, constant, last = gain_sentences(arm(AROUND, DOWN))
    assert "best mixture of the 2 fixed rules" in mixture and "is worth 0.5 points [-2.0, 3.0] of" in mixture
    assert "saves 0.20 [-0.10, 0.50] calls per problem at equal accuracy" in mixture
    assert (
        "entropy bound 0.07, chosen on validation problems" in constant and "costs 3.0 points [1.0, 5.0]," in constant
    )
    assert "costs 0.10 [0.00, 0.20] more calls at the same time" in constant
    assert last == "So it is behind fixed bounds."
    *_, last = gain_sentences(arm(UP, None))
    assert last.startswith("So it is not shown to be better than fixed bounds, since none was chosen")
    assert gain_sentences(Arm("d1", (point("entropy bound 0", 0.5, 16.0),))) == []


def test_an_arm_without_a_learned_sampler_is_represented_by_its_validated_constant() -> None:
    points = (point("entropy bound 0", 0.75, 16.0), point("entropy bound 0.1", 0.72, 1.5), point("x", 0.5, 1.0))
    assert representative(Arm("d1", points)) == points[0]
    chosen = Arm("d1", points, best_constants={0.0: "x", 0.1: "entropy bound 0.1"})
    assert representative(chosen) == points[1]
    assert [figure.rule for figure in figures([chosen])] == ["entropy bound 0.1"]
    assert representative(Arm("d1", points, best_constants={0.1: "not there"})) == points[0]


def test_each_arm_with_a_learned_sampler_has_its_view_and_no_other() -> None:
    bounds = (0.1, 0.2, 0.3, 0.4)
    solved, calls = (0.0, 0.0, 1.0, 1.0), (4.0, 4.0, 2.0, 2.0)
    sampler = LearnedSampler(replace(point("learned", 0.5, 3.0), n=4, solved=solved, nfe_rows=calls), bounds)
    puzzles, texts = Arm("grid", learned=sampler, clues=(5, 5, 9, 9)), Arm("text", learned=sampler)
    found = prompt_view(puzzles)
    assert found is not None and len(found.charts) == 3 and [row.clues for row in found.rows] == [5, 9]
    assert str(found.sentence).startswith(
        "Puzzles with more clues are easier. The bound of grid is 0.15 on average at 5"
    )
    of_text = prompt_view(texts)
    assert of_text is not None and not of_text.charts and not of_text.rows
    assert "Over 4 prompts the bound of text goes from 0.1 to 0.4, for the middle half of them from" in str(
        of_text.sentence
    )
    assert "clue" not in str(of_text.sentence) and "uzzle" not in str(of_text.sentence)
    plain = Arm("d1", (point("entropy bound 0", 0.5, 16.0),))
    assert prompt_view(plain) is None and prompt_view(Arm("x", learned=LearnedSampler(sampler.point))) is None
    both, none = (render(ReportedRun("r", arms)) for arms in ((puzzles, texts, plain), (plain,)))
    assert "What the learned samplers see in the prompt" in both and "The same as a table: grid" in both
    for word in ("in the prompt", "clues", "puzzle", "eval/", "The star is"):
        assert word not in none.partition("<body>")[2].partition("<script>")[0], word


def test_where_d1_is_above_is_said() -> None:
    ours = arm(UP, UP)
    theirs = Arm("d1", (point("a", 0.70, 16.0), point("b", 0.80, 1.36), point("c", 0.6, 1.1)))
    found = frontier_sentence([theirs, ours])
    assert found is not None and "80.0 % against 0.0 % within 1.36" in found, "DiFFPO has no rule so quick"
    quick = arm(UP, UP)
    quick = Arm("DiFFPO", (*quick.points, point("entropy bound 3", 0.795, 1.0)), quick.learned)
    assert frontier_sentence([theirs, quick]) is None, "half a point is not mentioned"
    assert frontier_sentence([ours]) is None


def test_a_table_of_many_rules_lists_those_that_no_other_beats() -> None:
    few = tuple(point(f"entropy bound {i}", 0.5 + 0.01 * i, 2.0 + i) for i in range(7))
    beaten = point("beaten", 0.5, 9.0)
    rules = [row.cells[1] for row in table_rows([Arm("d1", (*few, beaten))])]
    assert rules == [*(p.rule for p in few), "beaten"], "eight are few"
    rules = [row.cells[1] for row in table_rows([Arm("d1", (beaten, *few, point("too", 0.49, 9.5)))])]
    assert rules == [p.rule for p in few]
