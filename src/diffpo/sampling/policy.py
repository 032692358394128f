"""The policy: a denoiser with its tokenizer and, where there are any, its learned samplers. Loading and saving it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedTokenizerFast

from diffpo.models.denoiser import CallCounter, ModelDenoiser
from diffpo.models.loading import GENERATION_CONFIG, load_denoiser, save_denoiser
from diffpo.models.manifest import MANIFEST, whole_folder
from diffpo.models.model_paths import base_folder
from diffpo.models.positions import most_tokens
from diffpo.sampling.controller_files import LearnedController, load_controller, save_controller
from diffpo.sampling.prices import PricedSampler
from diffpo.sampling.sampler_files import load_sampler, save_sampler


@dataclass(frozen=True)
class Policy:
    """What travels together wherever completions are drawn or trained."""

    denoiser: ModelDenoiser
    tokenizer: PreTrainedTokenizerFast
    controller: LearnedController | None = None
    """The learned sampler that RL trains: DiFFPO's, or a commit policy; None where none was trained."""
    sampler: PricedSampler | None = None
    """The learned sampler that takes prices; None where none was fitted."""

    @property
    def device(self) -> torch.device:
        device: torch.device = self.denoiser.model.device
        return device

    @property
    def most_tokens(self) -> int:
        """How many tokens of prompt and completion together the model takes."""
        return most_tokens(self.denoiser.model.config, self.tokenizer)

    def with_new_counter(self) -> "Policy":
        """Return the same policy whose denoiser calls are counted apart, as those of an evaluation should be."""
        return replace(self, denoiser=replace(self.denoiser, usage=CallCounter()))


def load(
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    bits: Literal[4] | None = None,
) -> Policy:
    """Load a policy from a model's folder, a run's folder, or a hub name ORG/NAME[@REVISION].

    Weights are converted to `dtype` on `device`; with `bits` the matrices of the blocks are frozen and quantised.
    A checkpoint's files are compared with its manifest; of a run, the newest checkpoint that is whole is loaded, and
    stderr names those that are passed over. Raises UserError where there is no such model, where its files are damaged,
    or do not belong together.
    """
    policy = load_folder(whole_folder(Path(path)), dtype, device, bits)
    if not Path(path).exists():  # an adapter trained on it names its base by the hub's name, not by a cache's folder
        policy.denoiser.model.name_or_path = str(path)
    return policy


def load_folder(
    folder: Path,
    dtype: torch.dtype | None,
    device: str | torch.device,
    bits: Literal[4] | None = None,
    base: str | None = None,
) -> Policy:
    """Load a policy as `load` does from the very folder, whose files are not compared with its manifest.

    `base` is where the model under an adapter is now, for one that has moved. `dtype` None keeps the stored ones.
    """
    denoiser, tokenizer = load_denoiser(folder, dtype, device, bits, base)
    width = denoiser.model.get_output_embeddings().weight.shape[1]
    on_device = denoiser.model.device
    return Policy(
        denoiser, tokenizer, load_controller(folder, width, on_device), load_sampler(folder, width, on_device)
    )


def load_base(
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    bits: Literal[4] | None = None,
) -> Policy:
    """Load a model to train from. Raises UserError for an adapter, on which no other can be put."""
    base_folder(Path(path))
    return load(path, dtype, device, bits)


def save(policy: Policy, folder: str | Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write a folder that `load` gives back bit for bit: weights, config, tokenizer, learned samplers.

    `weights` as in `save_denoiser`.
    """
    folder = Path(folder)
    (folder / MANIFEST).unlink(missing_ok=True)  # it would tell of other files
    save_denoiser(policy.denoiser, policy.tokenizer, folder, weights)
    if policy.controller is not None:
        save_controller(policy.controller, folder)
    if policy.sampler is not None:
        save_sampler(policy.sampler, folder)
    mode = (folder / GENERATION_CONFIG).stat().st_mode
    for file in folder.glob("*.safetensors"):  # which the library lets nobody else read
        file.chmod(mode)
