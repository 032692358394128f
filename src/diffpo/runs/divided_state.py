"""A run's state, of which parts are divided among processes: taken apart for a checkpoint, and put together again.

A tensor that is divided is written with the model's weights (models/shards.py). What is left of the state, with a name
in its place, is small, and is written by one process.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, zeros

from diffpo.distributed.sharding import whole
from diffpo.models.shards import OF_MODEL

NAME = "name of a divided tensor"


def take_apart(state: Mapping[str, Any], model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the state with names in place of divided tensors, and those tensors with the model's weights, by name.

    A tensor that is one of the weights has the weight's name.
    """
    weights = {OF_MODEL + name: parameter for name, parameter in model.named_parameters()}
    name_of = {id(parameter): name for name, parameter in weights.items()}
    tensors: dict[str, Tensor] = {name: parameter.detach() for name, parameter in weights.items()}

    def name_divided(path: str, leaf: Any) -> Any:
        if not isinstance(leaf, DTensor):
            return leaf
        name = name_of.get(id(leaf), path)
        tensors.setdefault(name, leaf)
        return {NAME: name}

    return _mapped(state, name_divided), tensors


def put_together(
    state: Mapping[str, Any], shapes: Mapping[str, torch.Size], model: nn.Module
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the state with empty float32 tensors in place of names, and these by name, to be filled.

    They are divided as the model's weights are, or whole where those are. Raises KeyError for a name without a shape.
    """
    like = next((parameter for parameter in model.parameters() if isinstance(parameter, DTensor)), None)
    tensors: dict[str, Tensor] = {}

    def empty(_: str, leaf: Any) -> Any:
        if not (isinstance(leaf, Mapping) and NAME in leaf):
            return leaf
        name, shape = leaf[NAME], shapes[leaf[NAME]]
        if like is None:
            tensors[name] = torch.zeros(shape)
        else:
            tensors[name] = zeros(shape, dtype=torch.float32, device_mesh=like.device_mesh, placements=like.placements)
        return tensors[name]

    return _mapped(state, empty), tensors


def gather_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state with all tensors whole; all processes must call this."""
    found: dict[str, Any] = _mapped(state, lambda _, leaf: whole(leaf))
    return found


def _mapped(value: Any, change: Callable[[str, Any], Any], path: str = "") -> Any:
    """Return nested tables and lists with their leaves changed, each by its dotted path."""
    if isinstance(value, Mapping) and NAME not in value:
        return {key: _mapped(item, change, f"{path}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(item, change, f"{path}.{number}") for number, item in enumerate(value))
    return change(path, value)
