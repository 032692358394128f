"""`diffpo lm-eval`: EleutherAI's harness, with diffpo's models in it."""

from importlib.util import find_spec
from typing import Annotated

import typer

from diffpo.core.errors import UserError

PASSES_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}
"""Of the command's context: all words are lm-eval's."""


def lm_eval(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGUMENTS", help="Those of lm_eval; --model diffpo is understood.")
    ] = None,
) -> None:
    """Run lm-evaluation-harness on a model of diffpo's.

    --model_args takes pretrained=MODEL and, where wanted, length, entropy_bound, price, block_length, seed, dtype.

    \b
    Examples:
      diffpo lm-eval --model_args pretrained=runs/a,price=0.1 --tasks gsm8k
      diffpo lm-eval --model_args pretrained=runs/a --include_path . --tasks mine
    """
    if find_spec("lm_eval") is None:
        raise UserError("lm-evaluation-harness is not installed: pip install 'diffpo[lm-eval]'; or use diffpo eval")
    if not arguments:
        raise UserError("what to measure? Give --model_args pretrained=MODEL and --tasks NAME; diffpo lm-eval --help")
    from diffpo.evaluation.lm_harness import run_harness

    run_harness(arguments)
