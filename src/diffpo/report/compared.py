"""A frontier against another one: what a summary says of the difference, in words that claim no more than it shows."""

from collections.abc import Mapping, Sequence

from diffpo.statistics.comparison import FrontierDifference
from diffpo.statistics.intervals import Estimate


def area_sentence(main: str, differences: Mapping[str, FrontierDifference]) -> str:
    """Return how the areas compare, which the headline tells in a word, and who is ahead at which numbers of calls."""
    rivals = {arm: found for arm, found in differences.items() if arm != "base"} or differences
    areas = [f"{_area_words(found.area)} {_name(arm)} ({_area(found.area)})" for arm, found in rivals.items()]
    behind = [
        f"{_name(arm)} solves more within {_ranges(calls)}"
        for arm, found in rivals.items()
        if (calls := calls_told_apart(found, -1))
    ]
    start = f"Over all numbers of calls, the area under the frontier of {main} is {' and '.join(areas)}"
    return "; ".join([start, *(behind or ["at no number of calls is another ahead, as far as intervals tell"])]) + "."


def frontier_sentences(main: str, differences: Mapping[str, FrontierDifference]) -> list[str]:
    """Return a sentence for each other arm: the areas, and at which numbers of calls which of the two is ahead."""
    return [_sentence(main, arm, found) for arm, found in differences.items()]


def calls_told_apart(found: FrontierDifference, sign: int) -> list[float]:
    """Return the numbers of calls at which the whole interval is above (1) or below (-1) zero."""
    return [at for at, e in zip(found.at, found.accuracy, strict=True) if min(sign * end for end in e.ci95) > 0]


def _sentence(main: str, arm: str, found: FrontierDifference) -> str:
    parts = [f"{_area_words(found.area)} {_name(arm)} ({_area(found.area)})"]
    for sign, word in ((1, "ahead"), (-1, "behind")):
        if calls := calls_told_apart(found, sign):
            at, most = max(
                ((x, e) for x, e in zip(found.at, found.accuracy, strict=True) if x in calls),
                key=lambda pair: sign * pair[1].value,
            )
            parts.append(f"it is {word} within {_ranges(calls)}, by most within {at:g}: {_points(most)}")
    return f"The frontier of {main} has an area {'; '.join(parts)}. Intervals are over problems and training seeds."


def _area_words(area: Estimate) -> str:
    low, high = area.ci95
    return "larger than that of" if low > 0 else "smaller than that of" if high < 0 else "not told apart from that of"


def _area(area: Estimate) -> str:
    low, high = area.ci95
    return f"{area.value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _points(found: Estimate) -> str:
    low, high = (100 * end for end in found.ci95)
    return f"{100 * found.value:+.1f} points [{low:+.1f}, {high:+.1f}]"


def _ranges(calls: Sequence[float]) -> str:
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
