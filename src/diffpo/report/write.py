"""Write the reports of what paths hold: a page for each task."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from diffpo.core.arguments import given_path
from diffpo.core.errors import UserError
from diffpo.core.files import check_writable
from diffpo.report.data import ReportedRun
from diffpo.report.export import OPTION, write_figures
from diffpo.report.file_names import file_name
from diffpo.report.page import write_page
from diffpo.report.sources import read_sources

PAGE = "report.html"


def write_report(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]], out_file: str | PathLike[str] | None = None
) -> Path:
    """Write the report of what a path holds, or of several that are compared, and return where it is.

    As `write_reports`; of several tasks it is the page of the first.
    """
    given = [paths] if isinstance(paths, str | PathLike) else list(paths)
    if not given:
        raise UserError("paths is empty; give a run, or a record of an evaluation")
    found = [given_path(path, "a path of a report") for path in given]
    return write_reports(found, None if out_file is None else given_path(out_file, "out_file"))[0]


def write_reports(paths: Sequence[Path], out_file: Path | None = None, figures: Path | None = None) -> list[Path]:
    """Write a page for each task that is found in `paths`, and return where they are.

    Into the folder `figures`, if one is given, go all figures and tables, whose files follow (`export`).

    Without `out_file` it is `report.html` in the first path or, where that is a file, `NAME.html` beside it. With
    several tasks each has its name in that of its page. Raises UserError as `read_sources` does, and where a page
    cannot be written.
    """
    out_file = out_file or default_page(paths)
    check_writable(out_file, begins=b"<!doctype html")
    if figures:
        check_writable(figures, OPTION, is_folder=True)
    runs = read_sources(paths)
    pages = [write_page(run, page_of(run, out_file, is_alone=len(runs) == 1)) for run in runs]
    return [*pages, *(write_figures(runs, figures) if figures else [])]


def default_page(paths: Sequence[Path]) -> Path:
    """Return where the page of paths goes."""
    first = paths[0]
    return first.with_suffix(".html") if first.is_file() else first / PAGE


def page_of(run: ReportedRun, out_file: Path, is_alone: bool) -> Path:
    """Return the file of one of several reports."""
    return out_file if is_alone else out_file.with_stem(f"{out_file.stem}-{file_name(str(run.task))}")
