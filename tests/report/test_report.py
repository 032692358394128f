"""The page is checked as text: what it refers to, what it escapes, what it says when something is missing."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.helpers.report_runs import ANSWER, N, fake_run, point

from diffpo.core.errors import UserError
from diffpo.report import frontier_svg, read_run, standalone, table_text, write_report
from diffpo.report.charts import by_clues, curve
from diffpo.report.data import Arm, FrontierPoint
from diffpo.report.page import render
from diffpo.report.palette import ARM_LIGHT
from diffpo.report.reading import arms_of_summary
from diffpo.report.sentences import basis, representative
from diffpo.report.svg import linear_axis, log_axis


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return fake_run(tmp_path / "demo")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# -------------------------------------------------------------------------------------------------------- the page


class Wellformed(HTMLParser):
    """Counts elements and notes where the nesting of tags does not close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.seen: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        if tag not in {"meta", "br", "input"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"{tag} at {self.getpos()}")


def test_the_page_is_one_wellformed_file_that_refers_to_nothing_outside(run_dir: Path) -> None:
    out = write_report(run_dir)
    html = out.read_text()
    assert out == run_dir / "report.html"
    for reference in ("http:", "https:", "//", "url(", "@import", "<link", "<img", "<iframe", " src="):
        assert reference not in html, reference
    page = Wellformed()
    page.feed(html)
    assert page.faults == [] and page.open == []
    assert page.seen["script"] == 1 and page.seen["svg"] > 8
    samples = html.count('<svg class="chart sample"')  # of legends
    assert html.count('role="img" aria-label="') == page.seen["svg"] - samples + 3  # charts and boards
    assert "nan" not in re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.S)
    assert [path.name for path in run_dir.iterdir() if path.name.startswith(".")] == []


def test_the_page_is_a_pure_function_of_the_files(run_dir: Path, tmp_path: Path) -> None:
    first = write_report(run_dir).read_bytes()
    second = write_report(run_dir, tmp_path / "new" / "place.html").read_bytes()
    assert first == second


def test_text_of_a_model_cannot_become_markup(run_dir: Path) -> None:
    hostile = '"><script>alert(1)</script>'
    found = json.loads((run_dir / "eval" / "diffpo.json").read_text())
    play = found["playback"][0]
    play.update(prompt=hostile, completion="<b>&\"'" + "1" * 11, solved=False, answer="<i>" + ANSWER[3:])
    found["points"][0].update(rule=hostile, accuracy=0.99, ci95=[0.98, 1.0])
    found["learned"] = None
    edit(run_dir / "eval" / "diffpo.json", learned=None, playback=[play], points=found["points"])
    for arm in ("base", "d1", "diffpo"):
        edit(run_dir / "eval" / f"{arm}.json", task=hostile)
    html = write_report(run_dir).read_text()
    assert html.count("<script") == 1
    assert "<b>&" not in html and "<i>" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3  # headline, table, facts, tooltip


def test_an_evaluation_beside_a_run_is_that_runs(run_dir: Path, tmp_path: Path) -> None:
    """`diffpo eval RUN` writes RUN/eval.json."""
    for arm in ("d1", "diffpo"):
        (tmp_path / "runs" / arm).mkdir(parents=True)
        for name, file in (("eval.json", f"eval/{arm}.json"), ("metrics.jsonl", f"{arm}/metrics.jsonl")):
            (tmp_path / "runs" / arm / name).write_text((run_dir / file).read_text())
    both = read_run(tmp_path / "runs")
    assert [arm.name for arm in both.arms] == ["d1", "diffpo"]
    assert all(arm.is_evaluated and arm.metrics for arm in both.arms)
    (one,) = read_run(tmp_path / "runs" / "diffpo").arms
    assert replace(one, place=1) == both.arms[1]


@pytest.mark.parametrize("name", ["summary.json", "eval", "d1", "eval/diffpo.json", "diffpo/metrics.jsonl"])
def test_a_missing_piece_is_no_crash(run_dir: Path, name: str) -> None:
    target = run_dir / name
    if target.is_dir():
        for path in target.iterdir():
            path.unlink()
        target.rmdir()
    else:
        target.unlink()
    html = write_report(run_dir).read_text()
    assert "DiFFPO" in html and html.rstrip().endswith("</html>")


def test_a_missing_arm_is_named(run_dir: Path) -> None:
    edit(run_dir / "summary.json", arms={})
    (run_dir / "eval" / "d1.json").unlink()
    (run_dir / "d1" / "metrics.jsonl").unlink()
    assert "This demo is not finished without d1, any-speed; the same command" in write_report(run_dir).read_text()


def test_an_arm_that_is_only_in_the_log_is_not_evaluated_and_a_lone_log_is_a_report(tmp_path: Path) -> None:
    (tmp_path / "d1").mkdir()
    (tmp_path / "d1" / "metrics.jsonl").write_text('{"step": 0, "accuracy": 0.1}\n{"step": 1, "loss": 0.5}\n')
    html = write_report(tmp_path).read_text()
    assert "Nothing was evaluated in this run yet." in html
    assert "No evaluation was found" in html and "No play-back" in html and "No training log" in html


def test_of_many_arms_the_differences_are_folded(run_dir: Path) -> None:
    few = render(read_run(run_dir))
    for i in range(9):
        (run_dir / "eval" / f"run {i}.json").write_text((run_dir / "eval" / "d1.json").read_text())
    many = render(read_run(run_dir))
    folded = re.compile(r"with intervals</summary>.*?points more than run 8.*?</details>", re.S)
    assert folded.search(many) and "7 more are under the differences, with intervals." in many
    assert (few.count("points more than d1"), many.count("points more than run 8")) == (1, 1)
    assert 'class="figures many"' in many and 'class="figures"' in few


def test_a_training_run_by_itself_is_an_arm(tmp_path: Path) -> None:
    shares = ("accuracy", "importance_weight_ess", "importance_weight_capped", "group_weight_ess")
    lines = [json.dumps({"step": i, "denoiser_calls": 10 * i} | dict.fromkeys(shares, 0.1 * i)) for i in range(5)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    html = write_report(tmp_path).read_text()
    assert f"training problems solved in training: {tmp_path.name} ends at 40 %" in html
    assert html.count(f" in training: {tmp_path.name} ends at 40 %") == 2 * len(shares)  # label and title of each


@pytest.mark.parametrize("exists", [True, False])
def test_nothing_to_report(tmp_path: Path, exists: bool) -> None:
    where = tmp_path / "run"
    if exists:
        where.mkdir()
    with pytest.raises(UserError, match=rf"{where}: (nothing to report|no such run).*give a run"):
        write_report(where)
    assert not (where / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d1/metrics.jsonl", '{"step": 0}\n{"step": 1\n{"step": 2}\n', r"d1/metrics.jsonl:2: not JSON"),
        ("d1/metrics.jsonl", '{"step": 0}\n\n[1]\n', r"d1/metrics.jsonl:3: a JSON object is needed"),
        (
            "d1/metrics.jsonl",
            '{"step": 0}\n{"solved": 1}\n',
            r"d1/metrics.jsonl:2: .*'solved' is called 'accuracy' now; con",
        ),
        (
            "d1/metrics.jsonl",
            '{"weight_ess": 1}\n',
            r"jsonl:1: the metric 'weight_ess' is called 'group_weight_ess' now",
        ),
        (
            "d1/metrics.jsonl",
            '{"weight_ess": 1, "weight_floored": 0}\n',
            r"jsonl:1: the metric 'weight_ess' is called 'importance_weight_ess' now",
        ),
        ("summary.json", '{"seed": 0,\n"arms": {,}}', r"summary.json:2: not JSON"),
        ("summary.json", '{"wall_s": Infinity}', r"summary.json: the field 'wall_s' .* is inf"),
        ("summary.json", '{"wall_s": "long"}', r"summary.json: the field 'wall_s' should be a number of at least 0"),
        (
            "summary.json",
            '{"seed": ' + "9" * 5000 + "}",
            r"summary.json:1: not JSON that can be read \(Exceeds the limit",
        ),
        ("eval/d1.json", "[" * 5000, r"eval/d1.json:1: not JSON that can be read \(maximum recursion"),
        ("eval/d1.json", "half \udcff", r"eval/d1.json:1: not JSON, for it is no UTF-8"),
        ("d1/metrics.jsonl", "half \udcff\n", r"d1/metrics.jsonl:1: not JSON, for it is no UTF-8"),
        (
            "eval/d1.json",
            '{"points": [{"accuracy": 1, "ci95": [0, 1], "nfe": 1, "n": Infinity}]}',
            r"eval/d1.json: the field 'points\[0\].n' should be a whole number of at least 1, and is inf",
        ),
        ("summary.json", '{"arms": {"d1": 3}}', r"summary.json: the field 'arms.d1' should be an object, and is 3;"),
        (
            "eval/d1.json",
            '{"points": [{"rule": "top-2"}]}',
            r"eval/d1.json: the field 'points\[0\].accuracy' is missing",
        ),
        (
            "eval/d1.json",
            '{"area": {"value": 1, "ci95": [0]}}',
            r"the field 'area.ci95' should be a list of two numbers from 0 to 1",
        ),
    ],
)
def test_a_broken_file_is_named_with_its_line(run_dir: Path, name: str, content: str, message: str) -> None:
    (run_dir / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=message):
        write_report(run_dir)


def test_a_line_that_is_being_written_is_left_out(run_dir: Path) -> None:
    log = run_dir / "d1" / "metrics.jsonl"
    complete = read_run(run_dir)
    log.write_text(log.read_text() + '{"step": 150, "sol')
    assert read_run(run_dir) == complete


def test_what_is_not_a_number_is_not_drawn(run_dir: Path) -> None:
    values = (0.1, "NaN", 0.3, "null")
    (run_dir / "d1" / "metrics.jsonl").write_text(
        "".join(f'{{"step": {i}, "denoiser_calls": {i}, "accuracy": {v}}}\n' for i, v in enumerate(values))
    )
    assert curve(read_run(run_dir).arms[1].metrics, "denoiser_calls", "accuracy") == [
        (0, 0.1, 0.1, 0.1),
        (2, 0.3, 0.3, 0.3),
    ]


def test_importing_the_report_imports_no_torch() -> None:
    code = "import sys, diffpo.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --------------------------------------------------------------------------------------------- sentences and figures

A = point("entropy bound 0.1", 0.40, 8.0)
B = point("entropy bound 1", 0.20, 2.0)
SUMMARY = {
    "arms": {
        "base": {"frontier": [A, B]},
        "diffpo": {"frontier": [A], "learned": point("learned", 0.7, 3.2), "area": {"value": 0.5, "ci95": [0.4, 0.6]}},
    }
}


def test_the_table_of_the_terminal() -> None:
    assert table_text(arms_of_summary(SUMMARY)).splitlines() == [
        "arm     rule               accuracy %  95 % interval   NFE  problems                  area  AUP",
        "------  -----------------  ----------  -------------  ----  --------  --------------------  ---",
        "base    entropy bound 0.1        40.0   [36.0, 44.0]  8.00       120                     -    -",
        "        entropy bound 1          20.0   [16.0, 24.0]  2.00       120",
        "diffpo  learned sampler          70.0   [66.0, 74.0]  3.20       120  0.500 [0.400, 0.600]    -",
        "        entropy bound 0.1        40.0   [36.0, 44.0]  8.00       120",
    ]
    assert table_text(()).startswith("arm  rule")


def test_the_basis_of_the_headline_is_computed() -> None:
    assert basis(arms_of_summary(SUMMARY), {}, "diffpo") == (
        "diffpo with its learned sampler solves 30 points more than the base model (40 % in 8.0), "
        "in 2.5\N{MULTIPLICATION SIGN} fewer calls."
    )


def test_the_basis_of_the_headline_admits_a_loss() -> None:
    # The base's mixture of (2, 0.2) and (8, 0.4) has 0.3 at 5 calls.
    arms = {**SUMMARY["arms"], "diffpo": {"learned": point("learned", 0.3, 9.6)}}
    assert str(basis(arms_of_summary({"arms": arms}), {}, "diffpo")).endswith(
        "10 points less than the base model (40 % in 8.0), which for the same accuracy needs 5.0 calls."
    )
    arms = {**SUMMARY["arms"], "diffpo": {"learned": point("learned", 0.4, 16.0)}}
    assert str(basis(arms_of_summary({"arms": arms}), {}, "diffpo")).endswith(
        "as many as the base model (40 % in 8.0), in 2.0\N{MULTIPLICATION SIGN} as many calls."
    )


def test_an_arm_is_not_represented_by_a_slow_rule_that_leads_by_noise() -> None:
    slow, fast, worse = (FrontierPoint("r", "r", a, (a, a), c, N) for a, c in ((0.405, 16.0), (0.4, 8.0), (0.39, 4.0)))
    assert representative(Arm("d1", (slow, fast, worse))) == fast


def test_the_picture_stands_alone(run_dir: Path) -> None:
    root = ElementTree.fromstring(standalone(frontier_svg(read_run(run_dir).arms)))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    space = {"s": "http://www.w3.org/2000/svg"}
    assert len(root.findall(".//s:polyline", space)) == 3
    _, d1, diffpo = ARM_LIGHT[:3]
    assert len(root.findall(f".//s:line[@stroke='{d1}'][@opacity]", space)) == 7  # 6 bounds and another rule
    assert len(root.findall(f".//s:polygon[@fill='{diffpo}']", space)) == 8  # 6 bounds, the star, the legend


def test_a_dense_line_has_a_band_in_place_of_bars() -> None:
    points = tuple(
        FrontierPoint(f"entropy bound {i}", "entropy-bound", 0.5 + i / 50, (0.4, 0.9), 1.0 + i, N) for i in range(9)
    )
    other = FrontierPoint("top-k 2", "top-k", 0.5, (0.4, 0.6), 8.0, N)
    svg = frontier_svg([Arm("d1", (*points, other))])
    assert svg.count('class="band arm-0 dash-0"') == 1 and svg.count('class="bar ') == 1, "the other rule keeps its bar"
    assert svg.count("<title>d1, ") == 10
    assert 'class="band' not in frontier_svg([Arm("d1", (*points[:8], other))])


def test_by_clues() -> None:
    assert by_clues([5, 4, 5], [1.0, 0.5, 0.0]) == {4: 0.5, 5: 0.5}
    assert by_clues([5, 4], []) == {}


def test_a_long_curve_is_thinned_to_means_and_ranges() -> None:
    log = [{"x": float(i), "y": float(i % 2)} for i in range(240)]
    found = curve([*log, {"x": 3.0}], "x", "y")
    assert len(found) == 40
    assert found[0] == pytest.approx((5, 0.5, 0, 1), rel=1e-12)
    assert [len(curve(log[:n], "x", "y")) for n in (0, 1, 40, 41)] == [0, 1, 40, 40]
    assert found[-1][0] == 239


def test_axes() -> None:
    assert linear_axis([0.0, 0.93], floor=0).ticks == (0, 0.2, 0.4, 0.6, 0.8, 1)
    assert linear_axis([18.0, 104.0], floor=0, ceiling=100, ticks=5).ticks == (0, 20, 40, 60, 80, 100)
    assert linear_axis([5.0, 5.0]).lo < 5 < linear_axis([5.0, 5.0]).hi
    axis = log_axis([1.7, 9.0])
    assert axis.ticks == (1, 2, 4, 8, 16)
    assert (axis.at(1), axis.at(4), axis.at(16), axis.at(0)) == pytest.approx((0, 0.5, 1, 0), abs=1e-12)


def test_two_renderings_of_one_run_are_equal(run_dir: Path) -> None:
    run = read_run(run_dir)
    assert render(run) == render(run)
