"""The tables of a study as CSV and its figures as SVG and PDF, in the folder of the figures of a report."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from diffpo.core.errors import UserError
from diffpo.report.export import Row, Value, csv_text, interval_headers, write_files
from diffpo.report.export import Table as Plain
from diffpo.report.file_names import file_name
from diffpo.report.found import RESULTS
from diffpo.study.grids import check_one_grid
from diffpo.study.report import charts_of, sections_of
from diffpo.study.results import read_results
from diffpo.study.tables import Cell, Shown, Table


def is_of_likelihoods(results_file: Path) -> bool:
    """Return whether a study is one of likelihoods, which has tables and figures and no arms for a page.

    Raises UserError where a result is broken.
    """
    return {result.get("kind") for result in read_results(results_file)} == {"likelihood"}


def write_study_files(results_files: Sequence[Path], folder: Path) -> list[Path]:
    """Write the tables and figures of studies into a folder, and return the files.

    They are `study-TASK-WHAT.csv` for each table of `table.md`, and SVG and, where CairoSVG is installed, PDF. With
    several studies the names of their folders come behind `study-`. Raises UserError where a result is broken, and
    where the folder cannot be written.
    """
    charts: dict[str, str] = {}
    texts: dict[str, str] = {}
    for file in results_files:
        name = file_name(file.parent.name if file.name == RESULTS else file.stem)
        prefix = f"study-{name}" if len(results_files) > 1 else "study"
        drawn, tables = _contents(file)
        charts |= {f"{prefix}-{file_name(name.removesuffix('.svg'))}": svg for name, svg in drawn.items()}
        texts |= {f"{'-'.join([prefix, *_names(table)])}.csv": csv_text(plain(table)) for table in tables}
    return write_files(folder, charts, texts)


def _contents(results_file: Path) -> tuple[Mapping[str, str], Sequence[Table]]:
    """Return the figures of a study, by the names of their files, and its tables."""
    results = read_results(results_file)
    check_one_grid(results_file, results)
    try:
        return charts_of(results), [part for part in sections_of(results) if isinstance(part, Table)]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        told = f"{type(error).__name__} {error}"
        raise UserError(
            f"{results_file}: a result has not the shape in which diffpo study writes it ({told:.200}), so that there "
            "are no tables of its own; mend it, or leave --figures out"
        ) from error


def plain(table: Table) -> Plain:
    """Return a table whose figures have columns of their own for both ends of their intervals, at full precision."""
    is_figure = [any(isinstance(row[i], Shown) for row in table.rows) for i in range(len(table.header))]
    header = [
        name
        for i, column in enumerate(table.header)
        for name in (interval_headers(column) if is_figure[i] else (column,))
    ]
    return header, [_row(row, is_figure) for row in table.rows]


def _row(row: Sequence[Cell], is_figure: Sequence[bool]) -> Row:
    return [value for cell, has_ends in zip(row, is_figure, strict=True) for value in _values(cell, has_ends)]


def _values(cell: Cell, has_ends: bool) -> Iterator[Value]:
    if isinstance(cell, Shown):
        yield from (cell.scale * value for value in (cell.estimate.value, *cell.estimate.ci95))
    elif has_ends:
        yield from (None, None, None)
    else:
        yield cell


def _names(table: Table) -> list[str]:
    words = f"{table.task} {table.what}".replace(",", " ").replace("%", "percent").split()
    return [name for word in words if (name := file_name(word)) != "unnamed"]
