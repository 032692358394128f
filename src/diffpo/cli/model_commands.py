"""`diffpo sample` and `diffpo merge`: complete a prompt, and make one model of an adapter and its base."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from diffpo.cli.options import Model, Seed
from diffpo.core.output import show


def sample(
    model: Model,
    prompt: Annotated[str, typer.Option(help="What to complete.")],
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
    seed: Seed = 0,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto: a CUDA device if there is one.")
    ] = "auto",
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of the weights.")] = "float32",
) -> None:
    """Complete a prompt, token by token."""
    from diffpo.core.errors import UserError
    from diffpo.core.price import check_price
    from diffpo.recipes.stored import sampled_length

    if price is not None:
        check_price(price)
        if entropy_bound is not None:
            raise UserError(
                "--price lets the model's sampler choose how to decode, and --entropy-bound says how; give one"
            )

    length = sampled_length(model, length)  # a folder without a model is refused before torch is imported
    from diffpo.cli.show_completion import run_sample

    run_sample(model, prompt, length, entropy_bound, price, temperature, seed, device, dtype)


def merge(
    model_dir: Annotated[Path, typer.Argument(metavar="MODEL_DIR", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option("--out", help="Where the model goes.", file_okay=False)],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of the weights. [default: that of the base]"),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The adapter's base, if it is not where it was.", metavar="DIR")
    ] = None,
) -> None:
    """Make one model of an adapter and its base."""
    import torch

    from diffpo.runs.merge import run_merge

    run_merge(model_dir, out, None if dtype is None else getattr(torch, dtype), base)
    show(f"wrote {out}")
