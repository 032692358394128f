"""Tell whether a recipe is one of `diffpo sft` or of `diffpo rl`, where no verb says it."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffpo.core.errors import UserError
from diffpo.core.suggestion import suggestion
from diffpo.recipes.files import read_table
from diffpo.recipes.strict import load_recipe
from diffpo.recipes.tables import RlRecipe, SftRecipe

RECIPES: dict[str, type[RlRecipe] | type[SftRecipe]] = {"sft": SftRecipe, "rl": RlRecipe}


def load_training_recipe(
    name: str | Mapping[str, Any], overrides: Sequence[str], verb: str | None = None, unset: Sequence[str] = ()
) -> RlRecipe | SftRecipe:
    """Return the recipe of `diffpo sft` or `diffpo rl`: the verb's or, without one, the one that has more of its keys.

    A recipe of none but shared keys, a task alone for instance, is one of `diffpo sft`. Raises UserError as
    `load_recipe` does, and for another verb.
    """
    if verb is None:
        changed = (*unset, *(override.partition("=")[0] for override in overrides))
        keys = {*read_table(name), *(key.partition(".")[0].strip() for key in changed)}
        rl, sft = ({*recipe.model_fields} for recipe in (RlRecipe, SftRecipe))
        verb = "rl" if len(keys & (rl - sft)) > len(keys & (sft - rl)) else "sft"
    if verb not in RECIPES:
        raise UserError(f"no recipe is for {verb!r}{suggestion(verb, RECIPES)}; give {' or '.join(RECIPES)}")
    others = {f"diffpo {other}": recipe for other, recipe in RECIPES.items() if other != verb}
    return load_recipe(RECIPES[verb], name, overrides, unset, others)


def verb_of(recipe: RlRecipe | SftRecipe) -> str:
    """Return the verb that trains by a recipe."""
    return next(verb for verb, kind in RECIPES.items() if isinstance(recipe, kind))
