"""`diffpo sample`, `diffpo merge` and `diffpo push`: complete prompts, make one model of an adapter and its base, and
bring a model to the hub."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from diffpo.cli.next_step import say_next, say_next_of_run
from diffpo.cli.options import Model
from diffpo.core.errors import UserError
from diffpo.core.output import show
from diffpo.distributed.process import current_process, require_single_process

OF_FILE = "Options of --file"
OF_CHAT = "Options of --chat"


def sample(
    model: Model,
    prompt: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="What to complete.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, metavar="JSONL", help="Prompts: a field prompt in each line, text or messages."
        ),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Talk with it; /exit ends.")] = False,
    length: Annotated[
        int | None,
        typer.Option(min=1, max=2**20, metavar="N", help="Tokens of a completion. [default: its training's]"),
    ] = None,
    entropy_bound: Annotated[
        float | None,
        typer.Option(min=0, max=1e12, metavar="NATS", help="0: a token a call. [default: its controller's, or 0]"),
    ] = None,
    price: Annotated[
        float | None, typer.Option(metavar="X", help="Of one call per token, in accuracy: its sampler decodes.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, max=1e12, metavar="X", help="0: the likeliest tokens.")] = 0.0,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, metavar="N", help="The next line's or turn's is one more.")
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the text alone; with --file the path of OUT.")] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto: a CUDA device if there is one.")
    ] = "auto",
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of the weights.")] = "float32",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            dir_okay=False,
            metavar="JSONL",
            help="Its lines, with completion, nfe and seed.",
            rich_help_panel=OF_FILE,
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Completions at a time, in a process.", rich_help_panel=OF_FILE),
    ] = 64,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The conversation's first message.", rich_help_panel=OF_CHAT)
    ] = None,
) -> None:
    """Complete a prompt, token by token, or all prompts of a file.

    \b
    Examples:
      diffpo sample runs/rl --prompt '312de4g34jkl1nop'
      diffpo sample runs/rl --file prompts.jsonl --out completions.jsonl
      diffpo sample GSAI-ML/LLaDA-8B-Instruct --chat --length 128
    """
    from diffpo.core.price import check_price
    from diffpo.recipes.stored import sampled_length

    if price is not None:
        check_price(price)
        if entropy_bound is not None:
            raise UserError(
                "--price lets the model's sampler choose how to decode, and --entropy-bound says how; give one"
            )
    if prompt and len(prompt) > 1:
        raise UserError(f"--prompt is given {len(prompt)} times; give one, or a file of several: --file and --out")
    ways = {"--prompt": bool(prompt), "--file": file is not None, "--chat": chat}
    given = [name for name, is_given in ways.items() if is_given]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} both say what to complete; give one")
    if not given:
        raise UserError("what to complete? Give --prompt, or --file and --out, or --chat")
    if out is not None and file is None:
        raise UserError("--out goes with --file, and there is none; leave it out")
    if system is not None and not chat:
        raise UserError("--system goes with --chat, and there is none; leave it out")
    if file is not None and out is None:
        raise UserError("where to? Give --out, the file for the completions")
    if file is None:
        require_single_process("a conversation" if chat else "completing one prompt")

    length = sampled_length(model, length)  # a folder without a model is refused before torch is imported
    from diffpo.evaluation.sample_settings import SampleSettings
    from diffpo.recipes.tables import DeviceSettings

    settings = SampleSettings(length, entropy_bound, price, temperature, seed, batch, quiet)
    place = DeviceSettings(device=device, dtype=dtype)
    if file is None or out is None:
        if chat:
            from diffpo.cli.show_completion import run_chat

            run_chat(model, system, settings, place)
        else:
            from diffpo.cli.show_completion import run_sample

            run_sample(model, prompt[0] if prompt else "", settings, place)
            if not quiet and Path(model, "recipe.toml").is_file():
                say_next_of_run(model)
        return
    from diffpo.evaluation.sample_file import run_sample_file

    told = run_sample_file(model, file, out, settings, place)
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
    say_next("sample", str(out), "--prompt", "1 + 2", "--length", "32")


def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A model's folder, or a run's.", file_okay=False)],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Where to on the Hugging Face hub: ORG/NAME.")],
    private: Annotated[bool, typer.Option("--private", help="Only you, or your organisation, can see it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be sent; asks no hub.")] = False,
) -> None:
    """Bring a saved model and its card to the Hugging Face hub.

    \b
    Examples:
      diffpo push runs/mine me/sudoku --dry-run
      diffpo push runs/mine me/sudoku --private
    """
    from diffpo.runs.push import published_files, run_push, show_files

    files = published_files(folder, repo)
    show(show_files(files, repo))
    if dry_run:
        say_next("push", str(folder), repo, *(["--private"] if private else []))
    else:
        show(f"it is at {run_push(files, repo, private)}")
