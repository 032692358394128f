"""The optimisers that recipes name, with a linear warm-up and, if the recipe asks for it, a linear decay."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch

from diffpo.recipes.tables import AdamRecipe, PolicyOptimizerRecipe
from diffpo.runs.muon import Muon

MUON_SCALE = 10.0
"""Muon's learning rate divided by AdamW's: its update is scaled to a root mean square of 0.2, AdamW's has about 1."""


@runtime_checkable
class Optimizer(Protocol):
    """The methods of an optimiser that the loops use; `torch.optim` has them, and `MuonAndAdam`."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...

    def zero_grad(self) -> None: ...

    def step(self) -> Any: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class MuonAndAdam:
    """Muon for the matrices of the blocks, AdamW for embeddings, norms and the output head."""

    def __init__(self, muon: Muon, adam: torch.optim.AdamW) -> None:
        self._parts = {"muon": muon, "adam": adam}

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


def policy_optimizer(
    model: torch.nn.Module, recipe: PolicyOptimizerRecipe, others: Iterable[torch.nn.Parameter] = ()
) -> Optimizer:
    """Return the optimiser of the weights that are trained: a denoiser's, or its adapter's if it has one, and others."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if recipe.kind == "adamw":
        return adam([*trained.values(), *others], recipe)
    matrices = [p for name, p in trained.items() if p.dim() == 2 and ".blocks." in name]
    rest = [p for name, p in trained.items() if not (p.dim() == 2 and ".blocks." in name)]
    muon = Muon([{"params": matrices, "scale": MUON_SCALE}], recipe.lr * MUON_SCALE, recipe.weight_decay)
    return MuonAndAdam(muon, adam([*rest, *others], recipe))


def adam(parameters: Iterable[torch.nn.Parameter], recipe: AdamRecipe) -> torch.optim.AdamW:
    """Return AdamW with the recipe's learning rate, second beta and weight decay."""
    return torch.optim.AdamW(
        parameters, lr=recipe.lr, betas=(0.9, recipe.beta2), weight_decay=recipe.weight_decay, fused=True
    )


def set_learning_rate(optimizer: Optimizer, recipe: AdamRecipe, update: int, spent: float) -> None:
    """Set the learning rate of optimiser step number `update` (0-based).

    `spent` is the share of the run's budget that is used up, from 0 to 1, by which a linear decay goes.
    """
    rate = recipe.lr * min(1.0, (update + 1) / max(1, recipe.warmup))
    if recipe.decay == "linear":
        rate *= 1 - spent
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)
