"""`diffpo serve`: an OpenAI-compatible endpoint and a page for trained models."""

from importlib.util import find_spec
from typing import Annotated, Literal

import typer

from diffpo.core.errors import UserError


def serve(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL", help="Folders of models or runs, or ORG/NAME[@REVISION].")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; others than 127.0.0.1 let other machines in.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: one that is free.")] = 8000,
    length: Annotated[
        int | None,
        typer.Option(min=1, max=2**20, help="Tokens where a request has no max_tokens. [default: its training's]"),
    ] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(min=2, max=2**20, help="Most tokens of prompt and completion. [default: the model's positions]"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=2**16, help="Completions that a model draws at a time.")] = 64,
    queue: Annotated[int, typer.Option(min=0, max=2**20, help="Completions that may wait; more are refused.")] = 256,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto: a CUDA device if there is one.")
    ] = "auto",
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of the weights.")] = "float32",
) -> None:
    """Serve models to OpenAI's clients, and on a page.

    The page shows each token appear where a denoiser call commits it. Needs the extra: pip install 'diffpo[serve]'.

    \b
    Examples:
      diffpo serve runs/rl
      diffpo serve runs/base runs/rl --port 8080
    """
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"diffpo serve needs {' and '.join(missing)}, which are not installed: pip install 'diffpo[serve]'"
        )
    from diffpo.recipes.tables import DeviceSettings
    from diffpo.serve.run import ServeSettings, run_serve

    settings = ServeSettings(host, port, length, batch, queue, max_model_len)
    run_serve(models, settings, DeviceSettings(device=device, dtype=dtype))
