"""Merge an adapter into its base: one model, which loads without peft."""

from dataclasses import replace
from pathlib import Path

import torch

from diffpo.core.errors import UserError
from diffpo.core.files import check_writable, explain_write_errors, whole_new_folder
from diffpo.models.adapters import merge_adapter
from diffpo.models.manifest import whole_folder
from diffpo.models.model_paths import is_adapter
from diffpo.sampling.policy import load_folder, save


def run_merge(path: Path, out: Path, dtype: torch.dtype | None = None, base: str | None = None) -> None:
    """Write the merged model of the adapter in `path` (a folder or a run) into `out`, as `save` does.

    Weights are in `dtype`; None is the one that the base's are stored in. `base`: where the model under the adapter is
    now, if it is not where it was. There is one copy of the model in memory. Raises UserError where `path` holds no
    adapter, and where `out` is not empty or cannot be written.
    """
    folder = whole_folder(path)
    if not is_adapter(folder):
        raise UserError(f"{path} holds a whole model and no adapter; there is nothing to merge")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; choose another --out")
    check_writable(out, is_folder=True)
    policy = load_folder(folder, dtype, "cpu", base=base)
    merged = replace(policy.denoiser, model=merge_adapter(policy.denoiser.model))
    with explain_write_errors(out, is_folder=True), whole_new_folder(out) as written:
        save(replace(policy, denoiser=merged), written)
