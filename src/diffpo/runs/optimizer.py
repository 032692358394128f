"""The optimisers that recipes name, with a linear warm-up and, if the recipe asks for it, a linear decay.

Whatever the model's dtype, they change float32 numbers by float32 gradients (docs/decisions/0029).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch

from diffpo.distributed.sharding import is_sharded, spread
from diffpo.models.layers import blocks_of
from diffpo.recipes.tables import AdamRecipe, PolicyOptimizerRecipe
from diffpo.runs.muon import Muon

MUON_SCALE = 10.0
"""Muon's learning rate divided by AdamW's: its update is scaled to a root mean square of 0.2, AdamW's has about 1."""


@runtime_checkable
class Optimizer(Protocol):
    """The methods of an optimiser that the loops use; those of `torch.optim` have them, and those here."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...

    def zero_grad(self) -> None: ...

    def step(self) -> Any: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class MuonAndAdam:
    """Muon for the matrices of the blocks, AdamW for embeddings, norms and the output head, if those are trained."""

    def __init__(self, muon: Muon, adam: torch.optim.AdamW | None) -> None:
        self._parts: dict[str, torch.optim.Optimizer] = {"muon": muon} if adam is None else {"muon": muon, "adam": adam}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self._parts.values() for group in part.param_groups]

    def zero_grad(self) -> None:
        for part in self._parts.values():
            part.zero_grad()

    def step(self) -> None:
        for part in self._parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, part in self._parts.items():
            part.load_state_dict(state_dict[name])


class MasterWeights:
    """Trains float32 copies of a model's weights, the masters; after a step the weights are the masters, rounded.

    A bfloat16 weight has 8 bits, so a step below a 512th of it would be lost. The weights' gradients are float32, too:
    what several backward passes add up, and several processes, is rounded nowhere.
    """

    def __init__(self, masters: Mapping[torch.nn.Parameter, torch.nn.Parameter], optimizer: Optimizer) -> None:
        """`masters` has the master of each weight; `optimizer` is that of the masters."""
        self._masters = dict(masters)
        self._optimizer = optimizer
        for weight, master in self._masters.items():
            weight.grad_dtype = master.dtype

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self._optimizer.param_groups

    def zero_grad(self) -> None:
        self._optimizer.zero_grad()
        for weight in self._masters:
            weight.grad = None

    def step(self) -> None:
        for weight, master in self._masters.items():
            master.grad = weight.grad
        self._optimizer.step()
        self._round()

    def state_dict(self) -> dict[str, Any]:
        masters = [master if master is weight else master.detach() for weight, master in self._masters.items()]
        return {"masters": masters, "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        with torch.no_grad():
            for master, stored in zip(self._masters.values(), state_dict["masters"], strict=True):
                master.copy_(spread(stored, like=master))
        self._optimizer.load_state_dict(state_dict["optimizer"])
        self._round()

    @torch.no_grad()
    def _round(self) -> None:
        for weight, master in self._masters.items():
            weight.copy_(master)


def policy_optimizer(
    model: torch.nn.Module, recipe: PolicyOptimizerRecipe, others: Iterable[torch.nn.Parameter] = ()
) -> Optimizer:
    """Return the optimiser of the weights that are trained: a denoiser's, or its adapter's if it has one, and others.

    Weights that are not float32 get masters that are.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    masters = {p: torch.nn.Parameter(p.detach().float()) for p in trained if p.dtype != torch.float32}
    if is_sharded(model) and len(trained) == len([*model.parameters()]) and model.config.dtype != torch.float32:
        masters = {p: p for p in trained}  # its weights are float32, and rounded where they are gathered
    of_blocks = {*blocks_of(model).parameters()}
    is_matrix = [p.dim() == 2 and p in of_blocks for p in trained]
    changed = [masters.get(p, p) for p in trained]
    optimizer: Optimizer
    if recipe.kind == "adamw":
        optimizer = adam(changed, recipe, others)
    else:
        matrices = [p for p, is_one in zip(changed, is_matrix, strict=True) if is_one]
        others, rest = [*others], [p for p, is_one in zip(changed, is_matrix, strict=True) if not is_one]
        muon = Muon([{"params": matrices, "scale": MUON_SCALE}], recipe.lr * MUON_SCALE, recipe.weight_decay)
        muon.register_load_state_dict_pre_hook(_spread_state)
        optimizer = MuonAndAdam(muon, adam(rest, recipe, others) if rest or others else None)
    return MasterWeights(masters, optimizer) if masters else optimizer


def adam(
    parameters: Iterable[torch.nn.Parameter], recipe: AdamRecipe, others: Iterable[torch.nn.Parameter] = ()
) -> torch.optim.AdamW:
    """Return AdamW with the recipe's learning rate, second beta and weight decay.

    `others` get a group of their own: one kernel takes parameters that are divided among processes, or that are not.
    """
    groups = [{"params": found} for group in (parameters, others) if (found := [*group])]
    optimizer = torch.optim.AdamW(
        groups, lr=recipe.lr, betas=(0.9, recipe.beta2), weight_decay=recipe.weight_decay, fused=True
    )
    optimizer.register_load_state_dict_pre_hook(_spread_state)
    return optimizer


def _spread_state(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Divide stored moments as the parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return state_dict | {
        "state": {
            number: {
                name: spread(value, parameters[number]) if value.ndim else value for name, value in moments.items()
            }
            for number, moments in state_dict["state"].items()
        }
    }


def set_learning_rate(optimizer: Optimizer, recipe: AdamRecipe, update: int, spent: float) -> float:
    """Set the learning rate of optimiser step number `update` (0-based), and return it.

    `spent` is the share of the run's budget that is used up, from 0 to 1, by which a linear decay goes.
    """
    rate = recipe.lr * min(1.0, (update + 1) / max(1, recipe.warmup))
    if recipe.decay == "linear":
        rate *= 1 - spent
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)
    return rate
