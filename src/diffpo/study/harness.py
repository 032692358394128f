"""Do the runs that a study lacks, one after another or in processes of their own; append each result as it comes."""

import fcntl
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from diffpo.core.errors import NonFiniteLossError, Stopped, UserError
from diffpo.core.files import check_writable, explain_write_errors, write_json, write_whole
from diffpo.core.output import say
from diffpo.distributed.collectives import process_group, raise_on_all_ranks
from diffpo.distributed.process import current_process
from diffpo.recipes import dump_recipe, load_recipe
from diffpo.recipes.tables import StudyRecipe, estimator_name
from diffpo.runs.agreement import require_same_start
from diffpo.study.arms import run_arm
from diffpo.study.deal import shared_folder
from diffpo.study.grids import check_one_grid
from diffpo.study.jobs import Job, in_processes, stopped
from diffpo.study.likelihood import run_likelihood
from diffpo.study.plan import (
    Selection,
    StudyPaths,
    StudyRun,
    base_seed,
    check,
    settings_of,
    sft_recipe,
    study_runs,
    task_named,
    with_defaults,
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
from diffpo.study.tuning import (
    TUNED,
    chosen_settings,
    settings_tried,
    tuned_record,
    tuning_arms,
    tuning_study,
    with_chosen,
)
from diffpo.training.sft import run_sft


class RunsFailedError(RuntimeError):
    """Some runs of a study diverged. All others are done."""


STUDY = "study.toml"
RESULTS = "results.json"
"""In the folder of a run: its results, until they are appended to those of the study."""


@process_group()
def run_study(
    recipe: StudyRecipe,
    out: Path,
    work: Path,
    jobs: int = 1,
    selection: Selection | None = None,
    skip_broken: bool = False,
    against: Sequence[str] = (),
    tune_only: bool = False,
) -> None:
    """Do all selected runs whose results `out` lacks, then write its table, figures and comparisons with `against`.

    A study that tunes does that first, for the selected arms and tasks (`tune_arms`); with `tune_only` it ends there.

    `work` is the folder of bases and runs; `jobs` runs are done at a time, in each rank. Raises UserError before
    anything is trained where a combination cannot run, a result is broken, or a result that is there has other settings
    or was measured on another grid of bounds; Stopped when interrupted; RunsFailedError, when all others are done,
    where a run failed.
    """
    require_same_start(recipe, out)
    if failed := _run_study(recipe, out, work, jobs, selection or Selection(), skip_broken, against, tune_only):
        _raise_once(RunsFailedError(failed))


def _run_study(
    recipe: StudyRecipe,
    out: Path,
    work: Path,
    jobs: int,
    selection: Selection,
    skip_broken: bool,
    against: Sequence[str] = (),
    tune_only: bool = False,
) -> str:
    """Do what `run_study` does, and return which runs failed, if any did; then nothing is reported."""
    paths = StudyPaths(work)
    with raise_on_all_ranks():
        check_writable(out, is_folder=True)
        check_writable(work, "--work", is_folder=True)
        runs = study_runs(recipe, selection)
        if tune_only and recipe.tune is None:
            raise UserError(
                f"the study {recipe.name} has nothing to tune; give it a [tune] table, or leave --tune-only out"
            )
        check(recipe, runs, paths)
        if recipe.kind == "arms":
            check_one_grid(out / RUNS, read_results(out / RUNS, skip_broken), wanted=recipe.evaluation.bounds)
    if recipe.tune is not None:
        recipe = tune_arms(recipe, out, work, jobs, selection, skip_broken)
    if tune_only:
        return ""
    with ExitStack() as stack:
        with raise_on_all_ranks():
            if current_process().is_main:
                stack.enter_context(_locked(out))
        with shared_folder(out, "--out"), raise_on_all_ranks():  # no rank has a result before all have read them
            done = {key_of(result): result for result in read_results(out / RUNS, skip_broken)}
            missing = [run for run in runs if not _is_done(recipe, run, paths, done)]
        _say_once(f"{recipe.name}: {len(runs) - len(missing)} of {len(runs)} runs are done")
        if missing and (failed := _do_missing(recipe, missing, paths, out / RUNS, done, jobs)):
            return failed
        with raise_on_all_ranks():
            if current_process().is_main:
                write_study_report(out, skip_broken, against)
    return ""


def _say_once(line: str) -> None:
    """Print a line, in the first rank."""
    if current_process().is_main:
        say(line)


def _raise_once(error: Exception) -> None:
    """Raise an error, in the first rank; the others raise that it failed."""
    with raise_on_all_ranks():
        if current_process().is_main:
            raise error


def tune_arms(
    recipe: StudyRecipe, out: Path, work: Path, jobs: int, selection: Selection, skip_broken: bool
) -> StudyRecipe:
    """Choose what the selected arms of a study try on the selected tasks, and return the study with what was chosen.

    Each setting is a run for each tuning seed, with its results and its table in `out`/tune; what has been done is not
    done again. What was chosen, and by which figures, is in `out`/tuned.json. Raises UserError where a setting cannot
    run, and where all settings of an arm failed.
    """
    tune = recipe.tune
    if tune is None or not (names := tuning_arms(recipe, tune, selection.arms)):
        return with_chosen(recipe, ())
    tuning = tuning_study(recipe, tune)
    selected = Selection(names, selection.tasks)
    if failed := _run_study(tuning, out / "tune", work / "tune", jobs, selected, skip_broken):
        _say_once(f"tuning goes on without what failed: {failed}")
    with raise_on_all_ranks():
        results = read_results(out / "tune" / RUNS, skip_broken)
        every = list(chosen_settings(recipe, tune, results, None, None))
        tuned = list(chosen_settings(recipe, tune, results, selection.arms, selection.tasks))
        if current_process().is_main:
            write_json(out / TUNED, tuned_record(recipe, tune, every))
        for one in tuned:
            _say_once(f"tuned: {one.arm} on {one.task}: {', '.join(one.choice.overrides)}")
        found = {(one.task, one.arm) for one in tuned}
        wanted = {(r.task, r.arm) for r in study_runs(recipe, selection)}
        tried = {arm.name for arm in recipe.arms if settings_tried(arm, tune)}
        if lacking := sorted(f"{arm} on {task}" for task, arm in wanted - found if arm in tried):
            raise UserError(f"no setting of {', '.join(lacking)} has a result for every tuning seed; change its grid")
    return with_chosen(recipe, tuned)


def _is_done(recipe: StudyRecipe, run: StudyRun, paths: StudyPaths, done: dict[Key, Result]) -> bool:
    """Return whether all results of a run are there. Raises UserError for one that has other settings."""
    settings = settings_of(recipe, run, paths)
    keys = keys_of(recipe, run)
    for key in keys:
        if key not in done:
            continue
        if changes := differing(with_defaults(recipe, done[key]["settings"], settings), settings):
            raise UserError(f"the result of {run} has other settings ({'; '.join(changes)}); choose another --out")
    return all(key in done for key in keys)


def keys_of(recipe: StudyRecipe, run: StudyRun) -> list[Key]:
    """Return the keys of the results that a run has when it is done."""
    names = [""]
    if recipe.kind == "likelihood":
        names = [*map(estimator_name, recipe.mismatch.estimators), BOUNDARIES]
    return [(run.task, run.arm, run.seed, name) for name in names]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let only this process write into a folder. The lock ends with the process, however that ends.

    Raises UserError where another process has the lock.
    """
    with explain_write_errors(folder, option="folder", is_folder=True):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another study is at work on {folder}; wait for it, or choose another folder") from error
        yield


def _do_missing(
    recipe: StudyRecipe,
    missing: Sequence[StudyRun],
    paths: StudyPaths,
    results: Path,
    done: dict[Key, Result],
    jobs: int,
) -> str:
    """Train the bases that the missing runs need, then do the runs, and append their results to the file `results`.

    Returns which runs failed, if any did.
    """
    with raise_on_all_ranks():
        if current_process().is_main:
            write_whole(paths.work / STUDY, dump_recipe(recipe))

    def collect(job: Job) -> None:
        found: list[Result] = json.loads((job.folder(paths) / RESULTS).read_text())
        append_results(results, [result for result in found if key_of(result) not in done])

    def do_jobs(wanted: Sequence[Job], collect: Callable[[Job], None]) -> list[str]:
        if jobs > 1 or current_process().world_size > 1:
            return in_processes(recipe.name, wanted, paths, jobs, collect)
        return _one_by_one(recipe, wanted, paths, collect)

    bases = [Job(task, seed=seed) for task, seed in dict.fromkeys((r.task, base_seed(recipe, r)) for r in missing)]
    if failed := do_jobs(bases, lambda job: None):
        _raise_once(RuntimeError(f"no base, no study: {'; '.join(failed)}"))
    if failed := do_jobs([Job(run.task, run) for run in missing], collect):
        return f"{len(failed)} of {len(missing)} runs failed: {'; '.join(failed)}"
    return ""


def perform(recipe: StudyRecipe, job: Job, paths: StudyPaths) -> None:
    """Do one job, or go on with it. A run leaves its results in its folder."""
    with _locked(folder := job.folder(paths)):
        if job.run is None:
            run_sft(sft_recipe(task_named(recipe, job.task), job.seed), folder, resume="auto")
        elif recipe.kind == "arms":
            write_json(folder / RESULTS, [run_arm(recipe, job.run, paths)])
        else:
            write_json(folder / RESULTS, run_likelihood(recipe, job.run, paths))


def _one_by_one(
    recipe: StudyRecipe, jobs: Sequence[Job], paths: StudyPaths, collect: Callable[[Job], None]
) -> list[str]:
    """Do all jobs in this process and return what went wrong with which. Raises Stopped when interrupted."""
    failed = []
    for number, job in enumerate(jobs, start=1):
        say(f"{number}/{len(jobs)}  {job}")
        try:
            perform(recipe, job, paths)
            collect(job)
        except NonFiniteLossError as error:
            failed.append(f"{job} ({error})")
        except (KeyboardInterrupt, Stopped) as error:
            raise stopped() from error
    return failed


def perform_stored(work: Path, arguments: Sequence[str]) -> None:
    """Do one job of the study whose recipe is in the folder `work`: what a process of `in_processes` does.

    `arguments` are those of `Job.arguments`.
    """
    recipe = load_recipe(StudyRecipe, str(work / STUDY))
    task, *others = arguments
    if len(others) < 2:
        job = Job(task, seed=int(others[0]) if others else None)
    else:
        job = Job(task, StudyRun(task, others[0], int(others[1])))
    perform(recipe, job, StudyPaths(work))
