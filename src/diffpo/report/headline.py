"""What a run shows, in at most fifteen words, and how each arm compares with the one that the page is about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from diffpo.report.compared import calls_told_apart
from diffpo.report.data import Arm, FrontierPoint
from diffpo.report.sentences import representative
from diffpo.report.table import percent
from diffpo.statistics.comparison import FrontierDifference

MOST_WORDS = 15
MOST_OF_A_NAME = 2
"""Words of an arm's name in a headline."""
AS_MANY = 1.05
"""Numbers of calls whose ratio is below this are called equal."""

Verdict = Literal["ahead of", "faster than", "level with", "mixed against", "slower than", "behind"]
VERDICTS: tuple[Verdict, ...] = ("ahead of", "faster than", "level with", "mixed against", "slower than", "behind")


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


def frontier_verdict(found: FrontierDifference) -> Verdict:
    """Return what a frontier is to another, by the interval of the difference in area.

    It is mixed where the other solves more within some numbers of calls although it has less area, or the reverse, and
    where the areas are not told apart but each solves more within some.
    """
    low, high = found.area.ci95
    more, less = (bool(calls_told_apart(found, sign)) for sign in (1, -1))
    if (low > 0 and less) or (high < 0 and more) or (more and less):
        return "mixed against"
    return "ahead of" if low > 0 else "behind" if high < 0 else "level with"


def point_verdict(point: FrontierPoint, other: FrontierPoint) -> Verdict:
    """Return what a point is to another one: accuracies are told apart where their intervals do not meet.

    It is ahead with more accuracy in no more calls, faster with as much in fewer, and mixed where it is better in one
    of the two and worse in the other.
    """
    ratio = point.nfe / other.nfe
    calls = 1 if ratio * AS_MANY < 1 else -1 if ratio > AS_MANY else 0  # 1 is better
    accuracy = 1 if point.ci95[0] > other.ci95[1] else -1 if point.ci95[1] < other.ci95[0] else 0
    if accuracy * calls < 0:
        return "mixed against"
    if accuracy:
        return "ahead of" if accuracy > 0 else "behind"
    return "level with" if not calls else "faster than" if calls > 0 else "slower than"


def headline(
    arms: Sequence[Arm], compared: Mapping[str, FrontierDifference] | None = None, main: str | None = None
) -> str:
    """Return what the run shows, in at most `MOST_WORDS` words."""
    found = comparison(arms, compared or {}, main)
    if found is None:
        return "Nothing was evaluated in this run yet."
    name, point = _short(found.main), found.point
    if not found.verdicts and point:
        return f"{name} solves {percent(point.accuracy, 0)} % of {point.n} unseen problems in {point.nfe:.1f} calls."
    start = f"{name} solves {percent(point.accuracy, 0)} % in {point.nfe:.1f} calls:" if point else f"{name} is"
    rivals = {arm: verdict for arm, verdict in found.verdicts.items() if arm != "base"} or found.verdicts
    return next(sentence for words in _wordings(rivals) if len((sentence := f"{start} {words}.").split()) <= MOST_WORDS)


def _wordings(verdicts: Mapping[str, Verdict]) -> list[str]:
    """Return ways to tell the verdicts, from the one that names every arm to one that is always short enough."""
    groups = {verdict: [_name(arm) for arm, v in verdicts.items() if v == verdict] for verdict in VERDICTS}
    named = ", ".join(f"{verdict} {_listed(names)}" for verdict, names in groups.items() if names)
    counted = ", ".join(f"{verdict} {len(names)}" for verdict, names in groups.items() if names)
    only = [verdict for verdict, names in groups.items() if names]
    ahead = len(groups["ahead of"])
    return [
        named,
        *([f"{only[0]} all {len(verdicts)} others"] if len(only) == 1 and len(verdicts) > 1 else []),
        f"{counted} of {len(verdicts)} others",
        f"ahead of {ahead or 'none'} of {len(verdicts)} others",
    ]


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def _name(arm: str) -> str:
    return "the base" if arm == "base" else _short(arm)


def _short(arm: str) -> str:
    """Return the name of an arm in a few words."""
    words = arm.split() or [arm.strip() or "?"]
    return " ".join(words[:MOST_OF_A_NAME]) + ("\N{HORIZONTAL ELLIPSIS}" if words[MOST_OF_A_NAME:] else "")
