"""Merge an adapter into its base: one model, which loads without peft."""

from pathlib import Path

from diffpo.core.errors import UserError
from diffpo.core.files import explain_write_errors
from diffpo.models.adapters import merge_adapter
from diffpo.models.manifest import whole_folder
from diffpo.models.model_paths import base_of, is_adapter
from diffpo.sampling.controller_files import save_controller
from diffpo.sampling.policy import load
from diffpo.sampling.sampler_files import save_sampler


def run_merge(path: Path, out: Path) -> None:
    """Write the merged model of the adapter in `path` (a folder or a run) into `out`: weights, tokenizer, learned
    samplers.

    Raises UserError where `path` holds no adapter, and where `out` is not empty or cannot be written.
    """
    folder = whole_folder(path)
    if not is_adapter(folder):
        raise UserError(f"{path} holds a whole model and no adapter; there is nothing to merge")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; choose another --out")
    adapted, model = load(folder), load(base_of(folder)).denoiser.model
    merge_adapter(adapted.denoiser.model, model)
    with explain_write_errors(out, is_folder=True):
        out.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(out)
        adapted.tokenizer.save_pretrained(out)
        if adapted.controller is not None:
            save_controller(adapted.controller, out)
        if adapted.sampler is not None:
            save_sampler(adapted.sampler, out)
