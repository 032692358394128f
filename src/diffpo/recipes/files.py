"""Where a recipe's table comes from: TOML files, built-in recipes, pieces of recipes, overrides; joined in this order.

A piece is a recipe in part: a model, a task, a machine. `d1+gsm8k+1gpu` is d1 with what the two pieces say. What an
algorithm does otherwise on a task stands with the algorithm: its table `[with.PIECE]` counts where that piece is
joined, too.
"""

import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from diffpo.core.errors import UserError
from diffpo.core.files import is_file
from diffpo.core.suggestion import suggested_path, suggestion

FOLDERS = ("rl", "sft", "sampler", "eval", "study")
PIECES = "pieces"


def recipe_names() -> list[str]:
    """The names of the built-in recipes."""
    return sorted(name for folder in FOLDERS for name in built_in_names(folder))


def piece_names() -> list[str]:
    """The names of the built-in pieces."""
    return built_in_names(PIECES)


def built_in_names(folder: str) -> list[str]:
    """The names of the recipes of one of FOLDERS, or of the pieces."""
    files = (_built_in() / folder).iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def read_table(names: str | Mapping[str, Any]) -> dict[str, Any]:
    """The table of one recipe, or of several joined with +, the later ones over the earlier; a table is its own copy.

    Each is the path of a TOML file or a built-in name. Raises UserError for one that is not there or is no TOML.
    """
    if isinstance(names, Mapping):
        return deepcopy(dict(names))
    table: dict[str, Any] = {}
    joined: list[str] = []
    conditions: list[Mapping[str, Any]] = []
    for name in parts_of(names):
        part = _read(name)
        own = _conditions(part, name)
        table = laid_over(table, part)
        for conditional in [own[piece] for piece in joined if piece in own]:
            table = laid_over(table, conditional)
        joined.append(name)
        conditions.append(own)
        for conditional in [other[name] for other in conditions if name in other]:
            table = laid_over(table, conditional)
    return table


def parts_of(names: str) -> list[str]:
    """The names of recipes that are joined with +; the path of a file that is there is one name."""
    return [names] if is_file(Path(names)) else names.split("+")


def read_conditions(names: str) -> dict[str, Any]:
    """What a recipe, or several joined, says on condition of pieces that are not joined with it, by their names."""
    found: dict[str, Any] = {}
    for name in parts_of(names):
        found = laid_over(found, _conditions(_read(name), name))
    return {piece: table for piece, table in found.items() if piece not in parts_of(names)}


def verb_of_stored(table: Mapping[str, Any]) -> str:
    """Return the verb whose runs store such a recipe, all keys of it: sft, rl or sampler; empty for none of them."""
    own = {"sft": "weighting", "rl": "budget", "sampler": "states"}
    return next((verb for verb, key in own.items() if key in table), "")


def _conditions(part: dict[str, Any], name: str) -> dict[str, Any]:
    """Take the `with` table out of a recipe's: for each piece what the recipe says where it is joined with it.

    Raises UserError where it is none, or names what is no piece.
    """
    own = part.pop("with", {})
    if not isinstance(own, dict) or not all(isinstance(inner, dict) for inner in own.values()):
        raise UserError(f"recipe {name}: with should be tables, one for each piece: [with.PIECE.objective]")
    pieces = piece_names()
    for piece in own.keys() - set(pieces):
        raise UserError(f"recipe {name}: with.{piece}: no piece is called {piece!r}{suggestion(piece, pieces)}")
    return own


def laid_over(table: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """`table` with what `upper` says. Tables are joined key by key, but one of another `kind` has nothing in common."""
    result = dict(table)
    for key, value in upper.items():
        lower = result.get(key)
        if isinstance(lower, Mapping) and isinstance(value, Mapping) and not _is_other_kind(lower, value):
            result[key] = laid_over(lower, value)
        else:
            result[key] = value
    return result


def apply_override(table: dict[str, Any], override: str) -> str | None:
    """Set what `a.b=c` says, in place; what is wrong with it, if anything is.

    `c` is a TOML value, or failing that a bare string.
    """
    key, equals, text = override.partition("=")
    *parents, name = key.split(".")
    if not equals or not all((*parents, name)):
        return f"{override}: an override looks like table.key=value"
    if (value := set_key(table, [*parents, name], _override_value(text))) is not None:
        return f"{override}: {value} is a value, not a table"
    return None


def set_key(table: dict[str, Any], keys: Sequence[str], value: Any) -> str | None:
    """Set the key of a table, or of tables in it, in place; return where a value stands instead of a table, if so."""
    *parents, name = keys
    for depth, parent in enumerate(parents, start=1):
        inner = table.setdefault(parent, {})
        if not isinstance(inner, dict):
            return ".".join(parents[:depth])
        table = inner
    table[name] = value
    return None


def _built_in() -> Traversable:
    return resources.files("diffpo.recipes")


def read_source(path_or_name: str) -> str:
    """The text of a recipe's file. Raises UserError for one that is not there or cannot be read."""
    try:
        return _place_of(path_or_name).read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"recipe {path_or_name} is not valid TOML: it is not UTF-8 from byte {error.start} on; save it as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read recipe {path_or_name}: {error.strerror}{suggested_path(path_or_name)}") from error
    except ValueError as error:  # a path with a NUL
        raise UserError(f"recipe {path_or_name} cannot be read: {error}") from error


def _read(path_or_name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(read_source(path_or_name))
    except RecursionError as error:
        raise UserError(f"recipe {path_or_name} cannot be read: its tables or arrays are nested too deep") from error
    except ValueError as error:  # no TOML, or an integer of thousands of digits
        raise UserError(f"recipe {path_or_name} is not valid TOML: {str(error).partition(';')[0]}") from error


def _place_of(path_or_name: str) -> Path | Traversable:
    if path_or_name.endswith(".toml") or "/" in path_or_name or "\\" in path_or_name:
        return Path(path_or_name)
    for folder in (*FOLDERS, PIECES):
        if path_or_name in built_in_names(folder):
            return _built_in() / folder / f"{path_or_name}.toml"
    known = [*recipe_names(), *piece_names(), *(file.name for file in Path().glob("*.toml"))]
    raise UserError(
        f"no recipe is called {path_or_name!r}{suggestion(path_or_name, known)} "
        "(`diffpo recipes` lists them; or give the path of a TOML file)"
    )


def _is_other_kind(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> bool:
    return "kind" in upper and lower.get("kind") != upper["kind"]


def _override_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # an integer of thousands of digits, thousands of brackets
        return text
    return parsed["value"] if len(parsed) == 1 else text
