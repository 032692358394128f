"""Where the names of points go in a picture: each near its point, and on no line, mark or other name."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from diffpo.report.svg import FONT_SIZE, XY, Number, num, text, text_width

Segment = tuple[XY, XY]
GAPS = (2, 12, 20, 30, 42, 56, 72, 90, 110, 140)
"""Ways from a mark to its name, in user units, of which the shortest needs no line between the two."""
ASIDE = (0, -0.25, 0.25, -0.5, 0.5)
"""By how much of its width a name above or below its mark may be moved aside."""
MARK_RADIUS, AROUND = 5, 2
"""Of a mark, and the room around a name, in user units."""
CROSSED, OVER_MARK, COVERED = 12, 100, 1000
"""What a line from a mark to its name costs for each line that it crosses and for each mark or name, and a name for
each thing that it covers, in user units of way: a name is put farther away rather than onto something."""
TURNS = (0, -8, 8, -16, 16, -24, 24)
"""How far aside of the shortest line the end of a line from a mark may be, in user units, so that it crosses less."""
STRAIGHT, NEARER = 12, 3
"""How far the middle of a name may be aside of its mark, and how much farther from any other mark, if no line joins
them, in user units."""


@dataclass(frozen=True)
class Box:
    """A rectangle in user units, whose top has the smaller y."""

    left: Number
    top: Number
    right: Number
    bottom: Number

    def nearest(self, point: XY) -> XY:
        """Return the point of the box that is nearest to `point`."""
        return min(max(point[0], self.left), self.right), min(max(point[1], self.top), self.bottom)

    def meets(self, other: "Box") -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def is_met_by(self, segment: Segment) -> bool:
        """Return whether a segment has a point in the box: the segment is cut at each side in turn (Liang, Barsky)."""
        (x, y), (end_x, end_y) = segment
        first, last = 0.0, 1.0
        for step, room in (
            (x - end_x, x - self.left),
            (end_x - x, self.right - x),
            (y - end_y, y - self.top),
            (end_y - y, self.bottom - y),
        ):
            if step == 0 and room < 0:
                return False
            if step < 0:
                first = max(first, room / step)
            elif step > 0:
                last = min(last, room / step)
        return first <= last


@dataclass(frozen=True)
class PointLabel:
    """The name of a point, which is at `at` in user units."""

    name: str
    at: XY
    radius: Number = MARK_RADIUS


def labels_svg(
    labels: Sequence[PointLabel], lines: Iterable[Sequence[XY]], marks: Sequence[XY], room: Box
) -> tuple[str, str]:
    """Write names near their points within `room`, on no line or mark and not on each other, if there is such a place.

    A name that is not straight beside its mark, or is as near to another one, has a thin line to it. These lines come
    first, to be drawn below marks, for they end in the middle of theirs; then the names. All is in user units.
    """
    segments = [segment for line in lines for segment in pairwise(line)]
    boxes = [_around(at, MARK_RADIUS) for at in marks] + [_around(label.at, label.radius) for label in labels]
    leaders = names = ""
    for label in labels:
        box, leader = _place(label, segments, boxes, marks, room)
        if leader:
            (start_x, start_y), (end_x, end_y) = label.at, leader[1]
            leaders += (
                f'<line class="leader" x1="{num(start_x)}" y1="{num(start_y)}" x2="{num(end_x)}" y2="{num(end_y)}"/>'
            )
            segments.append(leader)
        x, anchor = _anchor(box, label.at[0])
        names += text((x, box.bottom - 4), label.name, "label", anchor)
        boxes.append(box)
    return leaders, names


def _place(
    label: PointLabel, segments: Sequence[Segment], boxes: Sequence[Box], marks: Sequence[XY], room: Box
) -> tuple[Box, Segment | None]:
    """Return the cheapest place of a label, and the line to it where it is not plainly beside its mark."""
    best, found = math.inf, None
    for gap in GAPS:
        if gap >= best:
            break  # a place farther away costs more, whatever is there
        for box in _places(label, gap, room):
            if gap == GAPS[0] and not _is_plain(label, box, marks):
                continue
            cost: Number = gap + COVERED * _covered(box, segments, boxes)
            leader = None
            if gap > GAPS[0] and cost < best:
                way, leader = min(
                    (abs(turn) / 4 + _leader_cost(label, leader, segments, boxes), leader)
                    for turn in TURNS
                    for leader in [_leader(label, box, turn)]
                )
                cost += way
            if cost < best:
                best, found = cost, (box, leader)
    return found or (_box(label, label.at[0], label.at[1], room), None)


def _places(label: PointLabel, gap: Number, room: Box) -> Iterator[Box]:
    """Yield the places of a label `gap` away from its mark: above and below it, beside it, and at its corners."""
    x, y = label.at
    width, height = _size(label.name)
    away_x, away_y = label.radius + gap + width / 2, label.radius + gap + height / 2
    offsets = [
        *((share * width, side * away_y) for share, side in product(ASIDE, (-1, 1))),
        *((side * away_x, share * height) for share, side in product(ASIDE, (1, -1))),
        *((right * (width / 2 + gap), down * away_y) for right, down in product((1, -1), (-1, 1))),
    ]
    boxes = (_box(label, x + dx, y + dy, room) for dx, dy in offsets)
    own = _around(label.at, label.radius)
    yield from (box for box in boxes if room.top <= box.top and box.bottom <= room.bottom and not box.meets(own))


def _box(label: PointLabel, x: Number, y: Number, room: Box) -> Box:
    """Return the box of a label around a point, moved aside where it would leave the room."""
    width, height = _size(label.name)
    x = max(min(x, room.right - width / 2), room.left + width / 2)
    return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _size(name: str) -> tuple[Number, Number]:
    return text_width(name) + 2 * AROUND, FONT_SIZE + 2 * AROUND


def _around(at: XY, radius: Number) -> Box:
    return Box(at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius)


def _anchor(box: Box, x: Number) -> tuple[Number, str]:
    """Return where a name begins, ends or has its middle: fonts differ in width, and it shall stay beside its mark."""
    if box.left > x:
        return box.left + AROUND, "start"
    return (box.right - AROUND, "end") if box.right < x else ((box.left + box.right) / 2, "middle")


def _is_plain(label: PointLabel, box: Box, marks: Sequence[XY]) -> bool:
    """Return whether a name is straight above, below or beside its mark, and every other mark is farther away."""
    middle = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    aside, away = (abs(m - at) for m, at in zip(middle, label.at, strict=True))
    others = [mark for mark in marks if math.dist(mark, label.at) > NEARER]
    reach = math.dist(middle, label.at) + NEARER
    return (aside <= STRAIGHT or away <= FONT_SIZE / 2) and all(math.dist(middle, mark) >= reach for mark in others)


def _leader(label: PointLabel, box: Box, turn: Number) -> Segment:
    """Return the line from the edge of a mark to the point of its name that is nearest to one `turn` aside of it."""
    x, y = label.at
    end = box.nearest((x + turn, y))
    share = (label.radius + 1) / max(math.dist(label.at, end), label.radius + 1)
    return (x + share * (end[0] - x), y + share * (end[1] - y)), end


def _covered(box: Box, segments: Sequence[Segment], boxes: Sequence[Box]) -> int:
    return sum(map(box.meets, boxes)) + sum(map(box.is_met_by, segments))


def _leader_cost(label: PointLabel, leader: Segment, segments: Sequence[Segment], boxes: Sequence[Box]) -> int:
    own = _around(label.at, 0)
    crossed = sum(_is_crossed(leader, segment) for segment in segments)
    over = sum(box.is_met_by(leader) for box in boxes if not box.meets(own))
    return CROSSED * crossed + OVER_MARK * over


def _is_crossed(one: Segment, other: Segment) -> bool:
    """Return whether two segments cross: the ends of each are on different sides of the other."""
    return all(_side(a, b, c) * _side(a, b, d) < 0 for (a, b), (c, d) in ((one, other), (other, one)))


def _side(a: XY, b: XY, c: XY) -> Number:
    """Return a number whose sign is the side of the line from a to b on which c is."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
