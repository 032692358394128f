"""Is the learned sampler of a run ahead of fixed rules on the same model? The sentences of a report that say so."""

import numpy as np

from diffpo.report.charts import by_clues
from diffpo.report.data import Arm
from diffpo.statistics.constant import Verdict, verdict
from diffpo.statistics.intervals import Estimate, Interval

VERDICTS: dict[Verdict, str] = {
    "ahead": "ahead of fixed bounds",
    "behind": "behind fixed bounds",
    "undecided": "not told apart from fixed bounds by this many problems",
    "unknown": "not shown to be better than fixed bounds, since none was chosen on validation problems",
}


def verdict_words(arm: Arm) -> str:
    """Return whether the learned sampler is ahead of fixed bounds, as what follows "it is"."""
    mixture, constant = arm.gain, arm.validated_gain
    return VERDICTS[
        verdict(mixture.accuracy_ci95 if mixture else None, constant.gain.accuracy_ci95 if constant else None)
    ]


def gain_sentences(arm: Arm) -> list[str]:
    """Return what the learned sampler adds to fixed bounds on the same model, with its uncertainty and a verdict."""
    if arm.gain is None:
        return []
    gain = arm.gain
    found = [
        f"Against the best mixture of the {len(arm.points)} fixed rules on the same model, fitted to these problems, "
        f"the learned sampler of {arm.name} {_points(gain.accuracy, gain.accuracy_ci95)} of accuracy at equal NFE, and "
        f"{_calls(gain.nfe, gain.nfe_ci95)} per problem at equal accuracy."
    ]
    if arm.validated_gain is not None:
        validated = arm.validated_gain.gain
        found.append(
            f"Against {arm.validated_gain.rule}, chosen on validation problems as the best that costs no more, it "
            f"{_points(validated.accuracy, validated.accuracy_ci95)}, and "
            f"{_calls(validated.nfe, validated.nfe_ci95)} at the same time."
        )
    return [*found, f"So it is {verdict_words(arm)}."]


def prompt_sentence(arm: Arm) -> str | None:
    """Return how the learned sampler's bound goes with the prompt: with the clues of a puzzle, or how far it spreads.

    None where its bounds were not recorded.
    """
    if arm.learned is None or len(arm.learned.bounds) < 2:
        return None
    bounds = by_clues(arm.clues, arm.learned.bounds)
    if len(bounds) < 2:
        low, lower, upper, high = np.quantile(arm.learned.bounds, (0, 0.25, 0.75, 1)).tolist()
        return (
            f"Over {len(arm.learned.bounds)} prompts the bound of {arm.name} goes from {low:.2g} to {high:.2g}, for "
            f"the middle half of them from {lower:.2g} to {upper:.2g}: a larger one commits more tokens per call, and "
            "a single bound would treat all prompts alike."
        )
    fewest, most = min(bounds), max(bounds)
    solved = by_clues(arm.clues, arm.learned.point.solved)
    is_easier = bool(solved) and solved[fewest] < solved[most]
    turned = ""
    if is_easier and bounds[fewest] > bounds[most]:
        turned = " Here the hardest puzzles get the larger bound, which is the wrong way round to spend calls on them."
    return ("Puzzles with more clues are easier. " if is_easier else "") + (
        f"The bound of {arm.name} is {bounds[fewest]:.2g} on average at {fewest} clues and {bounds[most]:.2g} at "
        f"{most}: a larger one commits more tokens per call, and a flat curve would treat all prompts alike.{turned}"
    )


def price_sentences(arm: Arm) -> list[str]:
    """Return what the sampler with prices adds to fixed bounds on the same model, over all numbers of calls."""
    curve = arm.price_curve
    if curve is None:
        return []
    low, high = curve.area_gain.ci95
    word = "ahead of" if low > 0 else "behind" if high < 0 else "not told apart from"
    return [
        f"Over all numbers of calls the learned sampler of {arm.name}, whose rules were chosen on validation "
        f"problems, has an area of {_area(curve.area, '')}, which differs by {_area(curve.area_gain, '+')} from that "
        f"of the {len(arm.points)} fixed rules on the same model, the best of them on these very problems. So it is "
        f"{word} fixed rules here."
    ]


def _area(found: Estimate, sign: str) -> str:
    low, high = found.ci95
    return f"{found.value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _points(value: float, interval: Interval) -> str:
    """Return a gain in accuracy as what the sampler does: a loss is a cost, with its interval turned round."""
    sign = -1 if value < 0 else 1
    low, high = sorted(100 * sign * end + 0.0 for end in interval)
    return f"{'costs' if sign < 0 else 'is worth'} {100 * abs(value):.1f} points [{low:.1f}, {high:.1f}]"


def _calls(value: float, interval: Interval) -> str:
    """Return saved calls as what the sampler does, in the same way."""
    sign = -1 if value < 0 else 1
    low, high = sorted(sign * end + 0.0 for end in interval)
    told = f"{abs(value):.2f} [{low:.2f}, {high:.2f}]"
    return f"costs {told} more calls" if sign < 0 else f"saves {told} calls"
