"""Recipes: complete, validated set-ups. The built-in ones are the TOML files beside this module."""

from diffpo.recipes.strict import Strict, diff_recipes, dump_recipe, load_recipe, recipe_names, recipe_of

__all__ = ["Strict", "diff_recipes", "dump_recipe", "load_recipe", "recipe_names", "recipe_of"]
