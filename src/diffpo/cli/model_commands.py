"""`diffpo sample` and `diffpo merge`: complete a prompt, and make one model of an adapter and its base."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from diffpo.cli.options import Model
from diffpo.core.errors import UserError
from diffpo.core.output import show
from diffpo.distributed.process import current_process, require_single_process


def sample(
    model: Model,
    prompt: Annotated[str | None, typer.Option(help="What to complete.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Prompts to complete: a .jsonl file with a field prompt in each line, a text or a list of messages.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", dir_okay=False, help="With --file: where its lines go, with completion, nfe and seed."),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(min=1, max=2**20, help="Tokens of the completion. [default: its training's]"),
    ] = None,
    entropy_bound: Annotated[
        float | None,
        typer.Option(min=0, max=1e12, help="0: one token per denoiser call. [default: the controller's choice, or 0]"),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(help="What one call per token costs in accuracy: the model's sampler decodes for it."),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, max=1e12, help="0 takes the likeliest token.")] = 0.0,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="With --file: of its first line; the next has one more.")
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, help="With --file: completions that a process decodes at a time.")] = 64,
    quiet: Annotated[bool, typer.Option("--quiet", help="With --file: print the path of OUT alone.")] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto: a CUDA device if there is one.")
    ] = "auto",
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of the weights.")] = "float32",
) -> None:
    """Complete a prompt, token by token, or all prompts of a file.

    \b
    Examples:
      diffpo sample runs/rl --prompt '4.2..1...3..2..4'
      diffpo sample runs/rl --file prompts.jsonl --out completions.jsonl
    """
    from diffpo.core.price import check_price
    from diffpo.recipes.stored import sampled_length

    if price is not None:
        check_price(price)
        if entropy_bound is not None:
            raise UserError(
                "--price lets the model's sampler choose how to decode, and --entropy-bound says how; give one"
            )
    if file is None:
        if prompt is None:
            raise UserError("what to complete? Give --prompt, or --file and --out")
        if out is not None or quiet:
            raise UserError("--out and --quiet go with --file, and there is none; leave them out")
        require_single_process("completing one prompt")
    else:
        if prompt is not None:
            raise UserError("--prompt and --file both say what to complete; give one")
        if out is None:
            raise UserError("where to? Give --out, the file for the completions")

    length = sampled_length(model, length)  # a folder without a model is refused before torch is imported
    if file is None or out is None:
        from diffpo.cli.show_completion import run_sample

        run_sample(model, prompt or "", length, entropy_bound, price, temperature, seed, device, dtype)
        return
    from diffpo.evaluation.sample_file import FileSettings, run_sample_file
    from diffpo.recipes.tables import DeviceSettings

    settings = FileSettings(length, entropy_bound, price, temperature, seed, batch, quiet)
    told = run_sample_file(model, file, out, settings, DeviceSettings(device=device, dtype=dtype))
    if current_process().is_main:
        show(str(out) if quiet else f"{told}\nwrote {out}")


def merge(
    model_dir: Annotated[
        Path,
        typer.Argument(metavar="MODEL_DIR", help="A run or its checkpoint.", exists=True, file_okay=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="Where the model goes.", file_okay=False)],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of the weights. [default: the base's, or the one that a sharded run computed in]"),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The adapter's base, if it is not where it was.", metavar="DIR")
    ] = None,
) -> None:
    """Make one folder of an adapter and its base, or of a sharded run.

    \b
    Example:
      diffpo merge runs/rl --out models/rl --dtype bfloat16
    """
    import torch

    from diffpo.runs.merge import run_merge

    run_merge(model_dir, out, None if dtype is None else getattr(torch, dtype), base)
    show(f"wrote {out}")
