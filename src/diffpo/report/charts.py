"""The small pictures of a report: prompt awareness and training curves; the frontier is in `frontier_figure`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from diffpo.report.data import Arm, FrontierPoint
from diffpo.report.metrics import SHARES
from diffpo.report.palette import OTHER, shape_at, style_at
from diffpo.report.svg import Axis, Key, Panel, legend, linear_axis, picture

CURVE_POINTS = 40
"""A training curve has at most this many points; each is a mean of consecutive log lines."""


def style_of(arm: Arm) -> str:
    """Return the classes of an arm's colour and dash."""
    return style_at(arm.place)


def styles_of(arms: Sequence[Arm]) -> Callable[[str], str]:
    """Return the function from an arm's name to `style_of` it, for a page."""
    found = {arm.name: style_of(arm) for arm in arms}
    return lambda name: found.get(name, OTHER)


def key_of(arm: Arm) -> Key:
    """Return the entry of an arm in a legend."""
    return Key(arm.name, style_of(arm), shape_at(arm.place))


# ------------------------------------------------------------------------------------------------- prompt awareness


def by_clues(clues: Sequence[int], values: Sequence[float]) -> dict[int, float]:
    """Return the mean of `values` for every number of clues; nothing where they were not recorded."""
    if len(clues) != len(values):
        return {}
    pairs = sorted(zip(clues, values, strict=True))
    groups = ((key, [value for _, value in group]) for key, group in groupby(pairs, key=lambda pair: pair[0]))
    return {key: math.fsum(group) / len(group) for key, group in groups}


def nearest_fixed(arm: Arm) -> FrontierPoint | None:
    """Return the fixed entropy bound whose mean NFE is nearest to the learned sampler's, by ratio."""
    fixed = [point for point in arm.points if point.kind == arm.main_kind and point.nfe > 0]
    if not arm.learned or not fixed:
        return None
    calls = arm.learned.point.nfe
    return min(fixed, key=lambda point: abs(math.log(point.nfe / calls)))


def clue_charts(arm: Arm, has_legend: bool = False) -> dict[str, str]:
    """Draw bound, accuracy and NFE of the learned sampler by number of clues, beside the nearest fixed bound.

    By the name of what is drawn. A page has one legend for all, a file its own.
    """
    if not arm.learned:
        return {}
    learned, fixed = arm.learned.point, nearest_fixed(arm)
    percents = [[100 * value for value in point.solved] if point else [] for point in (learned, fixed)]
    panels = {
        "entropy bound": (arm.learned.bounds, ()),
        "accuracy": percents,
        "denoiser calls": (learned.nfe_rows, fixed.nfe_rows if fixed else ()),
    }
    keys = clue_keys(arm) if has_legend else []
    return {
        name: _clue_chart(name, of_learned, by_clues(arm.clues, of_fixed), arm, keys)
        for name, (rows, of_fixed) in panels.items()
        if (of_learned := by_clues(arm.clues, rows))
    }


def clue_keys(arm: Arm, why: str = "") -> list[Key]:
    """Return the entries of the legend of an arm's `clue_charts`; `why`, where there is room, is of the fixed bound."""
    keys = [replace(key_of(arm), name=f"{arm.name}, learned sampler")]
    if fixed := nearest_fixed(arm):
        keys.append(Key(f"same model, {fixed.rule}{why}", f"{OTHER} minor"))
    return keys


def training_keys(arms: Sequence[Arm]) -> list[Key]:
    """Return the entries of the legend of training curves, which have no marks."""
    return [replace(key_of(arm), shape="") for arm in arms]


def _clue_chart(
    name: str, of_learned: Mapping[int, float], of_fixed: Mapping[int, float], arm: Arm, keys: Sequence[Key]
) -> str:
    is_accuracy = name == "accuracy"
    unit = " %" if is_accuracy else ""
    ceiling = 100.0 if is_accuracy else math.inf
    y = from_zero([*of_learned.values(), *of_fixed.values()], ceiling=ceiling, unit=unit)
    width, height = 280, 220
    key, rows_height = legend(keys, (0, height), width)
    panel = Panel(width, height, x=_whole_axis(list(of_learned)), y=y)
    body = panel.frame("clues given in the puzzle", name, f"n = {len(arm.clues)}")
    if of_fixed:
        body += panel.line(list(of_fixed.items()), f"{OTHER} minor")
    body += panel.line(list(of_learned.items()), style_of(arm))
    for clues, value in of_learned.items():
        tooltip = f"{clues} clues: {name} {value:.3g}{unit}, {arm.clues.count(clues)} problems"
        body += panel.marker((clues, value), shape_at(arm.place), style_of(arm), tooltip)
    fewest, most = (f"{of_learned[clues]:.3g}{unit} with {clues} clues" for clues in (min(of_learned), max(of_learned)))
    label = f"{name} of the learned sampler, {fewest} and {most}"
    return picture(width, height + rows_height, label, body + key)


def from_zero(values: Sequence[float], ceiling: float = math.inf, ticks: int = 4, unit: str = "") -> Axis:
    """Return an axis that begins at 0, unless all values are above half of the largest: a picture says so then."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    shown = [0.0, *finite] if min(finite) <= max(finite) / 2 else finite
    return linear_axis(shown, 0.0 if min(finite) >= 0 else -math.inf, ceiling, ticks, unit)


def _whole_axis(values: Sequence[int]) -> Axis:
    lo, hi = min(values), max(values)
    step = max(1, math.ceil((hi - lo) / 8))
    return Axis(lo - 0.3, hi + 0.3, tuple(float(tick) for tick in range(lo, hi + 1, step)))


# --------------------------------------------------------------------------------------------------------- training


def curve(metrics: Sequence[Mapping[str, float]], x: str, y: str) -> list[tuple[float, float, float, float]]:
    """Return (x, mean, lowest, highest) of metric `y` for at most `CURVE_POINTS` parts of the log.

    Lines without one of the two metrics are left out; x is that of a part's last line.
    """
    pairs = [(row[x], row[y]) for row in metrics if x in row and y in row]
    count = min(len(pairs), CURVE_POINTS)
    bins = [pairs[i * len(pairs) // count : (i + 1) * len(pairs) // count] for i in range(count)]
    return [
        (pair[-1][0], math.fsum(v for _, v in pair) / len(pair), min(v for _, v in pair), max(v for _, v in pair))
        for pair in bins
    ]


def training_svg(
    arms: Sequence[Arm], x: str, x_label: str, y: str, y_label: str, has_legend: bool = False
) -> str | None:
    """Draw metric `y` of every arm against metric `x` on shared axes; None where no arm has both.

    The line is the mean of consecutive log lines, the band their range. A page has one legend for all metrics, a file
    its own.
    """
    width, height = 360, 250
    of_arm = {arm.name: arm for arm in arms}
    curves = {arm.name: found for arm in arms if len(found := curve(arm.metrics, x, y)) > 1}
    if not curves:
        return None
    factor, unit = (100, " %") if y in SHARES else (1, "")
    every = [point for found in curves.values() for point in found]
    # The axis fits the means and not the bands: one wild batch must not flatten the curve.
    means = [factor * mean for _, mean, _, _ in every]
    keys = training_keys([of_arm[name] for name in curves]) if has_legend else []
    key, rows_height = legend(keys, (0, height), width)
    panel = Panel(
        width,
        height,
        x=linear_axis([0, *(point[0] for point in every)], floor=0),
        y=from_zero(means, ceiling=100.0 if unit else math.inf, unit=unit),
    )
    bands = lines = ""
    for name, found in curves.items():
        xs, mean, low, high = (list(column) for column in zip(*found, strict=True))
        style = style_of(of_arm[name])
        bands += panel.band(xs, [factor * v for v in low], [factor * v for v in high], style)
        lines += panel.line([(px, factor * v) for px, v in zip(xs, mean, strict=True)], style)
    ends = "; ".join(f"{name} ends at {factor * found[-1][1]:.3g}{unit}" for name, found in curves.items())
    body = panel.frame(x_label, y_label) + bands + lines + key
    return picture(width, height + rows_height, f"{y_label} in training: {ends}", body)
