"""The model card, README.md: what a saved model is, where it comes from, how to load it, and its limits.

It is a pure function of the folder, of its run's files and of the command line. Imports no torch.
"""

import hashlib
import json
import platform
import re
import shlex
import sys
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from diffpo.core.errors import UserError
from diffpo.core.hub_name import parse_hub_name
from diffpo.core.printable import printable, without_secrets
from diffpo.models.manifest import CARD, PROGRESS
from diffpo.models.model_paths import ADAPTER_CONFIG, CONFIG, RECIPE, is_adapter, read_json
from diffpo.recipes.files import verb_of_stored
from diffpo.recipes.stored import stored_task
from diffpo.runs.card_results import no_results
from diffpo.tasks.families import TASK_FAMILIES

NAMES = {"llada": "LLaDA", "dream": "Dream"}
TRAINED = {"rl": "trained by reinforcement learning", "sft": "fine-tuned on solved problems", "sampler": "as it was,"}
VERSIONS = ("diffpo", "torch", "transformers", "tokenizers", "safetensors")
DEEPEST = 10
"""Runs that started from runs, up to a model of the hub."""


@dataclass(frozen=True)
class Origin:
    """What a run's folder says of how a model came about."""

    name: str
    recipe: str
    """The stored recipe's text; empty where there is none."""
    table: Mapping[str, Any]
    progress: Mapping[str, Any]

    @property
    def verb(self) -> str:
        """The verb of the command that trains by such a recipe; empty without one."""
        return verb_of_stored(self.table)

    @property
    def task(self) -> Mapping[str, Any]:
        task = self.table.get("task")
        return task if isinstance(task, dict) else {}

    @property
    def length(self) -> int | None:
        """Tokens of a completion in training; None where the recipe does not say."""
        length = self.task.get("completion_length")
        return length if isinstance(length, int) else None


def write_card(folder: Path, run: Path, name: str | None = None, before: Sequence[str] = ()) -> None:
    """Write the card of the model in `folder`, which `run`, a run's folder or a checkpoint of one, has trained.

    `before`: the commands that came before this process's. The folder must be one that is being written: a card that is
    there is replaced.
    """
    origin = origin_of(run, folder)
    text = card_text(folder, origin, name or origin.name, [*before, *command_line()])
    (folder / CARD).write_text(text, encoding="utf-8", errors="backslashreplace")


def origin_of(run: Path, folder: Path) -> Origin:
    """Return what the recipe of a run, and the progress of the model in `folder`, say."""
    recipe, table = "", dict[str, Any]()
    found = next((file for file in (run / RECIPE, run.parent / RECIPE) if file.is_file()), None)
    if found is not None:
        recipe = found.read_text(encoding="utf-8")
        table = tomllib.loads(recipe)
        with suppress(UserError):  # of a task of the user's own, which alone knows its length
            table["task"] = table.get("task", {}) | {"completion_length": stored_task(run).completion_length}
    progress = read_json(folder / PROGRESS) if (folder / PROGRESS).is_file() else {}
    return Origin((run if found is None else found.parent).absolute().name, recipe, table, progress)


def command_line() -> list[str]:
    """Return the command of this process as it would be typed; a list of it, or of nothing in a notebook."""
    script = Path(sys.argv[0] or "-")
    if script.name in ("-", "-c", "-m") or "ipykernel" in str(script):
        return []
    is_ours = script.name == "diffpo" or (script.name == "__main__.py" and script.parent.name == "diffpo")
    return [without_secrets(shlex.join([*(["diffpo"] if is_ours else ["python", script.name]), *sys.argv[1:]]))]


def commands_of(folder: Path) -> list[str]:
    """Return the commands that the card in a folder names; none where there is no card that can be read."""
    try:
        found = ModelCard.load(folder / CARD).data.get("diffpo", {})
        return [str(command) for command in found.get("commands", [])]
    except Exception:  # noqa: BLE001  the card is people's, too: it may be gone, no YAML, or of another shape
        return []


def base_model(table: Mapping[str, Any], depth: int = DEEPEST) -> str | None:
    """Return the hub's model that a run has started from, through the runs between them; None where there is none."""
    base = table.get("base")
    if not isinstance(base, str):
        return None
    path = Path(base)
    for file in (path / RECIPE, path.parent / RECIPE):
        if path.exists() and file.is_file() and depth:
            try:
                return base_model(tomllib.loads(file.read_text(encoding="utf-8")), depth - 1)
            except (OSError, ValueError):
                return None
    name = parse_hub_name(base)
    return name.repository if name is not None and not path.exists() else None


def datasets_of(task: Mapping[str, Any]) -> list[str]:
    """Return the hub's data sets that a task's rows come from."""
    family = TASK_FAMILIES.get(str(task.get("kind")))
    sources = [task.get("source") or (family.source if family else None), task.get("test_source")]
    names = [parse_hub_name(source) for source in sources if isinstance(source, str) and not Path(source).exists()]
    return list(dict.fromkeys(name.repository for name in names if name is not None))


def card_text(folder: Path, origin: Origin, name: str, commands: Sequence[str]) -> str:
    """Return the card of a model."""
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    has_adapter, kind = is_adapter(folder), str(config.get("model_type", ""))
    base = base_model(origin.table)
    if has_adapter and base is None:
        named = parse_hub_name(str(read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")))
        base = named.repository if named else None
    about: dict[str, Any] = {"commands": list(commands), "versions": versions()}
    if origin.recipe:
        about |= {"recipe_sha256": hashlib.sha256(origin.recipe.encode()).hexdigest(), "seed": origin.table.get("seed")}
    tags = ["diffpo", "masked-diffusion", "diffusion-language-model", kind, origin.verb, origin.task.get("kind")]
    data = ModelCardData(
        library_name="peft" if has_adapter else "diffpo",
        pipeline_tag="text-generation",
        base_model=base,
        datasets=datasets_of(origin.task) or None,
        tags=[str(tag) for tag in [*tags, "lora" if has_adapter else None] if tag and is_plain(str(tag))],
        diffpo=about,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {escaped(name)}",
        opening(origin, kind, has_adapter, base),
        use(name, origin, has_adapter),
        f"## Results\n\n{no_results()}",
        making(origin, about),
        limits(origin),
    ]
    return "\n\n".join(parts) + "\n"


def opening(origin: Origin, kind: str, has_adapter: bool, base: str | None) -> str:
    what = "An adapter of a" if has_adapter else "A"
    task = f", on the task `{origin.task['kind']}`" if is_plain(str(origin.task.get("kind", "-/"))) else ""
    how = f", {TRAINED[origin.verb]} with [diffpo](https://github.com/diffpo/diffpo){task}" if origin.verb else ""
    if origin.verb == "sampler":
        how = f" with a learned sampler that takes the price of a call, fitted with diffpo{task}"
    family = f" of {NAMES[kind]}'s architecture" if kind in NAMES else ""
    source = f" It comes from [{base}](https://huggingface.co/{base})." if base else ""
    return (
        f"{what} masked diffusion language model{family}{how}.{source} Such a model writes several tokens in one call "
        "of its network; how many calls an answer takes (NFE) is what it costs."
    )


def use(name: str, origin: Origin, has_adapter: bool) -> str:
    length = "" if origin.length is None else f", length={origin.length}"
    extra = "pip install 'diffpo[lora]'" if has_adapter else "pip install diffpo"
    code = f"""import diffpo

policy = diffpo.load({json.dumps(name)})  # this folder, or its name on the hub
for completion in diffpo.complete(policy, ["..."]{length}):
    print(completion.text, completion.nfe)"""
    return (
        f"## Use\n\n{fenced(extra)}\n\n{fenced(code, 'python')}\n\n`policy.denoiser.model` is a transformers model, "
        "and `policy.tokenizer` its tokenizer. transformers alone does not know the architecture; `diffpo.load` does, "
        "and runs no code of this folder."
    )


def making(origin: Origin, about: Mapping[str, Any]) -> str:
    lines = []
    if about["commands"]:
        lines += ["By the command" + ("s" if len(about["commands"]) > 1 else ""), fenced("\n".join(about["commands"]))]
    facts = {
        "seed": about.get("seed"),
        "steps": origin.progress.get("step"),
        "denoiser calls" if origin.verb != "sft" else "sequences": origin.progress.get("denoiser_calls"),
        "started from": origin.table.get("base"),
        "SHA-256 of the recipe": about.get("recipe_sha256"),
        "versions": ", ".join(f"{name} {number}" for name, number in about["versions"].items()),
    }
    rows = [f"| {name} | {escaped(str(value))} |" for name, value in facts.items() if value is not None]
    lines.append("\n".join(["| | |", "|---|---|", *rows]))
    if origin.recipe:
        recipe = fenced(origin.recipe.rstrip("\n"), "toml")
        again = f"`diffpo {origin.verb} recipe.toml --out DIR`"
        if origin.verb == "sampler":
            again = "`diffpo sampler BASE --recipe recipe.toml --out DIR`"
        lines.append(f"<details><summary>The recipe, for {again}</summary>\n\n{recipe}\n\n</details>")
    return "## How it was made\n\n" + "\n\n".join(lines)


def limits(origin: Origin) -> str:
    lines = [
        "It was trained for one task and not tried on others: in other formats, expect little.",
        "Accuracy depends on how many calls an answer may take: compare results at equal NFE, with their intervals.",
        "It has had no training and no test for safety.",
    ]
    if origin.verb == "rl":
        lines.insert(1, "Training raises a reward, which may be met in ways that nobody meant; read some completions.")
    if origin.length is not None:
        lines.insert(1, f"It was trained to answer in {origin.length} tokens at most, the canvas that it fills.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # diffpo itself, from a source tree
            from diffpo import __version__

            found[name] = __version__
    return found


def fenced(text: str, language: str = "") -> str:
    """Return a block of code that no text can end."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def escaped(text: str) -> str:
    """Return a text for a heading or a cell of a table, without effect as Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>()#|])", r"\\\1", printable(text).replace("\n", " "))


def is_plain(text: str) -> bool:
    """Return whether a text can be a tag: a word, without paths of the user's own."""
    return re.fullmatch(r"[\w.-]+", text) is not None
