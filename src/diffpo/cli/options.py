"""Arguments and options that several verbs share."""

from collections.abc import Sequence
from typing import Annotated

import typer

from diffpo.core.errors import UserError

Overrides = Annotated[list[str] | None, typer.Argument(metavar="TABLE.KEY=VALUE", help="Changes to the recipe: seed=1")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model's folder, a run's, or ORG/NAME[@REVISION].")]
RESUME_AUTO = "--resume-auto"
"""What `--resume auto` is read as: typer has no option whose value may be left out."""
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1)]


MAY_BE_EMPTY = ("--prompt", "--system")


def refuse_empty(arguments: Sequence[str]) -> None:
    """Raise UserError for an empty word, as of a shell's unset variable: as a path it would be the current folder."""
    for before, word in zip(["", *arguments], arguments, strict=False):
        option, has_value, value = word.partition("=")
        is_path = not word or (word.startswith("--") and has_value and not value)
        if is_path and before not in MAY_BE_EMPTY and option not in MAY_BE_EMPTY:
            what = f"{option or before} is" if (option or before).startswith("--") else "an argument is"
            raise UserError(f"{what} empty, as an unset variable of the shell is; give it a value, or leave it out")


def join_resume_auto(arguments: Sequence[str]) -> list[str]:
    """Return a command line with `--resume auto` and `--resume=auto` as the one option that stands for them."""
    found: list[str] = []
    for word in arguments:
        if word == "auto" and found[-1:] == ["--resume"]:
            found[-1] = RESUME_AUTO
        elif word == "--resume=auto":
            found.append(RESUME_AUTO)
        else:
            found.append(word)
    return found
