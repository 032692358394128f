"""Names of points lie on no line, mark or other name: measured on what is drawn, at points along it."""

import random
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from tests.report.test_price_curve import CURVE, FIXED, point, priced

from diffpo.report.data import Arm, FrontierPoint, LearnedSampler, PriceCurve
from diffpo.report.frontier_figure import frontier_svg
from diffpo.report.labels import Box, PointLabel, labels_svg
from diffpo.report.svg import FONT_SIZE, text_width
from diffpo.statistics.intervals import Estimate

Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def names_in(svg: str) -> dict[str, Rectangle]:
    """Return where the letters of each label are; a letter's foot is on y."""
    found = {}
    for x, y, anchor, name in re.findall(
        r'<text class="label" x="([^"]+)" y="([^"]+)" text-anchor="(\w+)">([^<]+)', svg
    ):
        width = text_width(name)
        left = float(x) - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        found[name] = (left, float(y) - 0.75 * FONT_SIZE, left + width, float(y))
    return found


def drawn_in(svg: str) -> np.ndarray:
    """Return points along all that an arm draws, bands apart, and the legend's keys too."""
    points = []
    for element in ElementTree.fromstring(svg).iter():
        kind = element.get("class", "").split(" ")[0]
        if kind not in ("line", "bar", "mark"):
            continue
        given = element.attrib
        if "cx" in given:
            points.append(np.array([[float(given["cx"]), float(given["cy"])]]))
            continue
        if "x1" in given:
            corners = [[float(given["x1"]), float(given["y1"])], [float(given["x2"]), float(given["y2"])]]
        else:
            corners = [[float(value) for value in pair.split(",")] for pair in given["points"].split(" ")]
        shares = np.linspace(0, 1, 400)[:, None]
        points += [a + shares * (b - a) for a, b in zip(np.array(corners), np.array(corners)[1:], strict=False)]
    return np.concatenate(points)


def covered(svg: str) -> list[str]:
    """Return the names that lie on something that is drawn, or on another name."""
    names, drawn = names_in(svg), drawn_in(svg)
    x, y = drawn.T
    found = [
        name
        for name, (left, top, right, bottom) in names.items()
        if ((left < x) & (x < right) & (top < y) & (y < bottom)).any()
    ]
    boxes = list(names.items())
    return found + [
        f"{one} and {other}"
        for i, (one, a) in enumerate(boxes)
        for other, b in boxes[:i]
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]


def crowded() -> list[Arm]:
    """Four arms of many rules whose lines fill the picture, a star, and near points with prices."""
    drawn = random.Random(3)
    lines = [
        tuple(
            point(f"entropy bound {i}", min(base + 0.03 * i + drawn.uniform(0, 0.03), 1.0), 16 * 0.8**i)
            for i in range(11)
        )
        for base in (0.1, 0.3, 0.5)
    ]
    curve = tuple(point(f"commit risk {i}", 0.62 + 0.09 * i, 3.0 + 0.3 * i, "commit-risk") for i in range(5))
    prices = {0.1 * (i + 1): found.rule for i, found in enumerate(curve)}
    no_gain = Estimate(0.0, (-0.1, 0.1))
    return [
        Arm("base", lines[0], place=0),
        Arm("DiFFPO", lines[1], LearnedSampler(point("learned", 0.5, 5.0)), place=1),
        Arm("any-speed", lines[2], price_curve=PriceCurve(curve, prices, no_gain, no_gain), place=2),
    ]


def near() -> list[Arm]:
    """A sampler with prices at two points that are nearly one."""
    beside = replace(CURVE[1], rule="commit risk 0.6", nfe=4.1, accuracy=0.86)
    prices = {0.0: "entropy bound 0", 0.1: "commit risk 0.6", 0.3: "commit risk 0.5"}
    curve = replace(priced().price_curve or pytest.fail(), points=(*CURVE[:2], beside, CURVE[2]), prices=prices)
    return [replace(priced(), price_curve=curve)]


def at_the_edges() -> list[Arm]:
    """Samplers at both ends of the axes, where there is no room above, or beside."""
    ends: list[FrontierPoint] = [point("learned", 1.0, 1.0), point("learned", 0.98, 16.0)]
    return [Arm(f"arm {i}", FIXED, LearnedSampler(end), place=i) for i, end in enumerate(ends)]


@pytest.mark.parametrize("width", [380, 760])
@pytest.mark.parametrize("arms", [near(), crowded(), at_the_edges()], ids=["near", "crowded", "edges"])
def test_no_name_lies_on_what_is_drawn_or_leaves_the_picture(arms: list[Arm], width: int) -> None:
    svg = frontier_svg(arms, width, 400)
    names = names_in(svg)
    num_named = sum(len(set(arm.price_curve.prices.values())) if arm.price_curve else bool(arm.learned) for arm in arms)
    of_legend = {
        name for arm in arms for name in (arm.name, *([f"{arm.name}, fixed rules"] if arm.price_curve else []))
    }
    assert len(names) == num_named + len(of_legend), "those of the legend, too"
    assert covered(svg) == []
    assert all(left > 0 and right < width for left, _, right, _ in names.values())
    assert min(box[1] for name, box in names.items() if name not in of_legend) > max(names[arm][3] for arm in of_legend)


def test_a_name_is_beside_its_mark_where_there_is_room_and_else_has_a_line_to_it() -> None:
    room = Box(0, 0, 400, 300)
    alone = "".join(labels_svg([PointLabel("price 1", (200, 150))], [], [(200, 150)], room))
    assert "leader" not in alone and 'x="200"' in alone and 'text-anchor="middle"' in alone
    fence = [[(120, y), (280, y)] for y in range(110, 191, 8)]
    away = "".join(labels_svg([PointLabel("price 1", (200, 150))], fence, [(200, 150)], room))
    left, top, right, bottom = names_in(away)["price 1"]
    assert away.count('class="leader"') == 1 and (right < 120 or left > 280 or bottom < 110 or top > 190)


def test_a_line_to_a_name_crosses_no_more_than_it_must() -> None:
    """Of two equally near places the one behind a line costs more."""
    around = [(185, 135), (215, 135), (215, 165), (185, 165), (185, 135)]
    fence = [around, [(150, 131), (250, 131)], [(150, 129), (250, 129)]]
    svg = "".join(labels_svg([PointLabel("price 1", (200, 150), 11)], fence, [], Box(0, 0, 400, 300)))
    assert names_in(svg)["price 1"][1] > 161


def test_a_name_without_a_line_is_nearest_to_its_own_mark() -> None:
    drawn = random.Random(5)
    room, joined = Box(0, 0, 400, 300), 0
    for gap in (4, 9, 14, 20, 30, 60) * 5:
        marks = [(100.0 + gap * i, 150 + drawn.uniform(-4, 4)) for i in range(5)]
        leaders, names = labels_svg([PointLabel("price 0.1, 0.3", marks[2])], [marks], marks, room)
        (left, top, right, bottom) = names_in(names)["price 0.1, 0.3"]
        far = [np.hypot(x - (left + right) / 2, y - (top + bottom) / 2) for x, y in marks]
        joined += bool(leaders)
        assert leaders or (min(far) == far[2] and sorted(far)[1] > far[2] + 2), "marks of a name are told apart by eye"
        for x1, y1, x2, y2 in re.findall(r'x1="(.*?)" y1="(.*?)" x2="(.*?)" y2="(.*?)"', leaders):
            start, end = (np.array(point, dtype=float) for point in ((x1, y1), (x2, y2)))
            assert np.allclose(start, marks[2], atol=0.06), "it ends in the middle of its mark"
            way = start + np.linspace(0, 1, 100)[:, None] * (end - start)
            others = [mark for mark in marks if np.hypot(*(start - mark)) > 8]
            assert all(np.abs(way - mark).max(axis=1).min() > 4 for mark in others)
    assert 0 < joined < 30


def test_a_line_to_a_name_goes_past_a_mark_and_not_over_it() -> None:
    fence = [[(60, y), (340, y)] for y in range(124, 300, 8)]
    leaders, _ = labels_svg([PointLabel("price 1", (200, 150))], fence, [(200, 150), (200, 132)], Box(0, 0, 400, 300))
    ((x, y),) = re.findall(r'x2="(.*?)" y2="(.*?)"', leaders)
    share = (150 - 132) / (150 - float(y))
    assert float(y) < 132 and abs(share * (float(x) - 200)) > 4
