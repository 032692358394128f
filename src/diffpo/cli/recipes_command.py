"""`diffpo recipes`: list the built-in recipes, or print one with all that its keys mean."""

import shutil
from typing import Annotated

import typer

from diffpo.cli.options import Overrides
from diffpo.core.errors import UserError
from diffpo.core.output import show


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A recipe, or several joined with +: d1+gsm8k.")
    ] = None,
    overrides: Overrides = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Print the reference page of all tables and keys, as Markdown.")
    ] = False,
) -> None:
    """List the built-in recipes, or print one with what its keys mean.

    A recipe is printed with every key, its default and its meaning, as TOML that can be saved, changed and used.

    \b
    Examples:
      diffpo recipes
      diffpo recipes tiny-diffpo > my.toml
    """
    if reference:
        if name is not None:
            raise UserError("--reference is of all recipes, and a name of one; leave one of them out")
        from diffpo.recipes.reference import reference_page

        show(reference_page().removesuffix("\n"))
        return
    from diffpo.recipes.shown import listing, shown

    show((listing(shutil.get_terminal_size().columns) if name is None else shown(name, overrides or ())).rstrip("\n"))
