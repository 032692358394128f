"""What a run shows, in at most fifteen words, and how each arm compares with the one that the page is about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffpo.report.compared import call_ranges
from diffpo.report.data import Arm, FrontierPoint
from diffpo.report.sentences import representative
from diffpo.report.table import calls_words, percent
from diffpo.report.verdicts import (
    PARTLY,
    VERDICTS,
    Verdict,
    calls_told_apart,
    frontier_verdict,
    point_verdict,
    without_beaten_base,
)
from diffpo.statistics.comparison import FrontierDifference

MOST_WORDS = 15
MOST_OF_A_NAME = 2
"""Words of an arm's name in a headline."""


@dataclass(frozen=True)
class Comparison:
    """The arm that the page is about, the point that stands for it, and what it is to each other arm."""

    main: str
    point: FrontierPoint | None
    verdicts: Mapping[str, Verdict]


def comparison(
    arms: Sequence[Arm], compared: Mapping[str, FrontierDifference], main: str | None = None
) -> Comparison | None:
    """Return how the arms compare: by whole frontiers where these were `compared` with `main`, else by their points.

    Without a `main` arm it is the most accurate of those that are trained. None where nothing was evaluated.
    """
    points = {arm.name: point for arm in arms if (point := representative(arm))}
    if compared and main:
        verdicts = {arm: frontier_verdict(found) for arm, found in compared.items()}
        return Comparison(main, points.get(main), verdicts)
    if not points:
        return None
    trained = [name for name in points if name != "base"] or list(points)
    best = max(trained, key=lambda name: (points[name].accuracy, -points[name].nfe))
    main = main if main in points else best
    point = points[main]
    return Comparison(main, point, {arm: point_verdict(point, p) for arm, p in points.items() if arm != main})


def headline(
    arms: Sequence[Arm], compared: Mapping[str, FrontierDifference] | None = None, main: str | None = None
) -> str:
    """Return what the run shows, in at most `MOST_WORDS` words."""
    found = comparison(arms, compared or {}, main)
    if found is None:
        return "Nothing was evaluated in this run yet."
    name, point = _short(found.main), found.point
    if not found.verdicts and point:
        return f"{name} solves {percent(point.accuracy, 0)} % of {point.n} unseen problems in {calls_words(point.nfe)}."
    start = f"{name} solves {percent(point.accuracy, 0)} % in {calls_words(point.nfe)}:" if point else f"{name} is"
    rivals = without_beaten_base(found.verdicts)
    wordings = _wordings(rivals, compared or {})
    return next(sentence for words in wordings if len((sentence := f"{start} {words}.").split()) <= MOST_WORDS)


def _wordings(verdicts: Mapping[str, Verdict], compared: Mapping[str, FrontierDifference]) -> list[str]:
    """Return ways to tell the verdicts, from the one that tells most to one that is always short enough."""
    groups = {verdict: [_name(arm) for arm, v in verdicts.items() if v == verdict] for verdict in VERDICTS}
    named = ", ".join(f"{verdict} {_listed(names)}" for verdict, names in groups.items() if names)
    counted = ", ".join(f"{verdict} {len(names)}" for verdict, names in groups.items() if names)
    only = [verdict for verdict, names in groups.items() if names]
    ahead = len(groups["ahead of"])
    behind = sum(len(groups[verdict]) for verdict in ("behind", "partly behind", "slower than"))
    return [
        *([_placed(verdicts, compared)] if PARTLY.keys() & only and compared else []),
        named,
        *([f"{only[0]} all {len(verdicts)} others"] if len(only) == 1 and len(verdicts) > 1 else []),
        f"{counted} of {len(verdicts)} others",
        *([f"ahead of {ahead or 'none'}, behind {behind} of {len(verdicts)} others"] if behind else []),
        f"ahead of {ahead or 'none'} of {len(verdicts)} others",
    ]


def _placed(verdicts: Mapping[str, Verdict], compared: Mapping[str, FrontierDifference]) -> str:
    """Return the verdicts, those that hold in part with the numbers of calls within which they do."""
    words = []
    for arm, verdict in sorted(verdicts.items(), key=lambda item: VERDICTS.index(item[1])):
        whole, sign = PARTLY.get(verdict, (verdict, 0))
        within = f" within {call_ranges(calls_told_apart(compared[arm], sign))}" if sign else ""
        words.append(f"{whole} {_name(arm)}{within}")
    return ", ".join(words)


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def _name(arm: str) -> str:
    return "the base" if arm == "base" else _short(arm)


def _short(arm: str) -> str:
    """Return the name of an arm in a few words."""
    words = arm.split() or [arm.strip() or "?"]
    return " ".join(words[:MOST_OF_A_NAME]) + ("\N{HORIZONTAL ELLIPSIS}" if words[MOST_OF_A_NAME:] else "")
