"""The figures of a report as SVG and PDF, and its tables as CSV, for a paper or a program."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from diffpo.core.files import check_writable, explain_write_errors, write_whole
from diffpo.report.charts import by_clues, clue_charts, curve, training_svg
from diffpo.report.data import Arm, FrontierPoint, ReportedRun
from diffpo.report.figure_file import standalone
from diffpo.report.file_names import file_name
from diffpo.report.frontier_figure import frontier_svg
from diffpo.report.training_logs import RL, SFT, with_log

NO_PDF = (
    "no PDF was written, for CairoSVG is not here (pip install 'diffpo[figures]', and the system's cairo library); the "
    "SVG files have the same figures"
)
OPTION = "--figures"
Value = str | int | float | None
Row = Sequence[Value]
Table = tuple[Sequence[str], Sequence[Row]]
"""Header and rows; None is an empty cell."""


def interval_headers(name: str, unit: str = "") -> tuple[str, str, str]:
    """Return the headers of a value and the ends of its 95 % interval."""
    behind = f" {unit}" if unit else ""
    return f"{name}{behind}", f"{name} low{behind}", f"{name} high{behind}"


SIZE = ("problems", "seeds")
POINTS = (
    "arm",
    "rule",
    "kind",
    "entropy bound",
    "prices",
    *interval_headers("accuracy", "%"),
    *interval_headers("NFE", "calls"),
    *SIZE,
)
ARMS = (
    *(
        "arm",
        "task",
        "split",
        *interval_headers("area"),
        *interval_headers("area of its sampler"),
        *interval_headers("AUP"),
    ),
    "best accuracy that AUP is relative to %",
    *("denoiser calls of training", *SIZE),
)
COMPARED = (
    *(
        "arm",
        "against",
        "within NFE calls",
        *interval_headers("accuracy difference", "points"),
        *interval_headers("area difference"),
    ),
    *SIZE,
)
CLUES = ("arm", "clues", "problems", "mean entropy bound", "accuracy %", "NFE calls")
TRAINING = ("arm", "seed", "metric", "x", "unit of x", "mean", "lowest", "highest")


def write_figures(runs: Sequence[ReportedRun], folder: Path) -> list[Path]:
    """Write all figures and tables of reports into a folder and return their files.

    PDF are written where CairoSVG is installed. With several reports names begin with their tasks. Raises UserError
    where the folder cannot be written.
    """
    charts: dict[str, str] = {}
    texts: dict[str, str] = {}
    for run in runs:
        prefix = f"{file_name(str(run.task))}-" if len(runs) > 1 else ""
        charts |= {f"{prefix}{name}": standalone(svg) for name, svg in figures_of(run)}
        texts |= {f"{prefix}{name}.csv": csv_text(table) for name, table in tables_of(run).items()}
    return write_files(folder, charts, texts)


def write_files(folder: Path, charts: Mapping[str, str], texts: Mapping[str, str]) -> list[Path]:
    """Write standalone charts, by name, as SVG and where possible as PDF, and texts by their files' names."""
    check_writable(folder, OPTION, is_folder=True)
    contents: dict[str, str | bytes] = dict(texts)
    has_pdf = can_write_pdf()
    for name, svg in charts.items():
        contents[f"{name}.svg"] = svg
        if has_pdf:
            contents[f"{name}.pdf"] = import_module("cairosvg").svg2pdf(bytestring=svg.encode())
    for file, content in contents.items():
        with explain_write_errors(folder / file, OPTION):
            write_whole(folder / file, content)
    return [folder / file for file in sorted(contents)]


def can_write_pdf() -> bool:
    """Return whether CairoSVG and the library that it needs are there."""
    try:
        import_module("cairosvg")
    except (ImportError, OSError):
        return False
    return True


def figures_of(run: ReportedRun) -> Iterator[tuple[str, str]]:
    """Yield the name and the chart of each figure, each with a legend of its own."""
    if evaluated := [arm for arm in run.arms if arm.is_evaluated]:
        yield "frontier", frontier_svg(evaluated)
    for arm in evaluated:
        for name, svg in clue_charts(arm, has_legend=True).items():
            yield f"clues-{file_name(arm.name)}-{file_name(name)}", svg
    for kind in (RL, SFT):
        arms = with_log(run.arms, kind)
        for y, label in kind.curves.items():
            if drawn := training_svg(arms, kind.x, kind.x_label, y, label, has_legend=True):
                yield f"{kind.name}-{file_name(y)}", drawn


def tables_of(run: ReportedRun) -> dict[str, Table]:
    """Return each table by its name, at full precision, intervals as columns of their own; empty ones are left out."""
    found: dict[str, Table] = {
        "points": (POINTS, [_point_row(arm, *pair) for arm in run.arms for pair in _points(arm)]),
        "arms": (ARMS, [_arm_row(arm) for arm in run.arms]),
        "compared": (COMPARED, list(_compared_rows(run))),
        "clues": (CLUES, [row for arm in run.arms for row in _clue_rows(arm)]),
        "training": (TRAINING, list(_training_rows(run.arms))),
    }
    return {name: table for name, table in found.items() if table[1]}


def csv_text(table: Table) -> str:
    """Return a table as CSV. A text that a spreadsheet would take for a formula gets an apostrophe before it."""
    header, rows = table
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return file.getvalue()


def _cell(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
    return f"{value:.10g}"


def _points(arm: Arm) -> Iterator[tuple[FrontierPoint, str]]:
    """Yield all points, with the prices that buy them."""
    for point in arm.points:
        yield point, ""
    if arm.learned:
        yield arm.learned.point, ""
    if prices := arm.price_curve:
        for point in prices.points:
            yield point, " ".join(f"{price:g}" for price, rule in prices.prices.items() if rule == point.rule)


def _point_row(arm: Arm, point: FrontierPoint, prices: str) -> Row:
    accuracy = [100 * value for value in (point.accuracy, *point.ci95)]
    kept = [point.nfe, *(point.nfe_ci95 or (None, None)), point.n, len(arm.seeds) or 1]
    return [arm.name, point.rule, point.kind, point.bound, prices, *accuracy, *kept]


def _arm_row(arm: Arm) -> Row:
    areas = [arm.area, arm.price_curve.area if arm.price_curve else None, arm.aup]
    ends = [value for found in areas for value in ((found.value, *found.ci95) if found else (None,) * 3)]
    best = None if arm.aup_best is None else 100 * arm.aup_best
    return [arm.name, arm.task, arm.split, *ends, best, arm.train_denoiser_calls, arm.num_problems, len(arm.seeds) or 1]


def _compared_rows(run: ReportedRun) -> Iterator[Row]:
    arms = {arm.name: arm for arm in run.arms}
    for name, found in run.compared.items():
        area = [found.area.value, *found.area.ci95]
        main = arms.get(str(run.main))
        size = [main.num_problems, len(main.seeds) or 1] if main else [None, None]
        for at, accuracy in zip(found.at, found.accuracy, strict=True):
            points = [100 * value for value in (accuracy.value, *accuracy.ci95)]
            yield [run.main, name, at, *points, *area, *size]


def _clue_rows(arm: Arm) -> Iterator[Row]:
    if arm.learned is None:
        return
    point = arm.learned.point
    bounds, solved, calls = (by_clues(arm.clues, rows) for rows in (arm.learned.bounds, point.solved, point.nfe_rows))
    for clues, share in solved.items():
        yield [arm.name, clues, arm.clues.count(clues), bounds.get(clues), 100 * share, calls.get(clues)]


def _training_rows(arms: Sequence[Arm]) -> Iterator[Row]:
    for kind in (RL, SFT):
        for arm in with_log(arms, kind):
            for y in kind.curves:
                for at, mean, low, high in curve(arm.metrics, kind.x, y):
                    yield [arm.name, arm.seeds[0] if arm.seeds else None, y, at, kind.x_label, mean, low, high]
