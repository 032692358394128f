"""The headline: at most fifteen words, and true of every outcome; area and AUP agree with it, or it is said why not."""

from collections.abc import Mapping, Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpo.report.agreement import agreement
from diffpo.report.data import Arm, FrontierPoint, LearnedSampler
from diffpo.report.headline import comparison, headline
from diffpo.report.sentences import figures
from diffpo.report.verdicts import PARTLY, VERDICTS, Verdict, frontier_verdict, point_verdict
from diffpo.statistics.comparison import FrontierDifference
from diffpo.statistics.intervals import Estimate, Interval


def point(accuracy: float, nfe: float, half: float = 0.03) -> FrontierPoint:
    return FrontierPoint("entropy bound 1", "entropy-bound", accuracy, (accuracy - half, accuracy + half), nfe, 600)


def estimate(value: float | None, half: float) -> Estimate | None:
    return Estimate(value, (value - half, value + half)) if value else None


def arm(name: str, accuracy: float, nfe: float, area: float | None = None, aup: float | None = None) -> Arm:
    return Arm(name, (point(accuracy, nfe),), area=estimate(area, 0.03), aup=estimate(aup, 9.0))


def difference(area: Interval, *accuracy: Interval) -> FrontierDifference:
    rows = tuple(Estimate(sum(ends) / 2, ends) for ends in accuracy)
    return FrontierDifference(tuple(map(float, range(1, len(rows) + 1))), rows, Estimate(sum(area) / 2, area))


MORE, LEVEL, LESS = (0.01, 0.05), (-0.02, 0.02), (-0.05, -0.01)
FROM_0, TO_0 = (0.0, 0.05), (-0.05, 0.0)
BY_AREA: Sequence[tuple[FrontierDifference, Verdict]] = [
    (difference(MORE, LEVEL, MORE), "ahead of"),
    (difference(MORE, LESS, MORE), "mixed against"),
    (difference(MORE, LESS, LEVEL), "mixed against"),
    (difference(LEVEL, LEVEL, LEVEL), "level with"),
    (difference(FROM_0, FROM_0, TO_0), "level with"),
    (difference(TO_0, FROM_0, TO_0), "level with"),
    (difference(LEVEL, LEVEL, MORE), "partly ahead of"),
    (difference(FROM_0, MORE, TO_0), "partly ahead of"),
    (difference(LEVEL, LESS, LEVEL), "partly behind"),
    (difference(TO_0, LESS, FROM_0), "partly behind"),
    (difference(MORE, FROM_0, TO_0), "ahead of"),
    (difference(LESS, FROM_0, TO_0), "behind"),
    (difference(LEVEL, LESS, MORE), "mixed against"),
    (difference(LESS, LEVEL, LESS), "behind"),
    (difference(LESS, MORE, LESS), "mixed against"),
]
BY_POINTS: Sequence[tuple[float, float, Verdict]] = [
    (0.5, 4.0, "ahead of"),
    (0.5, 8.0, "ahead of"),
    (0.5, 2.0, "mixed against"),
    (0.7, 8.0, "faster than"),
    (0.7, 4.1, "level with"),
    (0.72, 4.0, "level with"),
    (0.68, 4.0, "level with"),
    (0.7, 2.0, "slower than"),
    (0.9, 8.0, "mixed against"),
    (0.9, 4.0, "behind"),
    (0.9, 2.0, "behind"),
    (0.641, 4.0, "level with"),
    (0.639, 4.0, "ahead of"),
    (0.759, 4.0, "level with"),
    (0.761, 4.0, "behind"),
    (0.7, 4.19, "level with"),
    (0.7, 4.21, "faster than"),
    (0.7, 3.82, "level with"),
    (0.7, 3.8, "slower than"),
]


@pytest.mark.parametrize(("found", "verdict"), BY_AREA)
def test_frontiers_are_told_apart_by_the_interval_of_the_area(found: FrontierDifference, verdict: Verdict) -> None:
    assert frontier_verdict(found) == verdict
    main = Arm("any-speed", (point(0.97, 4.4),))
    words = f"{verdict} d1"
    if verdict in PARTLY:
        at = 1 + [ends.ci95 in (MORE, LESS) for ends in found.accuracy].index(True)
        words = f"{PARTLY[verdict][0]} d1 within {at} call{'s' if at > 1 else ''}"
    assert headline([main], {"d1": found}, "any-speed") == f"any-speed solves 97 % in 4.4 calls: {words}."
    assert headline([], {"d1": found}, "any-speed") == f"any-speed is {words}."


@pytest.mark.parametrize(("accuracy", "nfe", "verdict"), BY_POINTS)
def test_points_are_told_apart_by_their_intervals_and_calls(accuracy: float, nfe: float, verdict: Verdict) -> None:
    assert point_verdict(point(0.7, 4.0), point(accuracy, nfe)) == verdict
    found = headline([arm("d1", accuracy, nfe), arm("DiFFPO", 0.7, 4.0)], main="DiFFPO")
    assert found == f"DiFFPO solves 70 % in 4.0 calls: {verdict} d1."


def test_every_verdict_can_come_out_and_the_opposite_of_one_is_its_mirror() -> None:
    assert {verdict for *_, verdict in (*BY_POINTS, *BY_AREA)} == set(VERDICTS)
    mirrored = {"ahead of": "behind", "faster than": "slower than", "behind": "ahead of", "slower than": "faster than"}
    for accuracy, nfe, verdict in BY_POINTS:
        assert point_verdict(point(accuracy, nfe), point(0.7, 4.0)) == mirrored.get(verdict, verdict)


def test_without_a_comparison_it_is_what_was_measured() -> None:
    assert headline([arm("mine", 0.7, 3.2)]) == "mine solves 70 % of 600 unseen problems in 3.2 calls."
    assert headline([arm("base", 0.7, 3.2)]) == "base solves 70 % of 600 unseen problems in 3.2 calls."
    assert headline([]) == headline([Arm("d1")]) == "Nothing was evaluated in this run yet."


def test_the_base_is_a_rival_only_where_there_is_no_other() -> None:
    base, d1, ours = arm("base", 0.9, 1.0), arm("d1", 0.4, 4.0), arm("DiFFPO", 0.7, 4.0)
    assert headline([base, ours]) == "DiFFPO solves 70 % in 4.0 calls: behind the base."
    assert headline([base, d1, ours]) == "DiFFPO solves 70 % in 4.0 calls: ahead of d1, behind the base.", (
        "a loss is told"
    )
    base = arm("base", 0.2, 4.0)
    assert headline([base, d1, ours]) == "DiFFPO solves 70 % in 4.0 calls: ahead of d1."
    assert headline([base, ours]) == "DiFFPO solves 70 % in 4.0 calls: ahead of the base."


def test_of_unknown_arms_the_most_accurate_is_told_of() -> None:
    found = headline([arm("a", 0.4, 2.0), arm("b", 0.7, 4.0), arm("base", 0.2, 4.0), arm("c", 0.7, 6.0)])
    assert found == "b solves 70 % in 4.0 calls: faster than c, mixed against a."


NAMES = st.text(st.sampled_from("ab -\t"), min_size=1, max_size=30)


@given(st.dictionaries(NAMES, st.sampled_from([found for found, _ in BY_AREA]), min_size=1, max_size=9), st.booleans())
def test_no_outcome_takes_more_than_fifteen_words(compared: Mapping[str, FrontierDifference], is_known: bool) -> None:
    main = [Arm("any-speed", (point(0.97, 4.4),))] if is_known else []
    assert len(headline(main, compared, "any-speed").split()) <= 15


@given(st.lists(st.tuples(NAMES, st.sampled_from(BY_POINTS)), min_size=1, max_size=9, unique_by=lambda pair: pair[0]))
def test_no_folder_of_runs_takes_more_than_fifteen_words(found: list[tuple[str, tuple[float, float, Verdict]]]) -> None:
    arms = [arm(name, accuracy, nfe) for name, (accuracy, nfe, _) in found]
    assert 0 < len(headline(arms).split()) <= 15


def test_of_many_arms_it_counts() -> None:
    def told(**verdicts: Interval) -> str:
        return headline([], {f"arm {name}": difference(ends, ends) for name, ends in verdicts.items()}, "any-speed")

    assert told(a=MORE, b=MORE, c=LEVEL) == "any-speed is ahead of arm a and arm b, level with arm c."
    assert told(**dict.fromkeys("abcdef", MORE)) == "any-speed is ahead of all 6 others."
    assert told(a=MORE, b=MORE, c=LEVEL, d=LESS) == "any-speed is ahead of 2, level with 1, behind 1 of 4 others."
    main = [Arm("any-speed", (point(0.97, 4.4),))]
    many = {f"arm {i}": difference(ends, ends) for i, ends in enumerate((MORE, MORE, LEVEL, LESS))}
    assert headline(main, many, "any-speed") == "any-speed solves 97 % in 4.4 calls: ahead of 2, behind 1 of 4 others."
    assert told(a=MORE, b=LEVEL) == "any-speed is ahead of arm a, level with arm b."


def test_where_an_arm_is_partly_ahead_is_told_as_far_as_there_is_room() -> None:
    part = difference(LEVEL, MORE, LEVEL)
    assert (
        headline([], {"d1": difference(MORE, MORE), "x": part}, "mine")
        == "mine is ahead of d1, ahead of x within 1 call."
    )
    main = [Arm("mine", (point(0.7, 4.0),))]
    assert headline(main, {"base": part}, "mine") == "mine solves 70 % in 4.0 calls: ahead of the base within 1 call."
    found = headline(main, {"d1": part, "x": part, "y": difference(LESS, LESS)}, "mine")
    assert found == "mine solves 70 % in 4.0 calls: partly ahead of d1 and x, behind y."


def agreed(*arms: Arm, compared: Mapping[str, FrontierDifference] | None = None) -> str | None:
    return agreement(arms, comparison(arms, compared or {}, arms[-1].name if compared else "DiFFPO"))


def test_area_and_aup_agree_or_it_is_said_why_not() -> None:
    ours = arm("DiFFPO", 0.7, 4.0, area=0.6, aup=200.0)
    assert agreed(arm("d1", 0.4, 4.0, 0.5, 180.0), ours) == "Area and AUP agree with the headline."
    assert agreed(arm("d1", 0.4, 4.0, 0.59, 195.0), ours) == "Area and AUP agree with the headline.", "not told apart"
    found = str(agreed(arm("base", 0.5, 4.0, 0.5, 100.0), arm("d1", 0.4, 4.0, 0.5, 300.0), ours))
    assert found.startswith("Area agrees with the headline. AUP compares DiFFPO (200) with d1 (300) otherwise than the")
    assert "tokens per call" in found and "Base" not in found
    both = str(agreed(arm("d1", 0.4, 4.0, 0.9, 300.0), ours))
    assert both.startswith("Area compares DiFFPO (0.6) with d1 (0.9) otherwise") and "agree" not in both
    assert agreed(arm("d1", 0.4, 4.0), ours) is None and agreed() is None


@pytest.mark.parametrize(("accuracy", "other"), [*product((0.4, 0.7, 0.9), (100.0, 200.0, 300.0))])
def test_aup_is_against_each_verdict_that_it_does_not_share(accuracy: float, other: float) -> None:
    found = agreed(arm("d1", accuracy, 4.0, aup=other), arm("DiFFPO", 0.7, 4.0, aup=200.0))
    direction = {0.4: 1, 0.7: 0, 0.9: -1}[accuracy]
    sign = {100: 1, 200: 0, 300: -1}[int(other)]
    assert (found == "AUP agrees with the headline.") == (sign in (0, direction))


def test_a_lead_at_some_numbers_of_calls_is_contradicted_by_a_loss_alone() -> None:
    ours = arm("mine", 0.7, 4.0, aup=200.0)
    for other, is_against in ((100.0, False), (200.0, False), (300.0, True)):
        found = str(agreed(arm("d1", 0.7, 4.0, aup=other), ours, compared={"d1": difference(LEVEL, MORE)}))
        assert found.startswith("AUP compares") == is_against, found


def test_a_mixed_verdict_is_contradicted_by_nothing() -> None:
    ours = Arm("DiFFPO", (point(0.7, 4.0),), LearnedSampler(point(0.7, 4.0)), aup=estimate(200.0, 9.0))
    assert agreed(arm("d1", 0.9, 8.0, aup=100.0), ours) is None


@pytest.mark.parametrize(
    ("nfe", "words"),
    [(1.0, "1 call"), (1.04, "1.04 calls"), (1.004, "1.00 calls"), (1.06, "1.1 calls"), (8.0, "8.0 calls")],
)
def test_calls_are_not_rounded_to_one_unless_they_are(nfe: float, words: str) -> None:
    arm = Arm("mine", (FrontierPoint("r", "r", 0.5, (0.4, 0.6), nfe, 600),))
    assert headline([arm]) == f"mine solves 50 % of 600 unseen problems in {words}."
    assert [f"{figure.nfe} {words.split()[1]}" for figure in figures([arm])] == [words]
