"""Data as a caller gives them: a path stays one, and rows in memory become files that a recipe can name."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, get_args

from diffpo.core.arguments import given_path
from diffpo.core.errors import UserError
from diffpo.core.files import explain_write_errors, write_whole
from diffpo.distributed.process import current_process
from diffpo.distributed.together import refused_together
from diffpo.models.model_paths import RECIPE, REWARD_SOURCE
from diffpo.recipes.tables import SourceSettings, TaskRecipe
from diffpo.runs.run_dir import has_begun
from diffpo.runs.run_lock import RunLock
from diffpo.tasks.given_rows import ROWS, files_of, json_lines, rows_path

Data = Any
"""A path; rows: a list of dicts, a DataFrame, a datasets.Dataset; or a dict of these by split."""
OF_SPLIT = {"train": "source", "validation": "validation_source", "test": "test_source"}
"""The option of a task that names the rows of a split."""
KINDS = [
    kind
    for table in get_args(TaskRecipe)
    if isinstance(table, type) and issubclass(table, SourceSettings)
    for kind in get_args(table.model_fields["kind"].annotation)
]
"""Kinds of tasks that take rows."""


def sources_and_files(data: Data, folder: Path) -> tuple[dict[str, str], dict[Path, str]]:
    """Return the options of a task that name the data, and the files that rows in memory would have in a folder."""
    if isinstance(data, str | PathLike):
        return {"source": str(given_path(data, "data"))}, {}
    if isinstance(data, Mapping) and any(isinstance(value, str | PathLike) for value in data.values()):
        if not set(data) <= OF_SPLIT.keys():
            raise UserError(f"data has the keys {', '.join(map(repr, data))}; give splits, {', '.join(OF_SPLIT)}")
        return {OF_SPLIT[split]: str(given_path(path, f"data[{split!r}]")) for split, path in data.items()}, {}
    lines = json_lines(data)
    return {"source": str(rows_path(lines, folder))}, files_of(lines, folder)


def with_data(settings: Mapping[str, Any], sources: Mapping[str, str], kind: str | None) -> dict[str, Any]:
    """Return settings whose task is one of rows: with the options that name the data, and the kind `text` if need be.

    `kind` is the kind of the recipe's own task. Raises UserError where the settings name a kind that takes no rows.
    """
    given = settings.get("task", {})
    chosen = settings.get("task.kind", given.get("kind") if isinstance(given, dict) else None)
    if chosen is not None and chosen not in KINDS:
        raise UserError(
            f"data are rows, and task.kind is {chosen!r}, which makes up its own problems; leave out one of them, or "
            f"name a kind that takes rows: {', '.join(KINDS)}"
        )
    start: dict[str, Any] = {} if kind in KINDS else {"task": {"kind": "text"}}
    found = start | dict(settings)
    if isinstance(given, dict) and "task" in settings and chosen is None:
        found["task"] = {"kind": kind if kind in KINDS else "text", **given}
    return found | {f"task.{option}": source for option, source in sources.items()}


@contextmanager
def of_memory(files: Iterable[Path]) -> Iterator[None]:
    """Tell of rows that are in memory as such, and not of the lines of the files that they are written to."""
    try:
        yield
    except UserError as error:
        message = str(error)
        for path in files:
            where = "data" if path.stem == ROWS else f"data[{path.stem!r}]"
            message = re.sub(rf"{re.escape(str(path))}:(?=[0-9])", f"{where} row ", message)
        error.args = (message,)
        raise


@contextmanager
def written(files: Mapping[Path, str], functions: str, out: Path, lock: RunLock) -> Iterator[None]:
    """Write the files of a run's inputs before the block, in its first process; they go where no run comes of it.

    `functions` is the source of rewards, for `REWARD_SOURCE`. Where there is anything to write the run's lock is taken.
    Raises UserError where the run in `out` has other rows, and where another process, or another call, has the run.
    """
    content = {**files, **({out / REWARD_SOURCE: functions} if functions else {})}
    fresh = {folder for path in content for folder in path.absolute().parents if not folder.exists()}
    new: list[Path] = []
    with refused_together():
        if current_process().is_main and content:
            with explain_write_errors(out, is_folder=True):
                out.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            new += _write(content, files, out)
    try:
        with of_memory(files):
            yield
    finally:
        if lock.is_held and not has_begun(out) and not (out / RECIPE).exists():
            for path in new:
                path.unlink(missing_ok=True)
            lock.release()
            for folder in sorted(fresh, reverse=True):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()


def _write(content: Mapping[Path, str], rows: Mapping[Path, str], out: Path) -> list[Path]:
    new = []
    for path, text in content.items():
        data = text.encode(errors="backslashreplace")
        if path.is_file() and path.read_bytes() == data:
            continue
        if has_begun(out):
            if path not in rows:
                continue  # the run's own recipe tells whether its rewards are others
            raise UserError(
                f"the rows are not those that {out} was started with, which are in {path}; give the same, or start a "
                "new run in another folder"
            )
        with explain_write_errors(path):
            write_whole(path, data)
        new.append(path)
    return new
