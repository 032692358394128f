"""The tables of a study as CSV, in a folder with the figures of its report."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from diffpo.core.errors import UserError
from diffpo.report.export import Row, Value, csv_text, interval_headers, write_files
from diffpo.report.export import Table as Plain
from diffpo.report.file_names import file_name
from diffpo.study.grids import check_one_grid
from diffpo.study.report import sections_of
from diffpo.study.results import read_results
from diffpo.study.tables import Cell, Shown, Table


def write_csv_tables(results_file: Path, folder: Path) -> list[Path]:
    """Write each table of `table.md` into a folder as CSV, `study-TASK-WHAT.csv`, and return the files.

    Raises UserError where a result is broken, and where the folder cannot be written.
    """
    results = read_results(results_file)
    check_one_grid(results_file, results)
    try:
        tables = [part for part in sections_of(results) if isinstance(part, Table)]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        told = f"{type(error).__name__} {error}"
        raise UserError(
            f"{results_file}: a result has not the shape in which diffpo study writes it ({told:.200}), so that there "
            "are no tables of its own; mend it, or leave --figures out"
        ) from error
    texts = {f"{'-'.join(['study', *_names(table)])}.csv": csv_text(plain(table)) for table in tables}
    return write_files(folder, {}, texts)


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
