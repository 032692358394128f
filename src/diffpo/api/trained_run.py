"""`diffpo.train`: `diffpo sft` or `diffpo rl` as a call, with rewards and rows that may live in memory."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffpo.api.calling import calling
from diffpo.api.given_data import Data, sources_and_files, with_data, written
from diffpo.api.rewards import Functions, Reward, named_rewards, sources_of, with_functions
from diffpo.api.settings import overrides_of, plain, plain_settings, refuse_twice, unset_keys
from diffpo.api.start import start_training
from diffpo.core.arguments import given_path, given_resume, given_switch, shown
from diffpo.core.errors import UserError
from diffpo.core.options import Resume
from diffpo.distributed.together import joined, refused_together
from diffpo.models.model_paths import METRICS
from diffpo.recipes.files import read_table
from diffpo.recipes.tables import RlRecipe, SftRecipe, base_bits
from diffpo.recipes.training_recipe import load_training_recipe
from diffpo.runs.run_dir import require_no_run
from diffpo.runs.run_lock import RunLock

if TYPE_CHECKING:
    from diffpo.sampling.policy import Policy

Recipe = str | PathLike[str] | Mapping[str, Any] | RlRecipe | SftRecipe
SHOWN = ("loss", "reward", "accuracy", "nfe")
"""Metrics of the last step that are shown."""


@dataclass(frozen=True, repr=False)
class TrainedRun(PathLike[str]):
    """A run that has ended: its folder, by which every command and function knows it, and what came of it."""

    folder: Path
    recipe: RlRecipe | SftRecipe

    @property
    def kind(self) -> str:
        """sft or rl."""
        return "sft" if isinstance(self.recipe, SftRecipe) else "rl"

    @cached_property
    def metrics(self) -> list[dict[str, int | float]]:
        """The metrics of every step (docs/metrics.md), from the run's log."""
        return [json.loads(line) for line in (self.folder / METRICS).read_text().splitlines()]

    @cached_property
    def policy(self) -> "Policy":
        """The trained model with its tokenizer and learned sampler, as its last checkpoint has it."""
        from diffpo.runs.device import resolve_device
        from diffpo.sampling.policy import load

        return load(self.folder, *resolve_device(self.recipe), base_bits(self.recipe))

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        last = self.metrics[-1] if self.metrics else {}
        shown = [f"{name} {last[name]:.3g}" for name in SHOWN if name in last]
        parts = [f"{self.kind} run {self.folder}", f"step {last.get('step', 0)}", *shown]
        return f"<{', '.join(parts)}>"


def train(
    recipe: Recipe,
    *,
    out: str | PathLike[str],
    reward: Reward | None = None,
    data: Data | None = None,
    resume: Resume = False,
    extend: bool = False,
    **settings: object,
) -> TrainedRun:
    """Train by a recipe into the folder `out`, as `diffpo sft` or `diffpo rl` does; return the run.

    - `recipe`: the name of a built-in recipe, several joined with +, the path of a TOML file, a table, or a recipe. By
      its keys it is one of SFT or of RL.
    - `reward`: a function in TRL's signature, which may be async; a name as in recipes; a list of these; or a dict of
      these with their weights (docs/tasks.md).
    - `data`: a path or a data set of the hub; rows, as a list of dicts, a DataFrame or a datasets.Dataset; or a dict of
      these by split. Where the recipe's task takes no rows they are one of the kind `text`. Rows in memory are written
      into `out`, and the recipe that is stored there names that file.
    - `resume` goes on with the run in `out`, and with "auto" only if there is one; `extend` lets it become longer.
    - All other keywords change the recipe, as `seed=1`, `budget={"steps": 20}`, which is the whole table, or
      `rollout__group_size=8` for one key of a table. None is "not set", as the recipe's reference calls it:
      `early_stopping=None` trains all steps.

    The first Ctrl-C ends the run after its step, with a checkpoint and a KeyboardInterrupt; in a thread there is none.
    Nothing of the process is changed by a call. Raises UserError for what is wrong with the arguments, before anything
    is trained, and NonFiniteLossError where a loss is not a number.
    """
    with calling(), joined():
        with refused_together():
            folder, resume, extend = given_path(out, "out"), given_resume(resume), given_switch(extend, "extend")
            loaded, functions, files = _prepared(recipe, folder, reward, data, settings)
            if not resume:
                RunLock(folder).require_free()
                require_no_run(folder)
        with RunLock(folder) as lock, written(files, sources_of(functions), folder, lock):
            start_training(loaded, folder, resume, extend, lock)
        return TrainedRun(folder, loaded)


def _prepared(
    recipe: Recipe, out: Path, reward: Reward | None, data: Data | None, given: Mapping[str, object]
) -> tuple[RlRecipe | SftRecipe, Functions, Mapping[Path, str]]:
    """Return the recipe with all that is laid over it, the functions that it names, and files that it names."""
    if isinstance(recipe, str | PathLike):
        source: str | dict[str, Any] = fspath(recipe)
    elif isinstance(recipe, Mapping | RlRecipe | SftRecipe):
        source = plain(recipe, "recipe")
    else:
        raise UserError(f"recipe is {shown(recipe)}; give a name, a path, a dict or a recipe of SFT or RL")
    settings, unset = plain_settings(given), unset_keys(given)
    functions: Functions = {}
    files: Mapping[Path, str] = {}
    if data is not None:
        refuse_twice("data", settings, "task.source")
        sources, files = sources_and_files(data, out)
        task = read_table(source).get("task", {})
        settings = with_data(settings, sources, task.get("kind") if isinstance(task, dict) else None)
    if reward is not None:
        refuse_twice("reward", settings, "task.reward")
        name, functions = named_rewards(reward)
        settings = {**settings, "task.reward": name}
    verb = {RlRecipe: "rl", SftRecipe: "sft"}.get(type(recipe)) if isinstance(recipe, RlRecipe | SftRecipe) else None
    loaded = load_training_recipe(source, overrides_of(settings), verb, unset)
    return with_functions(loaded, functions), functions, files
