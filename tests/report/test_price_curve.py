"""A report of a sampler with prices: a curve in place of a star, and sentences that claim no more than it shows."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from diffpo.core.errors import UserError
from diffpo.report.data import Arm, FrontierPoint, LearnedSampler, PriceCurve, ReportedRun
from diffpo.report.frontier_figure import frontier_svg
from diffpo.report.headline import headline
from diffpo.report.learned import price_sentences
from diffpo.report.page import render
from diffpo.report.sentences import figures, representative
from diffpo.report.sources import read_run
from diffpo.report.table import table_rows
from diffpo.report.write import write_report
from diffpo.statistics.intervals import Estimate, Interval


def point(rule: str, accuracy: float, nfe: float, kind: str = "entropy-bound") -> FrontierPoint:
    return FrontierPoint(rule, kind, accuracy, (accuracy - 0.03, accuracy + 0.03), nfe, 600)


FIXED = (point("entropy bound 0", 0.9, 16.0), point("entropy bound 1", 0.6, 2.0))
CURVE = (
    point("commit risk 10", 0.5, 1.0, "commit-risk"),
    point("commit risk 0.5", 0.85, 4.0, "commit-risk"),
    point("entropy bound 0", 0.9, 16.0),
)
PRICES = {0.0: "entropy bound 0", 0.1: "commit risk 0.5", 0.3: "commit risk 0.5"}


def priced(gain: Interval = (0.01, 0.05)) -> Arm:
    curve = PriceCurve(CURVE, PRICES, Estimate(0.7, (0.65, 0.75)), Estimate(sum(gain) / 2, gain))
    return Arm("mine", FIXED, price_curve=curve, best_constants={0.1: "entropy bound 1"})


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [((0.01, 0.05), "ahead of"), ((-0.05, -0.01), "behind"), ((-0.02, 0.03), "not told apart from")],
)
def test_the_gain_in_area_is_told_with_its_interval_and_no_more(gain: Interval, verdict: str) -> None:
    (sentence,) = price_sentences(priced(gain))
    assert "has an area of 0.700 [0.650, 0.750]" in sentence
    assert (
        f"differs by {sum(gain) / 2:+.3f} [{gain[0]:+.3f}, {gain[1]:+.3f}] from that of the 2 fixed rules" in sentence
    )
    assert sentence.endswith(f"So it is {verdict} fixed rules here.")
    assert price_sentences(Arm("d1", FIXED)) == []


def test_the_picture_has_a_curve_with_prices_and_no_star() -> None:
    svg = frontier_svg([priced()])
    assert "price 0.1, 0.3" in svg and ">price 0<" in svg and svg.count("price ") >= 3
    assert "mine, learned sampler, commit risk 10: 50.0 %" in svg and 'curve"' in svg and " minor" in svg
    starred = LearnedSampler(CURVE[1])
    both = frontier_svg([Arm("mine", FIXED, starred, price_curve=priced().price_curve)])
    assert both == svg, "the rule of one price is on the curve"
    plain = frontier_svg([Arm("mine", FIXED, starred)])
    assert "price" not in plain and " minor" not in plain


def drawn(svg: str, element: str) -> set[str]:
    """Return the classes of lines that are drawn by an element, the order of their names apart."""
    return {" ".join(sorted(found.split())) for found in re.findall(rf'<{element} class="(line [^"]+)"', svg)}


def test_a_legend_has_each_line_and_mark_as_it_is_drawn() -> None:
    other = point("top-k 2", 0.5, 4.0, "top-k")
    bounds, rows = (0.1, 0.2, 0.3, 0.4), (4.0, 4.0, 2.0, 2.0)
    seen = replace(CURVE[1], n=4, solved=(0.0, 0.0, 1.0, 1.0), nfe_rows=rows)
    fixed = replace(FIXED[1], n=4, solved=seen.solved, nfe_rows=rows)
    puzzles = Arm("DiFFPO", (fixed, other), LearnedSampler(seen, bounds), clues=(5, 5, 9, 9), place=2)
    svg = frontier_svg([replace(priced(), place=3), puzzles])
    lines, keys = drawn(svg, "polyline"), drawn(svg, "line")
    assert len(lines) == 3 and lines == {key.replace("hollow ", "") for key in keys}
    log = ({"step": 1.0, "denoiser_calls": 1.0, "nfe": 3.0}, {"step": 2.0, "denoiser_calls": 2.0, "nfe": 2.0})
    page = render(ReportedRun("r", (replace(puzzles, metrics=log),)))
    part = page.partition('id="prompts"')[2]
    for section in part.partition('id="diagnostics"')[::2]:
        lines, keys = drawn(section, "polyline"), drawn(section, "line")
        assert lines and lines == keys
    samples = "".join(re.findall(r'<svg class="chart sample".*?</svg>', part))
    assert samples.count('"mark ') == 1, "the learned sampler's alone: neither the constant nor training has marks"


def test_a_price_of_a_tenth_stands_for_the_arm() -> None:
    assert representative(priced()) == CURVE[1]
    assert [(figure.rule, figure.nfe) for figure in figures([priced()])] == [
        ("learned sampler, price 0.1: commit risk 0.5", "4.0")
    ]
    assert headline([priced()]) == "mine solves 85 % of 600 unseen problems in 4.0 calls."


def test_the_table_has_a_row_for_each_price() -> None:
    rows = table_rows([priced()])
    assert [(row.cells[1], row.is_learned) for row in rows] == [
        ("learned sampler, price 0", True),
        ("learned sampler, price 0.1", True),
        ("learned sampler, price 0.3", True),
        ("entropy bound 0", False),
        ("entropy bound 1", False),
    ]
    assert rows[1].cells[2] == "85.0" and [row.is_first for row in rows] == [True, False, False, False, False]


def test_the_area_that_is_compared_stands_in_the_table() -> None:
    arm = replace(priced(), area=Estimate(0.6, (0.5, 0.7)))
    page = render(ReportedRun("r", (arm,)))
    assert "area of its sampler, which is compared, 0.700 [0.650, 0.750]" in page
    assert "area of its fixed rules 0.600 [0.500, 0.700]" in page
    assert "area 0.600 [0.500, 0.700]" in render(ReportedRun("r", (replace(arm, price_curve=None),)))


@pytest.mark.parametrize(
    ("rule", "word"), [("entropy bound 0", ""), ("entropy bound 1 (plain sum)", "plain sum: "), ("commit risk 1", "c")]
)
def test_a_rule_of_a_name_that_is_not_plain_is_explained_where_it_first_stands(rule: str, word: str) -> None:
    (figure,) = figures([Arm("d1", (point(rule, 0.5, 2.0),))])
    assert figure.explained.startswith(word) and bool(figure.explained) == bool(word)
    assert figure.explained in render(ReportedRun("r", (Arm("d1", (point(rule, 0.5, 2.0),)),)))


def test_a_record_is_read_and_a_page_made_of_it(tmp_path: Path) -> None:
    def row(p: FrontierPoint) -> dict[str, object]:
        return {key: getattr(p, key) for key in ("rule", "kind", "accuracy", "ci95", "nfe", "n")}

    curve = {
        "points": [row(p) for p in (CURVE[1], CURVE[0], CURVE[2])],
        "prices": [{"price": price, "rule": rule} for price, rule in PRICES.items()],
        "area": {"value": 0.7, "ci95": [0.65, 0.75]},
        "area_gain": {"value": 0.03, "ci95": [0.01, 0.05]},
    }
    record = {"points": [row(p) for p in FIXED], "price_curve": curve, "completion_length": 16}
    file = tmp_path / "eval.json"
    file.write_text(json.dumps(record))
    (arm,) = read_run(tmp_path).arms
    # The record has the points by their calls on validation problems, the line by those that it shows.
    assert arm.price_curve == PriceCurve(CURVE, PRICES, Estimate(0.7, (0.65, 0.75)), Estimate(0.03, (0.01, 0.05)))
    page = write_report(tmp_path).read_text()
    assert "So it is ahead of fixed rules here." in page and "price 0.1, 0.3" in page
    file.write_text(json.dumps(record | {"price_curve": None}))
    assert read_run(tmp_path).arms[0].price_curve is None
    file.write_text(json.dumps(record | {"price_curve": {key: curve[key] for key in curve if key != "area"}}))
    with pytest.raises(UserError, match=r"eval\.json: the field 'price_curve.area' is missing"):
        read_run(tmp_path)
