"""`diffpo check`: look at the first rows of a recipe's task before anything is trained."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from diffpo.cli.next_step import say_next_run
from diffpo.cli.options import Overrides
from diffpo.core.output import show

if TYPE_CHECKING:
    from diffpo.recipes.tables import RlRecipe, SftRecipe

TINY = "sudoku4-base"
"""A tiny model's training, to which a task of one's own is joined, as docs/tasks.md does."""
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
    from diffpo.recipes.training_recipe import load_training_recipe, verb_of

    loaded = load_training_recipe(recipe, overrides or (), verb)
    from diffpo.rehearsal.row_check import check_recipe

    text, findings = check_recipe(loaded)
    show(text)
    if findings.faults:
        raise typer.Exit(2)
    say_next_run(verb_of(loaded), _trained_by(recipe, overrides or (), loaded), overrides)


def _trained_by(recipe: str, overrides: Sequence[str], loaded: "RlRecipe | SftRecipe") -> str:
    """Return the recipe or, for a file that says a task and nothing of a training, that joined to a tiny model's."""
    from diffpo.recipes.files import read_table
    from diffpo.recipes.tables import is_graded
    from diffpo.recipes.training_recipe import load_training_recipe

    if set(read_table(recipe)) != {"task"} or not is_graded(loaded.task):
        return recipe
    joined = f"{TINY}+{recipe}"
    load_training_recipe(joined, overrides, "sft")
    return joined
