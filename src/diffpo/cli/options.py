"""Arguments and options that several verbs share."""

from collections.abc import Sequence
from typing import Annotated

import typer

Overrides = Annotated[list[str] | None, typer.Argument(metavar="TABLE.KEY=VALUE", help="Changes to the recipe: seed=1")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model's folder, a run's, or ORG/NAME[@REVISION].")]
RESUME_AUTO = "--resume-auto"
"""What `--resume auto` is read as: typer has no option whose value may be left out."""
Seed = Annotated[int, typer.Option(min=0)]


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
