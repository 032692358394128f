"""The typer app with all verbs. Each imports its work when it runs, so that `--help` and user errors cost no torch."""

from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from diffpo import __version__
from diffpo.cli.check_command import check
from diffpo.cli.demo_command import demo
from diffpo.cli.evaluation_commands import evaluate, report, score
from diffpo.cli.help import Verb, Verbs
from diffpo.cli.lm_eval_command import PASSES_ON, lm_eval
from diffpo.cli.model_commands import merge, push, sample
from diffpo.cli.recipes_command import recipes
from diffpo.cli.serve_command import serve
from diffpo.cli.study_commands import bench, study
from diffpo.cli.training_commands import rl, sampler, sft
from diffpo.core.output import show

app = typer.Typer(
    cls=Verbs,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(is_wanted: bool) -> bool:
    if is_wanted:
        show(f"diffpo {__version__}")
        raise typer.Exit
    return is_wanted


@app.callback()
def diffpo(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train masked diffusion language models by reinforcement learning; measure accuracy and denoiser calls.

    \b
    Examples:
      diffpo demo                     see all of it in five minutes
      diffpo recipes                  list what can be trained
      diffpo rl --help                how one verb is used
    """


VERBS: Mapping[str, Callable[..., None]] = {
    "sft": sft,
    "rl": rl,
    "sampler": sampler,
    "recipes": recipes,
    "check": check,
    "eval": evaluate,
    "score": score,
    "lm-eval": lm_eval,
    "sample": sample,
    "serve": serve,
    "merge": merge,
    "push": push,
    "report": report,
    "study": study,
    "bench": bench,
    "demo": demo,
}
"""In the order in which `--help` lists them."""
for name, command in VERBS.items():
    app.command(name, cls=Verb, context_settings=PASSES_ON if command is lm_eval else None)(command)
