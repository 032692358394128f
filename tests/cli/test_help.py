"""`--help` of every verb: it fits a screen, has examples that are right, and costs next to nothing."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from diffpo.cli.app import VERBS, app
from diffpo.recipes import load_recipe
from diffpo.recipes.training_recipe import RECIPES

SCREEN = 40
"""Lines of a screen, of 80 columns."""


def help_of(*arguments: str) -> str:
    command = typer.main.get_command(app)
    context = command.make_context("diffpo", [], resilient_parsing=True, terminal_width=80, max_content_width=80)
    if arguments:
        command = command.commands[arguments[0]]  # type: ignore[attr-defined]
        context = command.make_context(
            arguments[0], [], parent=context, resilient_parsing=True, terminal_width=80, max_content_width=80
        )
    return command.get_help(context)


def examples_of(verb: str) -> Iterator[list[str]]:
    """Yield the words of the examples of a verb's help, without `diffpo` and the verb."""
    for line in help_of(verb).splitlines():
        if line.startswith(f"    diffpo {verb}"):
            yield shlex.split(line.partition(" > ")[0])[2:]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_help_fits_a_screen_and_has_examples_that_are_right(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_of(verb).splitlines()
    assert len(lines) <= SCREEN and max(map(len, lines)) <= 80
    monkeypatch.chdir(tmp_path)
    for file in ("answers.jsonl", "prompts.jsonl", "rows.jsonl"):
        Path(file).touch()
    Path("runs/rl").mkdir(parents=True)
    examples = list(examples_of(verb))
    assert examples
    for words in examples:
        command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
        given = command.make_context(verb, list(words)).params
        if verb in RECIPES:
            load_recipe(RECIPES[verb], given["recipe"], given["overrides"] or ())


def test_the_list_of_verbs_is_not_cut() -> None:
    text = help_of()
    assert len(text.splitlines()) <= SCREEN and "..." not in text.partition("Commands:")[2]
    for verb in VERBS:
        assert re.search(rf"\n  {verb} +[A-Z]", text), verb


def test_options_are_in_groups() -> None:
    text = help_of("rl")
    own, _, of_both = text.partition("\nOptions:\n")[2].partition("\nOptions of --dry-run (docs/bill.md) and")
    assert "--resume" in own and "--tflops" not in own
    assert "--devices" in of_both and "--tflops" in of_both.partition("\nOptions of --dry-run:\n")[2]
    assert "--resume-auto" not in text


def test_help_imports_nothing_heavy_and_takes_no_time() -> None:
    script = (
        "import sys, time\n"
        "from diffpo.cli.main import main\n"
        "def ask(*words):\n"
        "    try:\n"
        "        main([*words, '--help'])\n"
        "    except SystemExit:\n"
        "        pass\n"
        "ask()\n"
        "print(time.process_time() < 0.5, file=sys.stderr)\n"
        "from diffpo.cli.app import VERBS\n"
        "for verb in VERBS:\n"
        "    ask(verb)\n"
        "heavy = {'torch', 'transformers', 'numpy', 'diffpo.recipes', 'rich', 'jinja2'}\n"
        "print(*sorted(heavy & sys.modules.keys()), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "True\n\n"
    assert done.stdout.count("Usage: diffpo") == 1 + len(VERBS)
