"""Is the learned sampler of a run ahead of fixed rules on the same model? The sentences of a report that say so."""

from typing import Literal

from diffpo.report.data import Arm
from diffpo.statistics.bootstrap import Interval

Verdict = Literal["ahead", "behind", "undecided", "unknown"]
VERDICTS: dict[Verdict, str] = {
    "ahead": "ahead of fixed bounds",
    "behind": "behind fixed bounds",
    "undecided": "not told apart from fixed bounds by this many problems",
    "unknown": "not shown to be better than fixed bounds, since none was chosen on validation problems",
}


def gain_sentences(arm: Arm) -> list[str]:
    """Return what the learned sampler adds to fixed bounds on the same model, with its uncertainty and a verdict."""
    if arm.gain is None:
        return []
    gain = arm.gain
    found = [
        f"Against the best mixture of the {len(arm.points)} fixed rules on the same model, fitted to these problems, "
        f"the learned sampler is worth {_points(gain.accuracy, gain.accuracy_ci95)} of accuracy at equal NFE, "
        f"and saves {_calls(gain.nfe, gain.nfe_ci95)} calls per problem at equal accuracy."
    ]
    if arm.validated_gain is not None:
        validated = arm.validated_gain.gain
        found.append(
            f"Against {arm.validated_gain.rule}, chosen on validation problems as the best that costs no more, it is "
            f"worth {_points(validated.accuracy, validated.accuracy_ci95)}, and saves "
            f"{_calls(validated.nfe, validated.nfe_ci95)} calls at the same time."
        )
    return [*found, f"So it is {VERDICTS[verdict(arm)]}."]


def verdict(arm: Arm) -> Verdict:
    """Return whether the learned sampler is ahead of fixed rules, behind them, or neither, as far as is known.

    It is ahead where both intervals of accuracy are above zero, against the best mixture of fixed rules and against the
    constant that was chosen on validation problems; behind where one of them is below zero.
    """
    against = [arm.gain.accuracy_ci95] if arm.gain else []
    if any(high < 0 for _, high in [*against, *_validated_interval(arm)]):
        return "behind"
    if not arm.validated_gain or not against:
        return "unknown"
    return "ahead" if all(low > 0 for low, _ in [*against, *_validated_interval(arm)]) else "undecided"


def _validated_interval(arm: Arm) -> list[Interval]:
    return [arm.validated_gain.gain.accuracy_ci95] if arm.validated_gain else []


def _points(value: float, interval: Interval) -> str:
    return f"{100 * value:+.1f} points [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"


def _calls(value: float, interval: Interval) -> str:
    return f"{value:+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}]"
