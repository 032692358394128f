"""What lies in a path: runs, evaluation records, studies and demos, by the files that each of them writes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from diffpo.core.errors import UserError
from diffpo.core.suggestion import suggested_path
from diffpo.models.model_paths import CHECKPOINT, CONFIG, METRICS, RECIPE

SUMMARY, CLOCK = "summary.json", "clock.json"
"""A demo's: its figures when it is finished, and the time that it has taken so far."""
RESULTS = "runs.jsonl"
"""A study's: a line for each finished run."""
RECORD = "eval"
"""What the name of an evaluation's record begins with, beside a model; and the folder of a demo's records."""
DEEPEST = 4
"""Folders below a path are looked into this far: a study keeps its runs in `runs/TASK/ARM/seed-N`."""
WANTED = (
    "give a run's folder, a folder of runs, a record of diffpo eval, a study's folder of results, or a demo's folder"
)


@dataclass(frozen=True)
class FoundArm:
    """The files of one arm: a folder with a run or a model, a record of its evaluation, or both."""

    name: str
    """That of the folder or of the record."""
    where: Path
    """What tells it from another arm of the same name."""
    folder: Path | None = None
    record: Path | None = None

    @property
    def log(self) -> Path | None:
        return self.folder / METRICS if self.folder and (self.folder / METRICS).exists() else None

    @property
    def recipe(self) -> Path | None:
        return self.folder / RECIPE if self.folder and (self.folder / RECIPE).exists() else None


def is_demo(path: Path) -> bool:
    """Return whether a path is the folder of a demo, finished or not."""
    return path.is_dir() and any((path / name).exists() for name in (SUMMARY, CLOCK))


def results_file(path: Path) -> Path | None:
    """Return the file of a study's results that a path is or holds; None where it is no study's."""
    if path.is_file():
        return path if path.suffix == ".jsonl" and path.name != METRICS else None
    return path / RESULTS if (path / RESULTS).is_file() else None


def arms_in(path: Path) -> list[FoundArm]:
    """Return the arms in a path that is no study. Raises UserError where there are none."""
    if not path.exists():
        raise UserError(f"{path}: no such run or record{suggested_path(str(path))}; {WANTED}")
    if path.is_file():
        return [_of_file(path)]
    found = list(_arms_below(path, DEEPEST))
    if not found and not (path / SUMMARY).exists():
        raise nothing_in(path)
    return found


def nothing_in(path: Path) -> UserError:
    """Return the error for a path without anything to report."""
    return UserError(
        f"{path}: nothing to report (no {METRICS}, eval.json, eval/*.json or {RESULTS} in it or below it); {WANTED}"
    )


def _of_file(path: Path) -> FoundArm:
    if path.name in (METRICS, RECIPE):
        return _of_folder(path.resolve().parent)
    if path.suffix != ".json":
        raise UserError(f"{path}: neither an evaluation's record nor a run's file; {WANTED}")
    return FoundArm(_name_of_record(path), path.with_suffix(""), record=path)


def _arms_below(folder: Path, depth: int) -> Iterator[FoundArm]:
    """Yield the arms of a folder and of those in it, `eval/NAME.json` as the record of the run `NAME` beside it."""
    own = [path for path in _sorted(folder.glob(f"{RECORD}*.json")) if path.exists()]
    if _is_run(folder) or any(path.stem == RECORD for path in own):
        yield _of_folder(folder)
        own = [path for path in own if path.stem != RECORD]
    yield from map(_of_file, own)
    for checkpoint in _sorted(folder.glob(f"{CHECKPOINT}*")):
        for path in _sorted(checkpoint.glob(f"{RECORD}*.json")):
            yield FoundArm(f"{folder.resolve().name} {checkpoint.name}", path.with_suffix(""), record=path)
    records = {path.stem: path for path in _sorted(folder.glob(f"{RECORD}/*.json"))}
    inner = [path for path in _sorted(folder.iterdir()) if path.is_dir() and not _is_passed_over(path)]
    for path in inner:
        for arm in _arms_below(path, depth - 1) if depth else ():
            has_own = arm.folder == path and arm.record is None and arm.name in records
            yield replace(arm, record=records.pop(arm.name)) if has_own else arm
    for name, path in records.items():
        yield FoundArm(name, path.with_suffix(""), record=path)


def _of_folder(folder: Path) -> FoundArm:
    record = folder / f"{RECORD}.json"
    return FoundArm(folder.resolve().name, folder, folder, record if record.exists() else None)


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (METRICS, RECIPE, CONFIG))


def _is_passed_over(folder: Path) -> bool:
    return folder.name.startswith((".", CHECKPOINT)) or folder.name == RECORD


def _name_of_record(path: Path) -> str:
    """Return `a` for a/eval.json, `a x` for a/eval-x.json beside a model or run, and else what the file adds."""
    folder = path.resolve().parent
    if path.stem == RECORD:
        return folder.name
    stem = path.stem.removeprefix(f"{RECORD}-")
    return f"{folder.name} {stem}" if stem != path.stem and _is_run(folder) else stem


def _sorted(paths: Iterator[Path]) -> list[Path]:
    """Return paths by name, numbers in them by size."""
    return sorted(paths, key=lambda path: [(part.zfill(12), part) for part in re.split(r"(\d+)", path.name)])
