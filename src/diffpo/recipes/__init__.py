"""Recipes: complete, validated set-ups. The built-in ones are the TOML files beside this module."""

from diffpo.recipes.dump import diff_recipes, dump_recipe
from diffpo.recipes.files import piece_names, recipe_names
from diffpo.recipes.strict import Strict, load_recipe, recipe_of

__all__ = ["Strict", "diff_recipes", "dump_recipe", "load_recipe", "piece_names", "recipe_names", "recipe_of"]
