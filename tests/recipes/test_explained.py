"""`diffpo recipes`: what it prints can be saved and used, and says what every key means."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffpo.core.errors import UserError
from diffpo.recipes import load_recipe, piece_names, recipe_names
from diffpo.recipes.catalogue import KINDS, kind_of
from diffpo.recipes.custom import CustomPart
from diffpo.recipes.files import read_conditions, read_table
from diffpo.recipes.meanings import meaning, values
from diffpo.recipes.reference import reference_page
from diffpo.recipes.shown import listing, shown
from diffpo.recipes.strict import Strict, table_classes
from diffpo.recipes.tables import EvalRecipe, LoraRecipe, RlRecipe, SftRecipe, SudokuTask

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "recipes.md"
JOINED = ("d1+llada-8b+gsm8k+1gpu", "diffpo+dream-7b+math500+1gpu-4bit", "d1-sft+llada-8b", "spg+sudoku-d1")


def tables_of(table: type[Strict]) -> Iterator[type[Strict]]:
    """Yield a table and all that stand in it."""
    yield table
    for field in table.model_fields.values():
        for inner in table_classes(field.annotation):
            yield from tables_of(inner)


def test_every_key_has_a_meaning() -> None:
    tables = {table for kind in KINDS.values() for table in tables_of(kind.recipe)}
    assert len(tables) > 50
    keys = [(table.__name__, key) for table in tables for key in table.model_fields if not meaning(table, key)]
    assert keys == []


def test_a_meaning_is_the_docstring_of_the_key_or_of_a_parent() -> None:
    assert meaning(LoraRecipe, "alpha") == "What the adapter adds is scaled by alpha / rank."
    # Its docstring stands with the settings that all devices share; and `kind` means what the table is.
    assert meaning(RlRecipe, "threads").startswith("Torch threads; not set: torch's own choice.")
    assert meaning(SudokuTask, "kind").startswith("Sudoku puzzles")


def test_what_may_stand_in_a_key_is_in_words() -> None:
    fields = SftRecipe.model_fields | EvalRecipe.model_fields
    assert values(fields["threads"]) == "integer from 1 to 1024"
    assert values(fields["too_long"]) == '"cut" or "skip"'
    assert values(fields["bounds"]) == "array of numbers from 0"
    assert values(SudokuTask.model_fields["cell_credit"]) == "number from 0 to 1"
    assert values(SudokuTask.model_fields["reward"]) == "text or table of numbers"


@pytest.mark.parametrize("name", [*recipe_names(), *JOINED])
def test_what_is_printed_can_be_saved_and_used(name: str, tmp_path: Path) -> None:
    kind = kind_of(name, read_table(name)).recipe
    text = shown(name)
    assert max(len(line) for line in text.splitlines() if line.startswith("# ")) <= 80
    file = tmp_path / "my.toml"
    file.write_text(text, encoding="utf-8")
    wanted = load_recipe(kind, name)
    assert load_recipe(kind, str(file)) == wanted
    is_there = {line.removeprefix("#").partition(" = ")[0] for line in text.splitlines()}
    for key in keys_of(wanted):
        assert key in is_there or f"[{key}]" in text or f"{key} =" in is_there, key


def keys_of(table: Strict) -> Iterator[str]:
    for key in type(table).model_fields:
        value = getattr(table, key)
        if isinstance(value, Strict):
            yield from keys_of(value)
        elif value is not None:
            yield key


def test_what_is_not_set_stands_in_comments() -> None:
    text = shown("tiny-d1")
    assert "\n#base_bits =\n" in text and "\n#max_in_flight =\n" in text
    tables = re.sub(r"(?m)^#(\[|\w+ = .)", r"\1", text)  # as a user would who wants all of them
    assert tomllib.loads(tables)["lora"] == {"rank": 128, "alpha": 64}
    assert tomllib.loads(tables)["rollout"]["speeds"]["high"] == 10.0
    assert "lora" not in tomllib.loads(text)


def test_a_key_stands_below_its_meaning_with_what_may_be_there_and_the_default() -> None:
    lines = shown("tiny-d1", ["rollout.group_size=4"]).splitlines()
    at = lines.index("group_size = 4")
    assert " ".join(line.removeprefix("# ") for line in lines[at - 2 : at]) == (
        "Completions of a prompt, which are compared with each other. [integer from 1; default 8]"
    )
    # The default of a key is that of the table which stands there by default.
    assert "# Learning rate. [number above 0; default 0.0001]" in lines


@pytest.mark.parametrize("name", piece_names())
def test_a_piece_is_printed_as_what_it_says(name: str) -> None:
    table = tomllib.loads(shown(name))
    assert table.pop("with", {}) == read_conditions(name)
    assert table == read_table(name)


def test_what_a_recipe_says_of_pieces_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.toml").write_text(shown("d1"), encoding="utf-8")
    assert read_conditions("d1").keys() == {"sudoku-d1", "countdown-d1"}
    assert load_recipe(RlRecipe, "my.toml+sudoku-d1") == load_recipe(RlRecipe, "d1+sudoku-d1")
    assert "sudoku-d1" not in tomllib.loads(shown("d1+sudoku-d1"))["with"]


def test_a_class_of_ones_own_has_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    overrides = ['objective={kind="examples/custom_objective.py:Gspo", clip=3e-4}']
    text = shown("tiny-d1", overrides)
    assert tomllib.loads(text)["objective"]["clip"] == 3e-4
    file = tmp_path / "my.toml"
    file.write_text(text, encoding="utf-8")
    assert load_recipe(RlRecipe, str(file)) == load_recipe(RlRecipe, "tiny-d1", overrides)
    assert isinstance(load_recipe(RlRecipe, str(file)).objective, CustomPart)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("steps = 3\n", "sft"),
        ("base = 'x'\n[budget]\nsteps = 3\n", "rl"),
        ("model = 'x'\nbounds = [0.1]\n", "eval"),
        ("base = 'x'\n[fit]\nsteps = 3\n", "sampler"),
        ("name = 'x'\nkind = 'arms'\narms = []\ntasks = []\nbudget = 3\n", "study"),
    ],
)
def test_a_file_is_of_the_verb_that_knows_its_keys(text: str, name: str) -> None:
    table: dict[str, Any] = tomllib.loads(text)
    assert kind_of("my.toml", table).name == name


def test_the_listing_has_every_recipe_in_a_line_of_its_own() -> None:
    lines = listing(80).splitlines()
    assert max(map(len, lines)) <= 80
    listed = {line.split()[0]: line.split(maxsplit=1)[1:] for line in lines if line.startswith("  ")}
    assert listed.keys() == {*recipe_names(), *piece_names()}
    assert all(listed.values()) and not any(words[0].endswith("...") for words in listed.values())


def test_a_recipe_that_is_not_there_is_a_users_mistake() -> None:
    with pytest.raises(UserError, match="did you mean 'tiny-diffpo'"):
        shown("tiny-difpo")


def test_the_reference_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference_page(), (
        "run diffpo recipes --reference > docs/reference/recipes.md"
    )
