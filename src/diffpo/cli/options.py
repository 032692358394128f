"""Arguments and options that several verbs share."""

from typing import Annotated

import typer

Overrides = Annotated[list[str] | None, typer.Argument(metavar="TABLE.KEY=VALUE", help="Changes to the recipe: seed=1")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model's folder, a run's, or ORG/NAME[@REVISION].")]
Seed = Annotated[int, typer.Option(min=0)]
