"""`diffpo.evaluate`: `diffpo eval` as a call, with models, tasks, rows and rewards that may live in memory."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from diffpo.api.calling import calling
from diffpo.api.given_data import KINDS, Data, of_memory, sources_and_files, with_data
from diffpo.api.rewards import Functions, Reward, named_rewards, with_functions
from diffpo.api.settings import overrides_of, plain_settings, refuse_twice, unset_keys
from diffpo.core.arguments import given_path, shown
from diffpo.core.errors import UserError
from diffpo.core.files import write_whole
from diffpo.distributed.process import require_single_process
from diffpo.recipes import load_recipe
from diffpo.recipes.stored import over_stored_task, stored_task
from diffpo.recipes.strict import Strict
from diffpo.recipes.tables import EvalRecipe
from diffpo.tasks.base import Task
from diffpo.tasks.countdown import Countdown
from diffpo.tasks.sudoku import Sudoku
from diffpo.tasks.walk import Walk

if TYPE_CHECKING:
    from diffpo.evaluation.measurement import Measurement
    from diffpo.sampling.policy import Policy

MADE_UP = {Sudoku: "sudoku", Countdown: "countdown", Walk: "walk"}


def evaluate(
    model: "Policy | str | PathLike[str]",
    *,
    task: Task | Strict | Mapping[str, Any] | str | None = None,
    data: Data | None = None,
    reward: Reward | None = None,
    out: str | PathLike[str] | None = None,
    **settings: object,
) -> "Measurement":
    """Measure accuracy and denoiser calls on unseen problems, as `diffpo eval` does, to the last digit.

    - `model`: a policy, a run, the folder of one or of a model, or a hub name.
    - `task`: what a recipe has as `task`, as a table or only its kind; or a task in memory, as `diffpo.Sudoku()`.
      Without it, the task that the model was trained on, some of whose keys may be changed: `task__few_shot=2`.
    - `data`: rows to test on, all of them, as `train` takes them, for the task of the model or that one.
    - `reward`: as `train` takes it. A run's own rewards are not loaded: what is solved does not depend on them, except
      where the task has no grader.
    - `out`: a file for the record that `diffpo report` reads; without it, nothing is written.
    - All other keywords are those of the recipe: `count=200`, `bounds=[0, 0.1]`, `split="validation"`, `price=0.1`.

    Raises UserError for what is wrong with any of these.
    """
    with calling(), TemporaryDirectory(prefix="diffpo-") as folder:
        from diffpo.evaluation.run import measure
        from diffpo.sampling.policy import Policy

        policy = model if isinstance(model, Policy) else None
        path = model.denoiser.model.name_or_path if isinstance(model, Policy) else str(given_path(model, "model"))
        file = None if out is None else given_path(out, "out")
        given, unset = plain_settings(settings), unset_keys(settings)
        if isinstance(task, Task) and type(task) not in MADE_UP:
            if data is not None or reward is not None:
                raise UserError(
                    f"task is a {type(task).__name__}, which has its own problems and rewards; leave data "
                    "and reward out, or give the task as a table"
                )
            recipe = load_recipe(EvalRecipe, None, overrides_of({**given, "model": path}), unset)
            return measure(recipe, file, policy, task)
        given = _with_task(task, given)
        given, functions, files = _with_inputs(path, given, data, reward, Path(folder))
        overrides = over_stored_task(path, None, overrides_of(given), unset)
        recipe = load_recipe(EvalRecipe, None, [*overrides, f"model={json.dumps(path)}"], unset)
        with of_memory(files):
            return measure(with_functions(recipe, functions), file, policy)


def _with_task(task: object, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the task before them, so that they may change its keys."""
    if task is None:
        return dict(settings)
    if isinstance(task, str):
        table: object = {"kind": task}
    elif type(task) in MADE_UP and is_dataclass(task) and not isinstance(task, type):
        table = {"kind": MADE_UP[type(task)], **asdict(task)}
    else:
        table = task
    if not isinstance(table, Mapping | Strict):
        raise UserError(f"task is {shown(task)}; give a kind, a table (dict), or a task")
    return {**plain_settings({"task": table}), **settings}


def _with_inputs(
    model: str, settings: dict[str, Any], data: Data | None, reward: Reward | None, folder: Path
) -> tuple[dict[str, Any], Functions, Iterable[Path]]:
    """Return settings that name data and rewards, the functions that these mean, and the files of rows in memory."""
    functions: Functions = {}
    files: Mapping[Path, str] = {}
    if data is not None:
        refuse_twice("data", settings, "task.source")
        refuse_twice("data", settings, "task.test_source")
        sources, files = sources_and_files(data, folder)
        if files:  # each process would write them elsewhere, and have another recipe
            require_single_process("measuring rows in memory")
        for path, content in files.items():
            write_whole(path, content)
        if "source" in sources and len(sources) == 1 and not Path(sources["source"]).is_dir():
            sources = {"test_source": sources["source"]}
        settings = with_data(settings, sources, _stored_kind(model))
    if reward is not None:
        refuse_twice("reward", settings, "task.reward")
        name, functions = named_rewards(reward)
        settings = {**settings, "task.reward": name}
    return settings, functions, files


def _stored_kind(model: str) -> str | None:
    try:
        kind = stored_task(Path(model)).kind
    except UserError:
        return None
    return kind if kind in KINDS else None
