"""Watch which weights move, and which have a gradient and stay as they are, bit for bit."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diffpo.models.model_paths import join_names
from diffpo.rehearsal.findings import Findings


@dataclass
class Movement:
    """The weights after the first step, and which of them had a gradient since."""

    is_trained: bool = False
    """Whether any weight is."""
    first: dict[str, Tensor] = field(default_factory=dict)
    has_moved: dict[str, bool] = field(default_factory=dict)
    """By the name of a group: weights of the same name in all layers."""
    had_gradient: dict[str, bool] = field(default_factory=dict)

    def look(self, parts: Iterable[nn.Module]) -> None:
        """Look at the trained weights of modules, after a step.

        Weights that are not float32 are left out: their masters move, and they do where these have moved far enough.
        """
        for number, part in enumerate(parts):
            for name, weight in part.named_parameters():
                self.is_trained |= weight.requires_grad
                if weight.requires_grad and weight.dtype == torch.float32:
                    self._look_at(f"{number}/{name}", weight)

    def _look_at(self, name: str, weight: Tensor) -> None:
        group = re.sub(r"\.\d+\.", ".*.", name.partition("/")[2])
        value = weight.detach()
        before = self.first.setdefault(name, value.clone())
        has_gradient = weight.grad is not None and bool(weight.grad.any())
        self.had_gradient[group] = self.had_gradient.get(group, False) or has_gradient
        self.has_moved[group] = self.has_moved.get(group, False) or not torch.equal(before, value)

    def check(self, rewards_differ: bool, findings: Findings) -> None:
        """Add what did not move though it should have, where there was something to learn."""
        if not self.is_trained:
            findings.fault("no weight is trained: all are frozen")
        elif not self.first:
            findings.note("all trained weights are rounded from float32 masters: whether they move was not looked at")
        elif not rewards_differ:  # what is left of the gradient is rounding
            findings.note("the completions of each prompt earned the same, so that no weight had a reason to move")
        elif not any(self.had_gradient.values()):
            findings.fault(
                "the gradient of every weight is 0 in every step though rewards differ, so that nothing is learned; "
                "look at objective and estimator"
            )
        elif stuck := _stuck(self.had_gradient, self.has_moved):
            findings.fault(
                f"{len(stuck)} of {len(self.has_moved)} groups of weights do not move though their gradient is not 0 "
                f"({join_names(stuck)}): the updates are lost when they are rounded; raise optimizer.lr"
            )


def _stuck(had_gradient: Mapping[str, bool], has_moved: Mapping[str, bool]) -> list[str]:
    return [name for name, had in had_gradient.items() if had and not has_moved[name]]
