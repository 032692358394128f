"""`diffpo demo`: the whole way from a random model to a report, in minutes on a CPU."""

from pathlib import Path
from typing import Annotated

import typer

from diffpo.cli.options import Seed
from diffpo.core.output import show


def demo(
    out: Annotated[Path, typer.Option(file_okay=False, help="Where everything goes.")] = Path("runs/demo"),
    seed: Seed = 0,
) -> None:
    """Train a tiny model here, and report what it learnt.

    \b
    Example:
      diffpo demo --seed 1 --out runs/demo-1
    """
    show("loading torch")  # seconds, on a cold disk: do not leave the terminal silent
    from diffpo.cli.demo import run_demo

    run_demo(out, seed)
