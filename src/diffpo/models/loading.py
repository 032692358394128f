"""Models and learned samplers to and from folders; what does not fit is refused by name."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from diffpo.controller import Controller
from diffpo.errors import UserError
from diffpo.models.adapters import base_of, is_adapter, load_adapter
from diffpo.models.denoiser import Denoiser
from diffpo.models.llada import LLaDAConfig, LLaDAModelLM

disable_progress_bar()  # a tiny model loads at once, and a bar per checkpoint would break the run's own
AutoConfig.register("llada", LLaDAConfig)
AutoModelForMaskedLM.register(LLaDAConfig, LLaDAModelLM)

CONTROLLER_WEIGHTS = "controller.safetensors"
CONTROLLER_CONFIG = "controller_config.json"


def load_denoiser(folder: Path) -> tuple[Denoiser, PreTrainedTokenizerFast]:
    """A LLaDA folder, strictly: a missing, extra or misshapen weight is a UserError that names it.

    An adapter's folder gives its base with the adapter on it, trainable.
    """
    if is_adapter(folder):
        denoiser, tokenizer = load_denoiser(Path(base_of(folder)))
        load_adapter(denoiser.model, folder)
        return denoiser, tokenizer
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{folder / 'config.json'} cannot be read ({error}); is the folder a model's?") from error
    if not isinstance(config, dict) or config.get("model_type") != "llada":
        kind = config.get("model_type") if isinstance(config, dict) else None
        raise UserError(f"{folder} holds a model of type {kind!r}, and diffpo knows 'llada'; name a LLaDA folder")
    try:
        model, report = LLaDAModelLM.from_pretrained(
            folder,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
            local_files_only=True,
            dtype=torch.float32,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be loaded as a LLaDA model: {str(error).splitlines()[0]}") from error
    problems = [f"{kind.replace('_', ' ')}: {', '.join(map(str, names))}" for kind, names in report.items() if names]
    if problems:
        raise UserError(f"the weights in {folder} do not fit its config.json ({'; '.join(sorted(problems))})")
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"{folder} holds a tokenizer of type {type(tokenizer).__name__}, which has no fast form")
    return denoiser_of(model, tokenizer), tokenizer


def denoiser_of(model: LLaDAModelLM, tokenizer: PreTrainedTokenizerFast) -> Denoiser:
    """Wrap a model for decoding, in evaluation mode (there is no dropout to train with)."""
    return Denoiser(model.eval(), mask_id=model.config.mask_token_id, stop_ids=(tokenizer.eos_token_id,))


def save_controller(controller: Controller, folder: Path) -> None:
    """A small safetensors file and its config beside the model, as other learned samplers are published."""
    save_file(controller.state_dict(), folder / CONTROLLER_WEIGHTS)
    config = {
        "kind": "log-normal-entropy-bound",
        "initial_bound": controller.initial_bound,
        "hidden": controller.hidden,
    }
    (folder / CONTROLLER_CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def load_controller(folder: Path) -> Controller | None:
    """The learned sampler saved beside a model; None where there is none."""
    if not (folder / CONTROLLER_CONFIG).is_file():
        return None
    try:
        config = json.loads((folder / CONTROLLER_CONFIG).read_text())
        controller = Controller(initial_bound=config["initial_bound"], hidden=config["hidden"])
        controller.load_state_dict(load_file(folder / CONTROLLER_WEIGHTS))
    except KeyError as error:
        raise UserError(f"the learned sampler in {folder} cannot be loaded: its config lacks {error}") from error
    except (OSError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"the learned sampler in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    return controller
