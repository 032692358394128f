"""Recipes as plain tables, as TOML, and compared."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffpo.core.user_code import is_user_code
from diffpo.recipes.files import read_table
from diffpo.recipes.strict import Strict, recipe_of
from diffpo.recipes.words import join_key, show_value

Changes = dict[str, tuple[str | None, str | None]]
"""Options by their dotted keys, with the old and the new value as TOML has them; None: not set."""


def dump_recipe(recipe: Strict) -> str:
    """Return the recipe as TOML that `load_recipe` reads back to an equal recipe.

    TOML has no null: a field that is None is left out, so a field that may be None must have None as its default.
    """
    return toml_of(plain_table(recipe))


def toml_of(table: dict[str, Any]) -> str:
    """Return a plain table as TOML."""
    return "\n".join(_table_lines(table, ())).lstrip("\n") + "\n"


def diff_recipes(old: Strict, new: Strict) -> list[str]:
    """Return what changed, as `key: old -> new` lines; empty if the recipes are equal."""
    return show_changes(_changes(plain_table(old), plain_table(new)))


def show_changes(changes: Changes) -> list[str]:
    """Return a line for each change: `key: old -> new`."""
    return [f"{key}: {old or '(not set)'} -> {new or '(not set)'}" for key, (old, new) in changes.items()]


def stored_changes(stored: Path, recipe: Strict) -> Changes:
    """Return how a recipe differs from the one that a run has stored.

    Options that the stored one does not have, because it is older, took today's defaults. Code that it names and that
    the given recipe does not name is not run: that it is another is all there is to tell.
    """
    table, given = read_table(str(stored)), plain_table(recipe)
    if user_code_in(table) <= user_code_in(given):
        return _changes(plain_table(recipe_of(type(recipe), table, f"recipe {stored}")), given)
    in_stored = dict(_leaves(table))
    return {key: change for key, change in _changes(table, given).items() if key in in_stored}


def user_code_in(value: Any) -> set[str]:
    """Return the texts in a plain table that are names of user code."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return {name for item in inner for name in user_code_in(item)}
    return {value} if is_user_code(value) else set()


def plain_table(recipe: Strict) -> dict[str, Any]:
    """Return the recipe as TOML has it: numbers, texts, lists and tables, without what is None."""
    return recipe.model_dump(mode="json", exclude_none=True)


def _changes(old: dict[str, Any], new: dict[str, Any]) -> Changes:
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return {key: (before.get(key), after.get(key)) for key in {**before, **after} if before.get(key) != after.get(key)}


def _leaves(table: dict[str, Any], where: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, join_key(where, key))
        else:
            yield join_key(where, key), toml_value(value)


def _table_lines(table: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Yield the values first: in TOML, what follows a `[header]` belongs to it."""
    yield from (f"{toml_key(key)} = {toml_value(value)}" for key, value in table.items() if not isinstance(value, dict))
    for key, value in table.items():
        if isinstance(value, dict):
            inner = (*path, toml_key(key))
            yield f"\n[{'.'.join(inner)}]"
            yield from _table_lines(value, inner)


def toml_value(value: Any) -> str:
    """Return a plain value as TOML has it, on one line."""
    match value:
        case bool():
            return show_value(value)
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(map(toml_value, value))}]"
        case dict():
            return f"{{{', '.join(f'{toml_key(key)} = {toml_value(item)}' for key, item in value.items())}}}"
        case _:
            return repr(value)


def toml_key(key: str) -> str:
    """Return a key as TOML has it, quoted where it must be."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_value(key)
