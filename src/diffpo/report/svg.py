"""Scales, axes and marks as strings of SVG. Colours come from the classes in chart.css; nothing here knows the data."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

Number = int | float
XY = tuple[Number, Number]
MARGIN = 20
"""User units of background around a picture that stands alone."""


@dataclass(frozen=True)
class Axis:
    """A range of values, linear or logarithmic, with the values to label."""

    lo: Number
    hi: Number
    ticks: tuple[Number, ...]
    is_log: bool = False
    unit: str = ""

    def at(self, value: Number) -> float:
        """Return the position of `value` as a fraction of the axis; values outside are moved to its ends."""
        lo, hi = (math.log(self.lo), math.log(self.hi)) if self.is_log else (self.lo, self.hi)
        if self.is_log:
            value = math.log(max(value, self.lo))
        return min(max((value - lo) / (hi - lo), 0.0), 1.0)

    def label(self, tick: Number) -> str:
        """Return a tick in few characters: 0.25, 8, 40k."""
        if abs(tick) >= 1e6:
            return f"{tick / 1e6:g}M{self.unit}"
        return (f"{tick / 1e3:g}k" if abs(tick) >= 1e4 else f"{tick:g}") + self.unit


def linear_axis(
    values: Iterable[Number], floor: Number = -math.inf, ceiling: Number = math.inf, ticks: int = 4, unit: str = ""
) -> Axis:
    """Return an axis around all finite values, with about `ticks` round numbers, within `floor` and `ceiling`."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    lo, hi = max(min(finite), floor), min(max(finite), ceiling)
    if hi - lo < 1e-9 * max(abs(hi), 1e-6):
        lo, hi = max(lo - 0.5 * (abs(lo) or 1), floor), min(hi + 0.5 * (abs(hi) or 1), ceiling)
    rough = (hi - lo) / ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda m: abs(math.log(m * power / rough)))
    first, last = math.floor(lo / step + 1e-9), math.ceil(hi / step - 1e-9)
    marks = tuple(round(i * step, 12) for i in range(first, last + 1) if floor <= i * step <= ceiling)
    return Axis(min(marks[0], lo), max(marks[-1], hi), marks, unit=unit)


def log_axis(values: Iterable[Number], base: int = 2) -> Axis:
    """Return a logarithmic axis around all positive values, with whole powers of `base`."""
    positive = [value for value in values if 0 < value < math.inf] or [1.0, 10.0]
    first = math.floor(math.log(min(positive), base) + 1e-9)
    last = max(math.ceil(math.log(max(positive), base) - 1e-9), first + 1)
    marks = tuple(float(base) ** i for i in range(first, last + 1))
    return Axis(marks[0], marks[-1], marks, is_log=True)


@dataclass(frozen=True)
class Panel:
    """A plotting area of `width` by `height` user units, margins included, with its two axes."""

    width: int
    height: int
    x: Axis
    y: Axis
    top: int = 34
    right: int = 18
    bottom: int = 42
    left: int = 46

    def at(self, point: XY) -> XY:
        """Return the position of a data point in user units."""
        return (
            self.left + self.x.at(point[0]) * (self.width - self.left - self.right),
            self.height - self.bottom - self.y.at(point[1]) * (self.height - self.top - self.bottom),
        )

    def frame(self, x_label: str, y_label: str) -> str:
        """Draw grid lines, tick labels and axis names; the name of the y axis is above it, where it can be read."""
        right, bottom = self.width - self.right, self.height - self.bottom
        parts = []
        for tick in self.y.ticks:
            y = self.at((self.x.lo, tick))[1]
            parts.append(f'<line class="grid" x1="{self.left}" y1="{num(y)}" x2="{right}" y2="{num(y)}"/>')
            parts.append(text((self.left - 8, y + 4), self.y.label(tick), "tick", "end"))
        for tick in self.x.ticks:
            x = self.at((tick, self.y.lo))[0]
            parts.append(f'<line class="axis" x1="{num(x)}" y1="{bottom}" x2="{num(x)}" y2="{bottom + 4}"/>')
            parts.append(text((x, bottom + 18), self.x.label(tick), "tick", "middle"))
        parts.append(f'<line class="axis" x1="{self.left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
        parts.append(text((right, bottom + 36), x_label, "name", "end"))
        parts.append(text((0, 14), y_label, "name", "start"))
        return "".join(parts)

    def line(self, points: Sequence[XY], style: str) -> str:
        path = " ".join(f"{num(x)},{num(y)}" for x, y in map(self.at, points))
        return f'<polyline class="line {style}" points="{path}"/>'

    def band(self, xs: Sequence[Number], low: Sequence[Number], high: Sequence[Number], style: str) -> str:
        outline = [*zip(xs, high, strict=True), *reversed(list(zip(xs, low, strict=True)))]
        path = " ".join(f"{num(x)},{num(y)}" for x, y in map(self.at, outline))
        return f'<polygon class="band {style}" points="{path}"/>'

    def error_bar(self, x: Number, low: Number, high: Number, style: str) -> str:
        (px, y1), (_, y2) = self.at((x, low)), self.at((x, high))
        return f'<line class="bar {style}" x1="{num(px)}" y1="{num(y1)}" x2="{num(px)}" y2="{num(y2)}"/>'

    def marker(self, point: XY, shape: str, style: str, tooltip: str = "") -> str:
        return marker(self.at(point), shape, style, tooltip)


def marker(at: XY, shape: str, style: str, tooltip: str = "") -> str:
    """Draw a circle, square, diamond, triangle or star around `at`, in user units."""
    inner = f"<title>{escape(tooltip)}</title>" if tooltip else ""
    x, y = at
    if shape == "circle":
        return f'<circle class="mark {style}" cx="{num(x)}" cy="{num(y)}" r="4">{inner}</circle>'
    corners = {
        "square": [(-3.6, -3.6), (3.6, -3.6), (3.6, 3.6), (-3.6, 3.6)],
        "diamond": [(0, -5.2), (5.2, 0), (0, 5.2), (-5.2, 0)],
        "triangle": [(0, -5), (4.6, 3.4), (-4.6, 3.4)],
        "star": [
            (r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate([11.0, 4.6] * 5)
        ],
    }[shape]
    path = " ".join(f"{num(x + dx)},{num(y + dy)}" for dx, dy in corners)
    return f'<polygon class="mark {style}" points="{path}">{inner}</polygon>'


def text(at: XY, content: str, style: str, anchor: str = "start") -> str:
    return f'<text class="{style}" x="{num(at[0])}" y="{num(at[1])}" text-anchor="{anchor}">{escape(content)}</text>'


def picture(width: int, height: int, label: str, body: str, css: str | None = None) -> str:
    """Return an `<svg>` for a page, or with `css` a whole file with its own background."""
    name_space = paper = ""
    box = f"0 0 {width} {height}"
    if css is not None:
        width, height = width + 2 * MARGIN, height + 2 * MARGIN
        name_space = f' xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        box = f"{-MARGIN} {-MARGIN} {width} {height}"
        paper = f'<style>{css}</style><rect class="paper" x="{-MARGIN}" y="{-MARGIN}" width="100%" height="100%"/>'
    return (
        f'<svg{name_space} class="chart" viewBox="{box}" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>{paper}{body}</svg>"
    )


def num(value: Number) -> str:
    """Return a coordinate with one decimal, and with none where it is whole."""
    return f"{value:.1f}".removesuffix(".0")
