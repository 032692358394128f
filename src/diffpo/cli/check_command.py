"""`diffpo check`: look at the first rows of a recipe's task before anything is trained."""

from typing import Annotated

import typer

from diffpo.cli.next_step import say_next_run
from diffpo.cli.options import Overrides
from diffpo.core.output import show

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
    say_next_run(verb_of(loaded), recipe, overrides)
