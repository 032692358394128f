"""Is a command of the documentation one that would start? Its program is asked, and nothing is run."""

import argparse
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from typer.core import TyperGroup
from typer.main import get_command

from diffpo.cli.app import app
from diffpo.cli.options import join_resume_auto
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import RlRecipe, SftRecipe

ROOT = Path(__file__).parents[2]
ASSIGNMENT = re.compile(r"^[A-Z_]+=")
MISSING = re.compile(r"(file|dir) '(.+)' does not exist")
RECIPES: Mapping[str, type[RlRecipe] | type[SftRecipe]] = {"rl": RlRecipe, "sft": SftRecipe}


def check_diffpo(words: list[str]) -> None:
    """Raise where the verb, an option or a key of the recipe does not exist, or a value is none that it takes."""
    program = get_command(app)
    assert isinstance(program, TyperGroup)
    context = program.make_context("diffpo", [], resilient_parsing=True)
    verb, *arguments = join_resume_auto(words)
    if verb.startswith("-"):
        program.make_context("diffpo", [verb], resilient_parsing=True)
        return
    command = program.get_command(context, verb)
    assert command is not None, f"diffpo has no verb {verb!r}"
    params = _read(lambda: command.make_context(verb, list(arguments), parent=context).params)
    if verb in RECIPES:
        name = params["recipe"]
        if all(Path(part).exists() for part in name.split("+") if part.endswith(".toml")):  # not a file of the reader's
            load_recipe(RECIPES[verb], name, params["overrides"] or [])


def _read(parse: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a verb reads of its arguments, and make the files and folders that must be there for it."""
    for _ in range(5):
        try:
            return parse()
        except Exception as error:
            missing = MISSING.search(str(error))
            if missing is None:
                raise
            kind, name = missing.groups()
            assert not Path(name).is_absolute()
            path = Path(name) if kind == "dir" else Path(name).parent
            path.mkdir(parents=True, exist_ok=True)
            if kind == "file":
                Path(name).touch()
    raise AssertionError("too many files are missing")


def _check_torchrun(words: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    parser: argparse.ArgumentParser = get_args_parser()
    parser.exit_on_error = False
    options = parser.parse_args(words)
    assert options.module and options.training_script == "diffpo", f"torchrun starts {options.training_script}"
    check_diffpo(options.training_script_args)


def _check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    unknown = [word for word in words if word not in targets and not ASSIGNMENT.match(word)]
    assert not unknown, f"make has no target {unknown}"


def _check_pip(words: list[str]) -> None:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {extra for word in words for found in re.findall(r"\[([a-z0-9,-]+)\]", word) for extra in found.split(",")}
    unknown = extras - set(project["optional-dependencies"])
    assert words[0] == "install" and not unknown, f"pip install: no extra {sorted(unknown)}"


def _check_python(words: list[str]) -> None:
    if words[0] == "-m":
        _check_module(words[1:])
    else:  # a file of the project, or one that a page has the reader write
        assert (ROOT / words[0]).exists() or "/" not in words[0], f"python: there is no {words[0]}"


def _check_module(words: list[str]) -> None:
    if words[0] == "diffpo":
        check_diffpo(words[1:])
    else:
        known = words[0] in ("venv", "http.server") or (ROOT / words[0].replace(".", "/")).exists()
        assert known, f"python -m: there is no {words[0]}"


def _check_tests(words: list[str]) -> None:
    paths = [word.partition("::")[0] for word in words if word.startswith("tests/")]
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing, f"pytest: there is no {missing}"


def _nothing_to_check(words: list[str]) -> None:
    pass


PROGRAMS: Mapping[str, Callable[[list[str]], None]] = {
    "diffpo": check_diffpo,
    "torchrun": _check_torchrun,
    "make": _check_make,
    "pip": _check_pip,
    "python": _check_python,
    "python3": _check_python,
    "pytest": _check_tests,
    **dict.fromkeys([".", "cat", "cd", "curl", "export", "sbatch", "git", "tensorboard"], _nothing_to_check),
}


def check_program(words: list[str]) -> None:
    """Raise AssertionError, or what the program's own reader raises, for a command that would not start."""
    while ASSIGNMENT.match(words[0]):
        words = words[1:]
    program = Path(words[0]).name or words[0]
    assert program in PROGRAMS, f"nothing is known here of the program {words[0]!r}"
    PROGRAMS[program](words[1:])
