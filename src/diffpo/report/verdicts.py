"""What one arm is to another, as the headline says it: the rule, as functions of figures and their intervals alone."""

from collections.abc import Mapping
from typing import Literal, get_args

from diffpo.report.data import FrontierPoint
from diffpo.statistics.comparison import FrontierDifference

AS_MANY = 1.05
"""Numbers of calls whose ratio is below this are called equal."""

Verdict = Literal[
    "ahead of",
    "partly ahead of",
    "faster than",
    "level with",
    "mixed against",
    "slower than",
    "partly behind",
    "behind",
]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
PARTLY: Mapping[Verdict, tuple[str, int]] = {"partly ahead of": ("ahead of", 1), "partly behind": ("behind", -1)}
"""How a headline that has room to say within how many calls begins, and the sign of the differences there."""


def frontier_verdict(found: FrontierDifference) -> Verdict:
    """Return what a frontier is to another, by the interval of the difference in area and by those at numbers of calls.

    Larger area and nowhere behind is ahead; area that is not told apart is level, and partly ahead where it solves more
    within some numbers of calls and nowhere less. It is mixed where it solves more within some and less within others,
    or has more area and solves less within some. All of this holds the other way about, too. An interval that touches
    zero tells nothing apart.
    """
    low, high = found.area.ci95
    more = low > 0 or bool(calls_told_apart(found, 1))
    less = high < 0 or bool(calls_told_apart(found, -1))
    if more and less:
        return "mixed against"
    if more:
        return "ahead of" if low > 0 else "partly ahead of"
    if less:
        return "behind" if high < 0 else "partly behind"
    return "level with"


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


def without_beaten_base(verdicts: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """Return the verdicts that are worth telling: a base that is beaten, from which others start, goes without saying.

    Where there is no other arm it is told of.
    """
    return {arm: verdict for arm, verdict in verdicts.items() if (arm, verdict) != ("base", "ahead of")} or dict(
        verdicts
    )


def calls_told_apart(found: FrontierDifference, sign: int) -> list[float]:
    """Return the numbers of calls at which the whole interval is above (1) or below (-1) zero."""
    return [at for at, e in zip(found.at, found.accuracy, strict=True) if min(sign * end for end in e.ci95) > 0]
