"""A frontier against another one: what a summary says of the difference, in words that claim no more than it shows."""

from collections.abc import Mapping, Sequence

from diffpo.report.verdicts import Verdict, calls_told_apart, frontier_verdict, without_beaten_base
from diffpo.statistics.comparison import FrontierDifference
from diffpo.statistics.intervals import Estimate


def area_sentence(main: str, differences: Mapping[str, FrontierDifference], most: int | None = None) -> str:
    """Return how the areas compare, and who is ahead at which numbers of calls where the areas do not tell it.

    Of more than `most` other arms, the first `most` are told of, those first whose areas do not tell all.
    """
    verdicts = without_beaten_base({arm: frontier_verdict(found) for arm, found in differences.items()})
    told = shortlist(verdicts, most)
    areas = [f"{_area_words(differences[arm].area)} {_name(arm)} ({_area(differences[arm].area)})" for arm in told]
    parts = [f"Over all numbers of calls, the area under the frontier of {main} is {' and '.join(areas)}"]
    for arm in told:
        found = differences[arm]
        if verdicts[arm] in ("partly ahead of", "mixed against") and (calls := calls_told_apart(found, 1)):
            parts.append(f"{main} solves more than {_name(arm)} within {_where(found, calls, 1)}")
        if calls := calls_told_apart(found, -1):
            parts.append(f"{_name(arm)} solves more within {_where(found, calls, -1)}")
    if len(told) == len(verdicts) and not any(calls_told_apart(differences[arm], -1) for arm in verdicts):
        parts.append("at no number of calls is another ahead, as far as intervals tell")
    return f"{'; '.join(parts)}.{and_more(verdicts, told)}"


def shortlist(verdicts: Mapping[str, Verdict], most: int | None) -> list[str]:
    """Return the arms, of more than `most` the first of them: those first that are not simply beaten."""
    if most is None or len(verdicts) <= most:
        return list(verdicts)
    first = sorted(verdicts, key=lambda arm: verdicts[arm] in ("ahead of", "faster than", "level with"))
    return first[:most]


def and_more(verdicts: Mapping[str, Verdict], told: Sequence[str]) -> str:
    """Return a sentence on the arms that a shortlist leaves out, "" where it has all."""
    left = len(verdicts) - len(told)
    return f" {left} more {'is' if left == 1 else 'are'} under the differences, with intervals." if left else ""


def frontier_sentences(main: str, differences: Mapping[str, FrontierDifference], num_seeds: int) -> list[str]:
    """Return a sentence for each other arm: the areas, and at which numbers of calls which of the two is ahead.

    `num_seeds`: with how many each arm was trained; a last sentence says what the intervals are over.
    """
    if not differences:
        return []
    over = "problems and training seeds" if num_seeds > 1 else "problems, and not over training seeds: there is one"
    return [*(_sentence(main, arm, found) for arm, found in differences.items()), f"Intervals are over {over}."]


def _sentence(main: str, arm: str, found: FrontierDifference) -> str:
    parts = [f"{_area_words(found.area)} {_name(arm)} ({_area(found.area)})"]
    for sign, word in ((1, "ahead"), (-1, "behind")):
        if calls := calls_told_apart(found, sign):
            parts.append(f"it is {word} within {_where(found, calls, sign)}")
    return f"The frontier of {main} has an area {'; '.join(parts)}."


def _where(found: FrontierDifference, calls: Sequence[float], sign: int) -> str:
    """Return numbers of calls, and the largest difference of this sign there."""
    at, most = max(
        ((x, e) for x, e in zip(found.at, found.accuracy, strict=True) if x in calls),
        key=lambda pair: sign * pair[1].value,
    )
    by_most = f", by most within {at:g}: " if len(calls) > 1 else ", by "
    return f"{call_ranges(calls)}{by_most}{_points(most)}"


def _area_words(area: Estimate) -> str:
    low, high = area.ci95
    return "larger than that of" if low > 0 else "smaller than that of" if high < 0 else "not told apart from that of"


def _area(area: Estimate) -> str:
    low, high = area.ci95
    return f"{area.value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _points(found: Estimate) -> str:
    low, high = (100 * end for end in found.ci95)
    return f"{100 * found.value:+.1f} points [{low:+.1f}, {high:+.1f}]"


def call_ranges(calls: Sequence[float]) -> str:
    """Return whole numbers in words: `1 to 3 and 5 calls`."""
    runs: list[list[float]] = []
    for at in calls:
        if runs and at == runs[-1][-1] + 1:
            runs[-1].append(at)
        else:
            runs.append([at])
    words = [f"{run[0]:g}" if len(run) == 1 else f"{run[0]:g} to {run[-1]:g}" for run in runs]
    return f"{' and '.join(words)} {'call' if calls == [1] else 'calls'}"


def _name(arm: str) -> str:
    return "the base" if arm == "base" else arm
