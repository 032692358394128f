"""Controllers and commit policies to and from folders: a small safetensors file and its config beside the model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import load_file, save_file

from diffpo.core.errors import UserError
from diffpo.core.options import CommitPolicyKind
from diffpo.sampling.commit_policy import CommitPolicy
from diffpo.sampling.controller import NUM_FEATURES, Controller
from diffpo.sampling.damaged_files import explain_damaged_sampler

CONTROLLER_WEIGHTS = "controller.safetensors"
CONTROLLER_CONFIG = "controller_config.json"
LearnedController = Controller | CommitPolicy
"""What RL trains as a sampler: of entropy bounds, or of the sets that are committed."""


def save_controller(controller: LearnedController, folder: Path) -> None:
    """A small safetensors file and its config beside the model, as other learned samplers are published."""
    save_file(controller.state_dict(), folder / CONTROLLER_WEIGHTS)
    (folder / CONTROLLER_CONFIG).write_text(json.dumps(_config(controller), indent=2) + "\n")


def load_controller(
    folder: Path, hidden_size: int | None = None, device: torch.device | None = None
) -> LearnedController | None:
    """The learned sampler saved beside a model whose hidden states have that size; None where there is none.

    Raises UserError for files that cannot be read, and for a planner of hidden states of another width.
    """
    if not (folder / CONTROLLER_CONFIG).is_file():
        if (folder / CONTROLLER_WEIGHTS).is_file():
            raise UserError(f"the learned sampler in {folder} cannot be loaded: it lacks {CONTROLLER_CONFIG}")
        return None
    with explain_damaged_sampler(folder):
        controller = _made(json.loads((folder / CONTROLLER_CONFIG).read_text()))
        controller.load_state_dict(load_file(folder / CONTROLLER_WEIGHTS))
    is_planner = isinstance(controller, CommitPolicy) and controller.kind == "planner"
    if is_planner and hidden_size not in (None, controller.num_inputs):
        raise UserError(
            f"the planner in {folder} was trained on hidden states of width {controller.num_inputs}, and those of the "
            f"model have {hidden_size}; use the model it was trained with"
        )
    return controller.to(device)


def _config(controller: LearnedController) -> dict[str, Any]:
    if isinstance(controller, CommitPolicy):
        return {"kind": controller.kind, "num_inputs": controller.num_inputs, "width": controller.width}
    return {
        "kind": "categorical-entropy-bound" if controller.bounds else "log-normal-entropy-bound",
        "initial_bound": controller.initial_bound,
        "hidden": controller.hidden,
        "feature_kind": controller.feature_kind,
        "num_features": controller.num_features,
        "bounds": controller.bounds,
    }


def _made(config: Mapping[str, Any]) -> LearnedController:
    """Return what the config describes, with weights to be replaced."""
    if config.get("kind") in get_args(CommitPolicyKind):
        return CommitPolicy(config["kind"], config["num_inputs"], config["width"])
    # The first version had one kind of features, and no grid.
    return Controller(
        initial_bound=config["initial_bound"],
        hidden=config["hidden"],
        feature_kind=config.get("feature_kind", "entropy"),
        num_features=config.get("num_features", NUM_FEATURES),
        bounds=tuple(config.get("bounds", ())),
    )
