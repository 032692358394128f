"""Carry out what a study lacks: here one after another, or in processes of their own; results come in one by one."""

import fcntl
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diffpo.core.errors import NonFiniteLossError, Stopped, UserError
from diffpo.core.files import explain_write_errors, write_json, write_whole
from diffpo.models.model_paths import RECIPE
from diffpo.recipes import dump_recipe, load_recipe
from diffpo.recipes.tables import StudyRecipe, estimator_name
from diffpo.runs.progress import ProgressBar
from diffpo.runs.run_dir import interruptible
from diffpo.study.arms import run_arm
from diffpo.study.likelihood import run_likelihood
from diffpo.study.plan import (
    Selection,
    StudyPaths,
    StudyRun,
    check,
    settings_of,
    sft_recipe,
    study_runs,
    task_named,
    today,
)
from diffpo.study.report import write_study_report
from diffpo.study.results import (
    BOUNDARIES,
    RUNS,
    Key,
    Result,
    append_results,
    differing,
    key_of,
    read_results,
)
from diffpo.training.sft import run_sft

STUDY = "study.toml"
LINES = "lines.json"


@dataclass(frozen=True)
class Job:
    """What one process does: a base (no unit), or a run."""

    task: str
    unit: StudyRun | None = None

    @property
    def arguments(self) -> list[str]:
        return [self.task] if self.unit is None else [self.task, self.unit.arm, str(self.unit.seed)]

    def __str__(self) -> str:
        return f"{self.task} base" if self.unit is None else str(self.unit)

    def folder(self, paths: StudyPaths) -> Path:
        return paths.base(self.task) if self.unit is None else paths.run(self.unit)


def run_study(
    recipe: StudyRecipe,
    out: Path,
    work: Path,
    jobs: int = 1,
    selection: Selection | None = None,
    skip_broken: bool = False,
    against: Sequence[str] = (),
) -> None:
    """Append the lines of all selected runs that `out` lacks, then write its table, with comparisons, and figures.

    Raises UserError before anything is trained where a combination cannot run, a line is broken, or the lines that are
    there are of other settings; Stopped when interrupted; RuntimeError, when all others are done, where a run failed.
    """
    paths = StudyPaths(work)
    units = study_runs(recipe, selection or Selection())
    check(recipe, units, paths)
    with _alone(out):
        done = {key_of(line): line for line in read_results(out / RUNS, skip_broken)}
        missing = [unit for unit in units if not _is_done(recipe, unit, paths, done)]
        print(f"{recipe.name}: {len(units) - len(missing)} of {len(units)} runs are done", flush=True)
        if missing:
            _carry_out_missing(recipe, missing, paths, out / RUNS, done, jobs)
        write_study_report(out, skip_broken, against)


def _is_done(recipe: StudyRecipe, unit: StudyRun, paths: StudyPaths, done: dict[Key, Result]) -> bool:
    settings = settings_of(recipe, unit, paths)
    keys = keys_of(recipe, unit)
    for key in keys:
        if key in done and (changes := differing(today(recipe, done[key]["settings"], settings), settings)):
            raise UserError(f"the result of {unit} has other settings ({'; '.join(changes)}); choose another --out")
    return all(key in done for key in keys)


def keys_of(recipe: StudyRecipe, unit: StudyRun) -> list[Key]:
    """The lines that a run has when it is done."""
    names = [""]
    if recipe.kind == "likelihood":
        names = [*map(estimator_name, recipe.mismatch.estimators), BOUNDARIES]
    return [(unit.task, unit.arm, unit.seed, name) for name in names]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Results and runs have one writer. The lock goes with its process, however that ends."""
    with explain_write_errors(folder, option="folder", is_folder=True):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another study is at work on {folder}; wait for it, or choose another folder") from error
        yield


def _carry_out_missing(
    recipe: StudyRecipe,
    missing: Sequence[StudyRun],
    paths: StudyPaths,
    results: Path,
    done: dict[Key, Result],
    jobs: int,
) -> None:
    write_whole(paths.work / STUDY, dump_recipe(recipe))

    def collect(job: Job) -> None:
        lines: list[Result] = json.loads((job.folder(paths) / LINES).read_text())
        append_results(results, [line for line in lines if key_of(line) not in done])

    carry_out = _in_processes if jobs > 1 else _one_by_one
    bases = [Job(task) for task in dict.fromkeys(unit.task for unit in missing)]
    if failed := carry_out(recipe, bases, paths, jobs, lambda job: None):
        raise RuntimeError(f"no base, no study: {'; '.join(failed)}")
    if failed := carry_out(recipe, [Job(unit.task, unit) for unit in missing], paths, jobs, collect):
        raise RuntimeError(f"{len(failed)} of {len(missing)} runs failed: {'; '.join(failed)}")


def perform(recipe: StudyRecipe, job: Job, paths: StudyPaths) -> None:
    """Do one job, or go on with it; a run leaves its lines in its folder."""
    with _alone(folder := job.folder(paths)):
        if job.unit is None:
            run_sft(sft_recipe(task_named(recipe, job.task)), folder, resume=(folder / RECIPE).is_file())
        elif recipe.kind == "arms":
            write_json(folder / LINES, [run_arm(recipe, job.unit, paths)])
        else:
            write_json(folder / LINES, run_likelihood(recipe, job.unit, paths))


def _one_by_one(
    recipe: StudyRecipe, jobs: Sequence[Job], paths: StudyPaths, count: int, collect: Callable[[Job], None]
) -> list[str]:
    failed = []
    for number, job in enumerate(jobs, start=1):
        print(f"{number}/{len(jobs)}  {job}", flush=True)
        try:
            perform(recipe, job, paths)
            collect(job)
        except NonFiniteLossError as error:
            failed.append(f"{job} ({error})")
        except (KeyboardInterrupt, Stopped) as error:
            raise _stopped() from error
    return failed


def _stopped() -> Stopped:
    return Stopped("the study was stopped; the same command goes on where it was")


def _in_processes(
    recipe: StudyRecipe, jobs: Sequence[Job], paths: StudyPaths, count: int, collect: Callable[[Job], None]
) -> list[str]:
    """At most `count` at a time. Ctrl-C is handed to them once, and they are waited for: each leaves a checkpoint."""
    waiting = list(jobs)
    failed: list[str] = []
    refused: list[str] = []
    running: dict[Job, subprocess.Popen[bytes]] = {}
    told = False
    try:
        with ProgressBar(f"{recipe.name}, {count} at a time", len(jobs)) as bar, interruptible() as interrupt:
            while running or (waiting and not told):
                while waiting and len(running) < count and not told:
                    job = waiting.pop(0)
                    running[job] = _start(job, paths)
                time.sleep(0.1)
                if interrupt.requested and not told:
                    told = True
                    for process in running.values():
                        process.send_signal(signal.SIGINT)
                for job in [job for job, process in running.items() if process.poll() is not None]:
                    code = running.pop(job).returncode
                    if code == 0:
                        collect(job)
                    elif code == 2:
                        refused.append(_last_words(job, paths))
                    elif not told:
                        failed.append(f"{job} ({_last_words(job, paths)}; see {_log(job, paths)})")
                    bar.update(len(jobs) - len(waiting) - len(running), last=str(job))
    finally:
        for process in running.values():
            process.terminate()
    if told:
        raise _stopped()
    if refused:
        raise UserError("; ".join(refused))
    return failed


def _log(job: Job, paths: StudyPaths) -> Path:
    return paths.work / "logs" / f"{'-'.join(job.arguments)}.log"


def _last_words(job: Job, paths: StudyPaths) -> str:
    return " ".join(_log(job, paths).read_text(errors="replace").splitlines()[-1:])


def _start(job: Job, paths: StudyPaths) -> subprocess.Popen[bytes]:
    """In a session of its own: Ctrl-C in a terminal shall reach it once, through us."""
    log = _log(job, paths)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "diffpo.study.worker", str(paths.work), *job.arguments]
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)


def perform_stored(work: Path, arguments: Sequence[str]) -> None:
    """What a process of `_in_processes` does: one job of the study whose recipe is in the work folder."""
    recipe = load_recipe(StudyRecipe, str(work / STUDY))
    task, *others = arguments
    unit = StudyRun(task, others[0], int(others[1])) if others else None
    perform(recipe, Job(task, unit), StudyPaths(work))
