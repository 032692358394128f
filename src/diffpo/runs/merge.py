"""An adapter and its base become one model, which loads without peft."""

from pathlib import Path

from diffpo.runs.checkpoint import load
from diffpo.core.errors import UserError
from diffpo.models.model_paths import base_of, is_adapter, model_folder
from diffpo.models.adapters import merge_adapter
from diffpo.sampling.controller_files import save_controller


def run_merge(path: Path, out: Path) -> None:
    """Write the model of the adapter in `path`, a folder or a run, into `out`: weights, tokenizer, learned sampler."""
    folder = model_folder(path)
    if not is_adapter(folder):
        raise UserError(f"{path} holds a whole model and no adapter; there is nothing to merge")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; choose another --out")
    adapted, tokenizer, controller = load(folder)
    model = load(base_of(folder))[0].model
    merge_adapter(adapted.model, model)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    if controller is not None:
        save_controller(controller, out)
