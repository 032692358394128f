"""`diffpo check`: look at the first rows of a recipe's task before anything is trained."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from diffpo.cli.next_step import say_next, say_next_run
from diffpo.cli.options import Overrides
from diffpo.core.output import show

if TYPE_CHECKING:
    from diffpo.recipes.tables import RlRecipe, SftRecipe

BASE = "tiny-base"
TINY_RL, BUDGET = "tiny-diffpo", "budget.denoiser_calls=15000"
LARGE_RL = "diffpo+1gpu"
"""To what a task of one's own is joined, as docs/tutorial.md does for a tiny model and docs/llada-8b.md for others."""
TINY = 10**8
"""A model of fewer parameters is trained in minutes on CPUs."""
RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A TOML file, a built-in recipe's name, or several joined with +.")
]
Verb = Annotated[
    str | None, typer.Option("--as", metavar="VERB", help="sft or rl; without it, the recipe's own keys tell.")
]


def check(recipe: RecipeName, overrides: Overrides = None, verb: Verb = None) -> None:
    """Check a recipe and three rows of its task, before training.

    It shows prompts, answers, and what the grader and each reward make of them.

    Nothing is trained. Ends with what is wrong, in words; exit code 2 if anything is.

    \b
    Example:
      diffpo check d1 'task={kind="text", source="rows.jsonl"}'
    """
    from diffpo.recipes.training_recipe import load_training_recipe

    loaded = load_training_recipe(recipe, overrides or (), verb)
    from diffpo.rehearsal.row_check import check_recipe

    text, findings = check_recipe(loaded)
    show(text)
    if findings.faults:
        raise typer.Exit(2)
    say_next_of_check(recipe, overrides or (), loaded, verb)


def say_next_of_check(recipe: str, overrides: Sequence[str], loaded: "RlRecipe | SftRecipe", verb: str | None) -> None:
    """Say how the recipe is run or, where it says a task and nothing of a training, what it is joined to.

    Without a base that is the training of one, by supervised fine-tuning. A base is trained with rewards, if there are
    any: a tiny one, or in small and with random weights one that needs a GPU.
    """
    from diffpo.recipes.files import read_table
    from diffpo.recipes.tables import is_graded
    from diffpo.recipes.training_recipe import load_training_recipe, verb_of

    table = read_table(recipe)
    said = {*table, *(override.partition("=")[0].partition(".")[0].strip() for override in overrides)}
    if set(table) == {"task"} and loaded.base is None:
        load_training_recipe(joined := f"{BASE}+{recipe}", overrides, "sft")
        say_next_run("sft", joined, overrides)
    elif said == {"task", "base"} and loaded.base and verb is None and is_graded(loaded.task):
        is_tiny = _is_tiny(loaded.base)
        load_training_recipe(joined := f"{TINY_RL if is_tiny else LARGE_RL}+{recipe}", overrides, "rl")
        if is_tiny:
            say_next_run("rl", joined, [*overrides, BUDGET])
        else:
            say_next("rl", joined, *overrides, "--rehearse")
    else:
        say_next_run(verb_of(loaded), recipe, overrides)


def _is_tiny(base: str) -> bool:
    from diffpo.runs.dry_run.size import is_elsewhere, size_of

    return not is_elsewhere(base) and size_of(base, rank=None, is_trained=False).parameters < TINY
