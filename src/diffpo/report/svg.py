"""Scales, axes and marks as strings of SVG. Colours come from classes (`palette`); nothing here knows the data."""

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape

Number = int | float
XY = tuple[Number, Number]
Label = str | Sequence[str]
"""What an axis is called; of several names the longest comes first."""
FONT_SIZE = 12
KEY_WIDTH, SAMPLE_WIDTH, ROW_HEIGHT = 34, 28, 20
"""Of a legend: the room before a name, that of its line and mark alone, and the room between its rows."""
GAP = 10
"""Least room, in user units, between two texts, and between a text and the edge of the picture."""


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
    bottom: int = 42
    least_left: int = 46

    @property
    def left(self) -> int:
        """Room for the longest label of the y axis."""
        longest = max((text_width(self.y.label(tick)) for tick in self.y.ticks), default=0.0)
        return max(self.least_left, math.ceil(longest) + 8 + GAP // 2)

    @property
    def right(self) -> int:
        """Room for the half of the last label of the x axis that is beyond its tick."""
        return max(18, math.ceil(max((text_width(self.x.label(tick)) for tick in self.x.ticks[-1:]), default=0.0) / 2))

    def at(self, point: XY) -> XY:
        """Return the position of a data point in user units."""
        return (
            self.left + self.x.at(point[0]) * (self.width - self.left - self.right),
            self.height - self.bottom - self.y.at(point[1]) * (self.height - self.top - self.bottom),
        )

    def frame(self, x_label: Label, y_label: Label, note: str = "") -> str:
        """Draw grid lines, tick labels and axis names; the name of the y axis is above it, where it can be read.

        A logarithmic x axis, and a y axis that does not begin at 0, say so. `note` stands at the right above all. Of
        several names of an axis, the longest first, the first one that fits is written.
        """
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
        begins = f"from {self.y.label(self.y.lo)} up" if self.is_cut else ""
        parts += [text((0, bottom + 36), begins, "name")] if begins else []
        room = right - GAP - text_width(begins)
        log = ", log scale" if self.x.is_log else ""
        name = _first_that_fits([f"{name}{log}" for name in _names(x_label)], room)
        parts.append(text((right, bottom + 36), name, "name", "end", room=room))
        if y_label:
            room = self.width - (text_width(note) + GAP if note else 0) - GAP
            name = _first_that_fits(_names(y_label), room)
            parts.append(text((0, 14), name, "name", "start", room=room))
        if note:
            parts.append(text((self.width, 14), note, "name", "end"))
        return "".join(parts)

    @property
    def is_cut(self) -> bool:
        """Whether the y axis begins above 0, which exaggerates differences and has to be said."""
        return self.y.lo > 0 and not self.y.is_log

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


def _names(label: Label) -> Sequence[str]:
    return [label] if isinstance(label, str) else label


def _first_that_fits(names: Sequence[str], room: Number) -> str:
    return next((name for name in names if text_width(name) <= room), names[-1])


def marker(at: XY, shape: str, style: str, tooltip: str = "") -> str:
    """Draw one of the shapes of `palette`, or a star, around `at`, in user units."""
    inner = f"<title>{escape(tooltip)}</title>" if tooltip else ""
    x, y = at
    if shape == "circle":
        return f'<circle class="mark {style}" cx="{num(x)}" cy="{num(y)}" r="4">{inner}</circle>'
    corners = {
        "square": [(-3.6, -3.6), (3.6, -3.6), (3.6, 3.6), (-3.6, 3.6)],
        "diamond": [(0, -5.2), (5.2, 0), (0, 5.2), (-5.2, 0)],
        "triangle": [(0, -5), (4.6, 3.4), (-4.6, 3.4)],
        "down": [(0, 5), (4.6, -3.4), (-4.6, -3.4)],
        "pentagon": _regular([4.8] * 5),
        "plus": [(x * s, y * t) for s, t, turned in QUARTERS for x, y in (PLUS[::-1] if turned else PLUS)],
        "star": _regular([11.0, 4.6] * 5),
    }[shape]
    path = " ".join(f"{num(x + dx)},{num(y + dy)}" for dx, dy in corners)
    return f'<polygon class="mark {style}" points="{path}">{inner}</polygon>'


@dataclass(frozen=True)
class Key:
    """An entry of a legend: what is drawn in this style, and the shape of its marks if it has any."""

    name: str
    style: str
    shape: str = ""
    has_line: bool = True

    def sample(self, at: XY) -> str:
        """Draw a line and a mark as the picture has them, `SAMPLE_WIDTH` wide, the left end of the line at `at`."""
        x, y = at
        line = f'<line class="line {self.style}" x1="{num(x + 1)}" y1="{num(y)}" x2="{num(x + 27)}" y2="{num(y)}"/>'
        mark = marker((x + 14, y), self.shape, self.style) if self.shape else ""
        return (line if self.has_line else "") + mark


def legend(keys: Sequence[Key], at: XY, width: Number) -> tuple[str, int]:
    """Draw a legend in as many rows as it needs from `at` down, and return how high it is."""
    x, y = at
    parts = []
    for key in keys:
        name = shortened(key.name, width - at[0] - KEY_WIDTH)
        if x > at[0] and x + KEY_WIDTH + text_width(name) > width:
            x, y = at[0], y + ROW_HEIGHT
        middle = y + ROW_HEIGHT / 2
        parts.append(key.sample((x, middle)))
        parts.append(text((x + KEY_WIDTH, middle + 4), key.name, "label", room=width - at[0] - KEY_WIDTH))
        x += KEY_WIDTH + math.ceil(text_width(name)) + GAP
    return "".join(parts), int(y - at[1]) + ROW_HEIGHT if keys else 0


def sample_svg(key: Key) -> str:
    """Return the line and mark of an entry as a picture of its own, for a legend whose names are text of the page."""
    return f'<svg class="chart sample" viewBox="0 0 {SAMPLE_WIDTH} 12" aria-hidden="true">{key.sample((0, 6))}</svg>'


PLUS = [(1.6, -4.8), (1.6, -1.6), (4.8, -1.6)]
QUARTERS = ((1, 1, False), (1, -1, True), (-1, -1, False), (-1, 1, True))


def _regular(radii: Sequence[float]) -> list[tuple[float, float]]:
    """Return corners around the middle at equal angles, the first one above it."""
    turn = 2 * math.pi / len(radii)
    return [(r * math.sin(i * turn), -r * math.cos(i * turn)) for i, r in enumerate(radii)]


def text(at: XY, content: str, style: str, anchor: str = "start", room: Number = math.inf) -> str:
    """Write a text; one that is wider than `room` is cut short, and whole in its tooltip."""
    shown = shortened(content, room)
    element = f'<text class="{style}" x="{num(at[0])}" y="{num(at[1])}" text-anchor="{anchor}">{escape(shown)}</text>'
    return element if shown == content else f"<g><title>{escape(content)}</title>{element}</g>"


def shortened(content: str, room: Number) -> str:
    """Return a text, without its middle where it is wider than `room` user units: names often differ at their end."""
    if text_width(content) <= room:
        return content
    kept = len(content) - 1
    while kept > 2 and text_width(content[: kept - kept // 2]) + text_width(content[-(kept // 2) :]) + FONT_SIZE > room:
        kept -= 1
    return f"{content[: kept - kept // 2]}\N{HORIZONTAL ELLIPSIS}{content[-(kept // 2) :]}"


@lru_cache(maxsize=4096)
def text_width(content: str) -> float:
    """Return about how wide a text is in user units: as in DejaVu Sans, the widest of the fonts that readers have.

    Signs of East Asian scripts are as wide as they are high.
    """
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in content)
    narrow, broad = (sum(map(content.count, signs)) for signs in ("ijl.,:;'|!()[]tfI /-", "mwMW@%"))
    capital = sum(map(str.isupper, content)) - sum(map(content.count, "IMW"))
    usual = len(content) - wide - narrow - broad - capital
    return FONT_SIZE * (wide + 0.39 * narrow + 0.97 * broad + 0.74 * capital + 0.63 * usual)


def picture(width: int, height: int, label: str, body: str) -> str:
    """Return an `<svg>` for a page with the style sheet of `palette`; `figure_file` makes a file of it."""
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>{body}</svg>"
    )


def num(value: Number) -> str:
    """Return a coordinate with one decimal, and with none where it is whole."""
    return f"{value:.1f}".removesuffix(".0")
