"""The built-in recipes by kind, with what each says of itself, and which kind of recipe a name is."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffpo.recipes.files import FOLDERS, PIECES, built_in_names, parts_of, read_source
from diffpo.recipes.strict import Strict
from diffpo.recipes.tables import EvalRecipe, RlRecipe, SamplerRecipe, SftRecipe, StudyRecipe


@dataclass(frozen=True)
class Kind:
    """One kind of recipes: those of a verb, or the pieces."""

    name: str
    recipe: type[Strict]
    usage: str
    """A command that uses one of them, with NAME for its name."""


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("sft", SftRecipe, "diffpo sft NAME --out runs/a"),
        Kind("rl", RlRecipe, "diffpo rl NAME --out runs/a"),
        Kind("sampler", SamplerRecipe, "diffpo sampler runs/a --recipe NAME --out runs/b"),
        Kind("eval", EvalRecipe, "diffpo eval runs/a --recipe NAME"),
        Kind("study", StudyRecipe, "diffpo study NAME --out results/a"),
        Kind(PIECES, RlRecipe, "diffpo rl d1+NAME --out runs/a"),
    )
}


def comment_of(name: str) -> str:
    """Return the comment at the top of a recipe's file, on one line; empty where it has none."""
    lines = []
    for line in read_source(name).splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def summary_of(name: str) -> str:
    """Return what a recipe is, in some words: its comment's first sentence, without what is in brackets."""
    plain = re.sub(r" \([^()]*\)", "", comment_of(name))
    return re.split(r"[.:;?](?:\s|$)", plain, maxsplit=1)[0]


def kind_of(names: str, table: Mapping[str, Any]) -> Kind:
    """Return the kind of a recipe, or of several joined with +: that of the first that is no piece.

    A file's is the one that knows most of its keys.
    """
    parts = parts_of(names)
    for folder in FOLDERS:
        if set(parts) & set(built_in_names(folder)):
            return KINDS[folder]
    if set(parts) <= set(built_in_names(PIECES)):
        return KINDS[PIECES]
    return max((KINDS[folder] for folder in ("sft", *FOLDERS)), key=lambda kind: _fit(kind.recipe, table))


def _fit(recipe: type[Strict], table: Mapping[str, Any]) -> tuple[int, int]:
    """Return how well a recipe's keys are those of a table: keys that it does not know, then required ones it has."""
    required = [name for name, field in recipe.model_fields.items() if field.is_required()]
    return -len(table.keys() - recipe.model_fields.keys()), -sum(name not in table for name in required)
