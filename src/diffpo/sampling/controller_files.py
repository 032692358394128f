"""Controllers to and from folders: a small safetensors file and its config beside the model."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from diffpo.core.errors import UserError
from diffpo.sampling.controller import NUM_FEATURES, Controller

CONTROLLER_WEIGHTS = "controller.safetensors"
CONTROLLER_CONFIG = "controller_config.json"


def save_controller(controller: Controller, folder: Path) -> None:
    """A small safetensors file and its config beside the model, as other learned samplers are published."""
    save_file(controller.state_dict(), folder / CONTROLLER_WEIGHTS)
    config = {
        "kind": "categorical-entropy-bound" if controller.bounds else "log-normal-entropy-bound",
        "initial_bound": controller.initial_bound,
        "hidden": controller.hidden,
        "feature_kind": controller.feature_kind,
        "num_features": controller.num_features,
        "bounds": controller.bounds,
    }
    (folder / CONTROLLER_CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def load_controller(folder: Path) -> Controller | None:
    """The learned sampler saved beside a model; None where there is none."""
    if not (folder / CONTROLLER_CONFIG).is_file():
        return None
    try:
        config = json.loads((folder / CONTROLLER_CONFIG).read_text())
        # The first version had one kind of features, and no grid.
        controller = Controller(
            initial_bound=config["initial_bound"],
            hidden=config["hidden"],
            feature_kind=config.get("feature_kind", "entropy"),
            num_features=config.get("num_features", NUM_FEATURES),
            bounds=tuple(config.get("bounds", ())),
        )
        controller.load_state_dict(load_file(folder / CONTROLLER_WEIGHTS))
    except KeyError as error:
        raise UserError(f"the learned sampler in {folder} cannot be loaded: its config lacks {error}") from error
    except (OSError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"the learned sampler in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    return controller
