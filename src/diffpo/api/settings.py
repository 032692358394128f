"""Keywords of a call become overrides of a recipe, as strict as those of the command line."""

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from diffpo.core.errors import UserError
from diffpo.recipes.dump import plain_table, toml_value
from diffpo.recipes.strict import Strict


def plain_settings(settings: Mapping[str, object]) -> dict[str, Any]:
    """Return keywords by their dotted keys, `budget__steps` being `budget.steps`, with values as TOML has them.

    What is None is left out: `unset_keys` has it. Raises UserError for values that no recipe can hold, and for a
    keyword that is the name of no key.
    """
    found = {_dotted(key): value for key, value in settings.items() if value is not None}
    return {key: plain(value, key) for key, value in found.items()}


def unset_keys(settings: Mapping[str, object]) -> list[str]:
    """Return the dotted keys of the keywords that are None: not set, whatever the recipe says, as TOML cannot."""
    return [_dotted(key) for key, value in settings.items() if value is None]


def refuse_twice(argument: str, settings: Mapping[str, Any], key: str) -> None:
    """Raise UserError where plain settings have a key, in a table or alone, that an argument says as well."""
    table, _, name = key.partition(".")
    inner = settings.get(table)
    if key in settings or (isinstance(inner, Mapping) and name in inner):
        raise UserError(f"{argument} and {key.replace('.', '__')} both say it; give one of them")


def _dotted(key: str) -> str:
    parts = key.split("__")
    if not all(parts):
        raise UserError(f"{key} is no key of a recipe; write KEY, or TABLE__KEY for a key of a table")
    return ".".join(parts)


def overrides_of(settings: Mapping[str, Any]) -> list[str]:
    """Return plain settings as the command line writes them."""
    return [f"{key}={toml_value(value)}" for key, value in settings.items()]


def plain(value: object, where: str) -> Any:
    """Return a value as TOML has it: a number, a text, a list or a table, without what is None. Raises UserError."""
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Strict):
        return plain_table(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [plain(item, where) for item in value]
    if callable(getattr(value, "item", None)) and getattr(value, "ndim", None) == 0:  # a number of numpy's or torch's
        return plain(getattr(value, "item")(), where)  # noqa: B009  object has none
    hint = "; a function is given as reward" if callable(value) else ""
    raise UserError(
        f"{where} is a {type(value).__name__}; a recipe has numbers, texts, lists and tables of them (dicts){hint}"
    )
