"""Do the figures for whole frontiers, area and AUP, say what the headline says? A sentence that says so, or why not."""

from collections.abc import Mapping, Sequence

from diffpo.report.data import Arm
from diffpo.report.headline import Comparison
from diffpo.report.table import percent
from diffpo.report.verdicts import Verdict
from diffpo.statistics.intervals import Estimate

DIRECTION: Mapping[Verdict, int] = {
    **dict.fromkeys(("ahead of", "partly ahead of", "faster than"), 1),
    **dict.fromkeys(("behind", "partly behind", "slower than"), -1),
    "level with": 0,
}
"""Which of two arms should have more of a figure, 1 for the main one; a mixed verdict is contradicted by nothing."""
WHY = {
    "Area": "it is a mean over all numbers of calls, from one to one per token, each doubling counting alike",
    "AUP": (
        "it pays for tokens per call, leaves out rules more than 5 points below the slowest, weighs low accuracies "
        "down, and is of fixed rules alone"
    ),
}


def agreement(arms: Sequence[Arm], found: Comparison | None) -> str | None:
    """Return whether area and AUP contradict the headline, and why; None where there is nothing to compare.

    A figure contradicts a verdict where it tells the two arms apart, by intervals that do not meet, and the other way.
    """
    figures = {arm.name: {"Area": _area(arm), "AUP": arm.aup} for arm in arms}
    if found is None or found.main not in figures:
        return None
    agreeing, contradictions = [], []
    for name, why in WHY.items():
        ours = figures[found.main][name]
        pairs = [
            (arm, verdict, theirs)
            for arm, verdict in found.verdicts.items()
            if ours and verdict in DIRECTION and (theirs := figures.get(arm, {}).get(name))
        ]
        against = [
            f"{arm} ({_shown(theirs)})"
            for arm, verdict, theirs in pairs
            if ours and _is_against(DIRECTION[verdict], ours, theirs)
        ]
        if against and ours:
            contradictions.append(
                f"{name} compares {found.main} ({_shown(ours)}) with {' and '.join(against)} otherwise than "
                f"the headline does: {why}."
            )
        elif pairs:
            agreeing.append(name)
    agree = "Area and AUP" if len(agreeing) == 2 else "".join(agreeing)
    verb = "agree" if len(agreeing) == 2 else "agrees"
    return " ".join([f"{agree} {verb} with the headline."] * bool(agreeing) + contradictions) or None


def aup_sentence(arms: Sequence[Arm]) -> str | None:
    """Return what the arms' AUP are relative to, for the same record has another AUP beside other arms."""
    scales = {arm.name: arm.aup_best for arm in arms if arm.aup}
    if not scales:
        return None
    if not (here := [best for best in scales.values() if best is not None]):
        return "AUP is as the records have it, relative to the best accuracy among the arms that each was written with."
    as_recorded = [name for name, best in scales.items() if best is None]
    others = f"; that of {', '.join(as_recorded)} is as recorded, on a scale of its own" if as_recorded else ""
    return (
        "AUP is relative: its weights fall with the distance from the best accuracy of fixed rules among the arms on "
        f"this page, {percent(max(here))} %, so that the same record has another AUP beside other arms{others}."
    )


def _area(arm: Arm) -> Estimate | None:
    return arm.price_curve.area if arm.price_curve else arm.area


def _is_against(direction: int, ours: Estimate, theirs: Estimate) -> bool:
    sign = 1 if ours.ci95[0] > theirs.ci95[1] else -1 if ours.ci95[1] < theirs.ci95[0] else 0
    return sign != 0 and sign != direction


def _shown(found: Estimate) -> str:
    return f"{found.value:.3g}"
