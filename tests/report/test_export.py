"""Figures in files look the same whoever renders them, and tables hold what the page has, at full precision."""

import csv
import io
import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.helpers.records import PROBLEMS, write_record, write_run
from tests.helpers.report_runs import fake_run

from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.report import export, frontier_svg, standalone
from diffpo.report.data import Arm, FrontierPoint
from diffpo.report.palette import ARM_LIGHT
from diffpo.report.sources import read_run
from diffpo.report.write import write_reports

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
COARSE = (42, 24)


@pytest.fixture(scope="module")
def figure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frontier of three arms with a learned sampler, as a file."""
    folder = tmp_path_factory.mktemp("figure")
    arms = read_run(fake_run(folder / "demo")).arms
    (folder / "frontier.svg").write_text(standalone(frontier_svg(arms)))
    return folder / "frontier.svg"


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"), dtype=int)


def coarse(file: Path) -> np.ndarray:
    """Return the picture in few pixels, in which edges of letters and lines do not count."""
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB").resize(COARSE, Image.Resampling.BOX), dtype=float)


def by_cairosvg(svg: Path, png: Path) -> None:
    if not export.can_write_pdf():
        pytest.skip("CairoSVG, or the library that it needs, is not here")
    import_module("cairosvg").svg2png(url=str(svg), write_to=str(png))


def by_rsvg(svg: Path, png: Path) -> None:
    if shutil.which("rsvg-convert") is None:
        pytest.skip("rsvg-convert is not here")
    subprocess.run(["rsvg-convert", str(svg), "-o", str(png)], check=True, timeout=60)


def by_chromium(svg: Path, png: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no Chromium is here")
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={png.parent / 'profile'}"]
    size = "--window-size={},{}".format(*_size(svg))
    command = [CHROMIUM, *options, size, f"--screenshot={png}", svg.as_uri()]
    subprocess.run(command, check=True, timeout=100, capture_output=True)


def _size(svg: Path) -> tuple[int, int]:
    box = svg.read_text().partition('viewBox="')[2].partition('"')[0].split()
    return int(box[2]), int(box[3])


@pytest.mark.parametrize("render", [by_cairosvg, by_rsvg, by_chromium])
def test_every_renderer_shows_the_colours_and_none_is_black(figure: Path, tmp_path: Path, render: object) -> None:
    assert callable(render)
    render(figure, tmp_path / "picture.png")
    found = pixels(tmp_path / "picture.png")
    for colour in ARM_LIGHT[:3]:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(found - wanted).max(axis=-1) <= 4).sum() > 100, colour
    assert (found.max(axis=-1) < 16).mean() < 0.002, "what has no fill that is understood is black"
    assert (found.min(axis=-1) == 255).mean() > 0.6, "on white paper"
    if render is not by_cairosvg:
        by_cairosvg(figure, tmp_path / "other.png")
        differences = np.abs(coarse(tmp_path / "picture.png") - coarse(tmp_path / "other.png"))
        assert differences.mean() < 2 and differences.max() < 70, "only fonts differ"


def test_a_file_has_neither_variables_nor_a_style_sheet(figure: Path) -> None:
    text = figure.read_text()
    assert "var(" not in text and "<style" not in text and "class=" not in text and "paint-order" not in text


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text())))


@pytest.mark.skipif(not export.can_write_pdf(), reason="CairoSVG, or the library that it needs, is not here")
def test_all_figures_and_tables_are_written(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "a", 0.4), write_run(tmp_path / "b", 0.8)]
    out = tmp_path / "figures"
    page, *files = write_reports(paths, tmp_path / "page.html", out)
    charts = {"frontier", "training-accuracy", "training-nfe"}
    assert {file.name for file in files} == {
        *(f"{chart}.{kind}" for chart in charts for kind in ("svg", "pdf")),
        *("points.csv", "arms.csv", "compared.csv", "training.csv"),
    }
    assert page.is_file() and all((out / f"{chart}.pdf").read_bytes().startswith(b"%PDF") for chart in charts)
    b = read_run(paths[1]).arms[0]
    row = next(row for row in rows_of(out / "points.csv") if (row["arm"], row["rule"]) == ("b", b.points[1].rule))
    low, high = b.points[1].ci95
    assert [float(row[f"accuracy{end} %"]) for end in ("", " low", " high")] == pytest.approx(
        [100 * b.points[1].accuracy, 100 * low, 100 * high]
    )
    assert float(row["NFE calls"]) == pytest.approx(b.points[1].nfe) and float(row["NFE low calls"]) < b.points[1].nfe
    assert (row["entropy bound"], row["problems"], row["seeds"]) == ("0.3", str(PROBLEMS), "1")
    compared = rows_of(out / "compared.csv")
    assert {(row["arm"], row["against"]) for row in compared} == {("b", "a")} and len(compared) == 8
    assert float(compared[0]["area difference low"]) > 0
    training = [row for row in rows_of(out / "training.csv") if row["metric"] == "accuracy" and row["arm"] == "a"]
    assert [float(row["mean"]) for row in training] == pytest.approx([0.1, 0.2, 0.3])


def test_each_table_of_a_page_is_a_csv_too(tmp_path: Path) -> None:
    """Those of arms by rule, and of learned samplers by clues: row by row, as the page rounds them."""
    page, *_ = write_reports([fake_run(tmp_path / "demo")], tmp_path / "page.html", tmp_path / "figures")
    tables = re.findall(r"<table.*?</table>", page.read_text(), re.DOTALL)
    points, clues = (rows_of(tmp_path / "figures" / f"{name}.csv") for name in ("points", "clues"))
    in_points = {(row["arm"], f"{float(row['accuracy %']):.1f}", f"{float(row['NFE calls']):.2f}") for row in points}
    in_clues = {
        (row["clues"], row["problems"], f"{float(row['accuracy %']):.1f}", f"{float(row['NFE calls']):.2f}")
        for row in clues
    }
    kinds = []
    for table in tables:
        owner = re.search(r"<caption><b[^>]*><bdi>(.*?)</bdi>", table)
        for row in re.findall(r"<tr.*?</tr>", table.partition("<tbody>")[2], re.DOTALL):
            cells = re.findall(r"<t[hd][^>]*>(?:<bdi>)?(.*?)(?:</bdi>)?</t[hd]>", row)
            if owner:
                assert (owner[1], cells[1], cells[3]) in in_points
            else:
                assert (cells[0], cells[1], cells[3], cells[4]) in in_clues
        kinds.append(bool(owner))
    assert set(kinds) == {True, False}


def test_without_cairosvg_the_rest_is_written_and_a_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cairosvg", None)
    run = write_run(tmp_path / "a", 0.4)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run), "--figures", str(tmp_path / "out")])
    told = capsys.readouterr()
    assert not ended.value.code and told.err.strip() == f"diffpo: {export.NO_PDF}" and told.err.count("\n") == 1
    assert "wrote 6 files of figures and tables" in told.out
    assert not list((tmp_path / "out").glob("*.pdf")) and (tmp_path / "out" / "frontier.svg").is_file()


def test_a_folder_that_cannot_be_written_is_told_before_anything_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    record = write_record(tmp_path / "a.json", 0.5)
    with pytest.raises(UserError, match="choose another --figures"):
        write_reports([record], None, tmp_path / "file")
    assert not (tmp_path / "a.html").exists()


def test_no_cell_is_a_formula() -> None:
    rows: list[list[export.Value]] = [["=cmd()"], ["+1"], ["fine"], [-0.5], [None]]
    assert export.csv_text((["name"], rows)) == "name\n'=cmd()\n'+1\nfine\n-0.5\n\"\"\n"


@pytest.mark.parametrize("width", [320, 380, 760])
def test_names_of_axes_are_whole_at_any_width(width: int) -> None:
    points = [FrontierPoint(f"b{i}", "entropy-bound", 0.9, (0.85, 0.95), 4.0 + i, 600) for i in range(2)]
    svg = frontier_svg([Arm("d1", tuple(points), seeds=(0, 1, 2))], width, 400)
    assert ", log scale<" in svg and ">n = 600 problems, 3 seeds<" in svg and "\N{HORIZONTAL ELLIPSIS}" not in svg
    assert ("mean denoiser calls per problem (NFE), log scale<" in svg) == (width == 760)


def test_long_names_are_cut_short_and_stay_in_the_picture() -> None:
    point = FrontierPoint("entropy bound 1", "entropy-bound", 0.9, (0.85, 0.95), 4.0, 600)
    name = "a-run-with-a-very-long-name-" * 8
    svg = frontier_svg([Arm(f"{name}{i}", (point,), place=i) for i in range(3)])
    assert svg.count(f"<title>{name}") >= 3 and f">{name}" not in svg.replace(f"<title>{name}", "")
    assert ", log scale<" in svg and ">n = 600 problems<" in svg and ">from 84 % up<" in svg
