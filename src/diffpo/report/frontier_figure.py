"""The main picture of a report: accuracy against denoiser calls, with the points of learned samplers named."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from diffpo.report.charts import from_zero, key_of, style_of
from diffpo.report.data import Arm, FrontierPoint
from diffpo.report.labels import Box, PointLabel, labels_svg
from diffpo.report.palette import OTHER, shape_at
from diffpo.report.svg import XY, Key, Panel, legend, log_axis, picture, shortened
from diffpo.report.table import calls_words, counts, interval_percent, percent

MOST_BARS = 8
"""A line of more points than this has a band of intervals instead of a bar at each."""
LEGEND_TOP = 26
"""Where the legend begins, below the names above the plot."""
LONGEST_NAME = 220
"""Of an arm in a picture, in user units."""
STAR_RADIUS = 11
"""Of the mark of a learned sampler, in user units."""
CALLS = ("mean denoiser calls per problem (NFE)", "mean denoiser calls (NFE)", "denoiser calls", "NFE")
ACCURACY = ("accuracy on unseen problems", "accuracy")
"""Names of the axes of a frontier, for wide pictures and for narrow ones."""


def frontier_svg(arms: Sequence[Arm], width: int = 760, height: int = 440) -> str:
    """Draw accuracy against mean NFE (log axis) with 95 % intervals: a line per arm, a star for the learned sampler.

    Intervals are bars or, along a line of many points, a band. The line of an arm joins its entropy bounds; marks of
    other rules are hollow. A sampler with prices has a curve in place of the star, with the prices at its points, and
    the line of the bounds is thin and dotted then. `width` and `height` are in user units; a legend of many rows makes
    the picture higher.
    """
    every = [point for arm in arms for point in _points(arm)]
    shares = [100 * value for point in every for value in (point.accuracy, *point.ci95)]
    keys = [key for arm in arms if arm.is_evaluated for key in _keys(arm)]
    if any(point.kind != arm.main_kind for arm in arms for point in arm.points):
        keys.append(Key("other rules", f"{OTHER} hollow", "circle", has_line=False))
    key, rows_height = legend(keys, (0, LEGEND_TOP), width)
    height += max(0, rows_height - 20)
    panel = Panel(
        width,
        height,
        x=log_axis([point.nfe for point in every]),
        y=from_zero(shares, ceiling=100.0, ticks=5, unit=" %"),
        top=LEGEND_TOP + rows_height + 20,
    )
    leaders, names = labels_svg(
        [label for arm in arms for label in _labels(panel, arm)],
        [line for arm in arms for line in _lines(panel, arm)],
        [_at(panel, point) for point in every],
        Box(panel.left, panel.top - 24, panel.width, panel.height - panel.bottom),
    )
    body = panel.frame(CALLS, ACCURACY, counts(arms)) + leaders
    body += "".join(_rules(panel, arm) for arm in arms) + "".join(_learned(panel, arm) for arm in arms) + names
    label = "Accuracy against denoiser calls: " + "; ".join(_alternative_text(arm) for arm in arms)
    return picture(width, height, label, body + key)


def _keys(arm: Arm) -> list[Key]:
    """Return the entries of an arm in the legend: a sampler with prices has one for the fixed rules of its model."""
    key = key_of(arm)
    if arm.price_curve is None:
        return [key]
    curve = replace(key, style=f"{key.style} curve")
    fixed = replace(key, name=f"{arm.name}, fixed rules", style=f"{key.style} minor hollow")
    return [curve, fixed] if arm.points else [curve]


def _rules(panel: Panel, arm: Arm) -> str:
    """Draw the fixed rules of an arm: the line of its bounds, and a mark for each rule."""
    style = f"{style_of(arm)} minor" if arm.price_curve else style_of(arm)
    joined = _joined(arm)
    body = _band(panel, joined, style) if _has_band(arm) and not arm.price_curve else ""
    body += panel.line([_shown(point) for point in joined], style)
    for point in arm.points:
        is_hollow = point.kind != arm.main_kind or arm.price_curve
        mark_style = f"{style} hollow" if is_hollow else style
        body += _mark(panel, point, f"{arm.name}, {point.rule}", shape_at(arm.place), mark_style, _has_bar(arm, point))
    return body


def _learned(panel: Panel, arm: Arm) -> str:
    """Draw what an arm's sampler has learned: points, joined, or a star."""
    style = style_of(arm)
    name = f"{arm.name}, learned sampler"
    if arm.price_curve is None:
        return _mark(panel, arm.learned.point, name, "star", style) if arm.learned else ""
    points = arm.price_curve.points
    body = _band(panel, points, style) + panel.line([_shown(point) for point in points], f"{style} curve")
    for point in points:
        prices = _prices(arm, point)
        told = f"{name}, {point.rule}" + (f" (price {prices})" if prices else "")
        body += _mark(panel, point, told, shape_at(arm.place), style, has_bar=False)
    return body


def _labels(panel: Panel, arm: Arm) -> Iterator[PointLabel]:
    """Yield the names of the points of a learned sampler: the prices that buy them, or whose it is."""
    if arm.price_curve:
        for point in arm.price_curve.points:
            if prices := _prices(arm, point):
                yield PointLabel(f"price {prices}", _at(panel, point))
    elif arm.learned:
        name = f"{shortened(arm.name, LONGEST_NAME)}, learned sampler"
        yield PointLabel(name, _at(panel, arm.learned.point), STAR_RADIUS)


def _lines(panel: Panel, arm: Arm) -> Iterator[list[XY]]:
    """Yield what is drawn of an arm as lines, in user units: lines and the bars of intervals."""
    yield [_at(panel, point) for point in _joined(arm)]
    barred = [point for point in arm.points if _has_bar(arm, point)]
    if arm.price_curve:
        yield [_at(panel, point) for point in arm.price_curve.points]
    elif arm.learned:
        barred.append(arm.learned.point)
    for point in barred:
        yield [panel.at((point.nfe, 100 * end)) for end in point.ci95]


def _points(arm: Arm) -> list[FrontierPoint]:
    found = [*arm.points, *([arm.learned.point] if arm.learned else [])]
    return [*found, *(arm.price_curve.points if arm.price_curve else ())]


def _joined(arm: Arm) -> list[FrontierPoint]:
    """Return the points of an arm that its line joins, by their calls."""
    return sorted((point for point in arm.points if point.kind == arm.main_kind), key=lambda point: point.nfe)


def _has_band(arm: Arm) -> bool:
    return len(_joined(arm)) > MOST_BARS


def _has_bar(arm: Arm, point: FrontierPoint) -> bool:
    return point.kind != arm.main_kind or not _has_band(arm)


def _prices(arm: Arm, point: FrontierPoint) -> str:
    """Return the prices that buy a point of an arm's price curve, as they are listed."""
    prices = arm.price_curve.prices if arm.price_curve else {}
    return ", ".join(f"{price:g}" for price, rule in prices.items() if rule == point.rule)


def _shown(point: FrontierPoint) -> XY:
    return point.nfe, 100 * point.accuracy


def _at(panel: Panel, point: FrontierPoint) -> XY:
    return panel.at(_shown(point))


def _band(panel: Panel, points: Sequence[FrontierPoint], style: str) -> str:
    low, high = ([100 * point.ci95[end] for point in points] for end in (0, 1))
    return panel.band([point.nfe for point in points], low, high, style)


def _mark(panel: Panel, point: FrontierPoint, name: str, shape: str, style: str, has_bar: bool = True) -> str:
    low, high = (100 * end for end in point.ci95)
    tooltip = f"{name}: {percent(point.accuracy)} % {interval_percent(point.ci95)} in {point.nfe:.2f} calls"
    bar = panel.error_bar(point.nfe, low, high, style) if has_bar else ""
    return bar + panel.marker((point.nfe, 100 * point.accuracy), shape, style, tooltip)


def _alternative_text(arm: Arm) -> str:
    """Return what the picture shows of an arm, for readers who cannot see it."""
    if not arm.is_evaluated:
        return f"{arm.name} not evaluated"
    best = max(_points(arm), key=lambda point: (point.accuracy, -point.nfe))
    return f"{arm.name} reaches {percent(best.accuracy)} % in {calls_words(best.nfe)}"
