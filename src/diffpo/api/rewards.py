"""Rewards as a caller gives them become names with weights, as recipes have them, and the functions that these mean."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from diffpo.core.errors import UserError
from diffpo.core.python_function import is_python_name, recorded_name, short_name, source_of
from diffpo.recipes.strict import Strict
from diffpo.recipes.tables.tasks import RewardSettings

One = str | Callable[..., Any]
Reward = One | Iterable[One] | Mapping[One, float]
"""A function in TRL's signature, or a name as recipes have it; several of these; or several with their weights."""
Functions = Mapping[str, Callable[..., Any]]
FORMS = "a function, a name as in recipes, a list of these, or a dict of these with their weights"
M = TypeVar("M", bound=Strict)


def named_rewards(reward: Reward) -> tuple[str | dict[str, float], Functions]:
    """Return what a recipe's `task.reward` is, and the functions by the names that it has for them.

    Raises UserError for what is no reward, for weights that are none, and for the same reward twice.
    """
    given = _with_weights(reward)
    names: dict[str, float] = {}
    functions: dict[str, Callable[..., Any]] = {}
    for one, weight in given:
        if isinstance(one, type) or not (isinstance(one, str) or callable(one)):
            called = f"the class {one.__name__}; give an object of it" if isinstance(one, type) else f"{one!r:.60}"
            raise UserError(f"reward is {called}; give {FORMS}")
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise UserError(f"reward gives {_told(one)} the weight {weight!r:.60}; give a number")
        name = one if isinstance(one, str) else recorded_name(one)
        if name in names:
            raise UserError(f"reward names {_told(one)} twice; give it once, with the sum of the weights")
        names[name] = weight
        if not isinstance(one, str):
            functions[name] = one
    return next(iter(names)) if [*names.values()] == [1.0] else names, functions


def with_functions(recipe: M, functions: Functions) -> M:
    """Return the recipe with what the names of its reward stand for."""
    task = getattr(recipe, "task", None)
    if not functions or not isinstance(task, RewardSettings):
        return recipe
    return recipe.model_copy(update={"task": task.with_functions(functions)})


def sources_of(functions: Functions) -> str:
    """Return the source of functions that live in no file, to be read beside a run; "" where there are none."""
    parts = [
        f"# {name}\n{source_of(function) or '# its source is not known'}".rstrip()
        for name, function in functions.items()
        if is_python_name(name)
    ]
    head = (
        "# Rewards that were handed over in Python, for reading: what else they used is not here. To go on with the\n"
        "# run, or to evaluate it by them, give them again: diffpo.train(..., reward=FUNCTION, resume=True).\n"
    )
    return "\n\n".join([head.rstrip(), *parts]) + "\n" if parts else ""


def _with_weights(reward: Reward) -> list[tuple[Any, Any]]:
    if isinstance(reward, Mapping):
        found: list[tuple[Any, Any]] = [*reward.items()]
    elif isinstance(reward, list | tuple):
        found = [(one, 1.0) for one in reward]
    else:
        found = [(reward, 1.0)]
    if not found:
        raise UserError(f"reward is empty; give {FORMS}, or leave it out")
    return found


def _told(one: One) -> str:
    return one if isinstance(one, str) else short_name(recorded_name(one))
