"""Weights and moments of a sharded model in a folder of safetensors files, each with the parts of one process.

They are PyTorch's distributed checkpoints in Hugging Face's format: nothing in them is a pickle, and any number of
processes reads them back. The names of weights begin with `model.`, before the names that the model gives them.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from transformers import PreTrainedModel

from diffpo.core.errors import UserError
from diffpo.distributed.collectives import current_group
from diffpo.distributed.process import current_process
from diffpo.models.model_paths import CONFIG, SHARDS, WEIGHTS_INDEX, first_line, join_names, read_json

OF_MODEL = "model."
"""What the names of weights begin with."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
UNREADABLE = (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What damaged files make the reader raise."""
LARGEST_FILE = 5 * 10**9
"""Bytes of a file of exported weights."""


def write_shards(tensors: Mapping[str, Tensor], folder: Path) -> list[Path]:
    """Write tensors that are divided among processes; all of them must call this. Raises OSError in all.

    Returns the files that this process has written.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        state_dict_saver.save(dict(tensors), storage_writer=writer, process_group=current_group())
    except CheckpointException as error:
        rank = min(error.failures)
        reason = error.failures[rank][0]
        raised = OSError(f"process {rank}: {first_line(reason)}")
        raised.errno = reason.errno if isinstance(reason, OSError) else None
        raise raised from error
    return sorted(folder.glob(f"shard-{current_process().rank + 1:05d}-*"))


def read_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors in place by name, whole ones or this process's parts, in their own dtypes.

    Raises UserError for files that cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # each reads for itself
            state_dict_loader.load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    except (CheckpointException, *UNREADABLE) as error:
        raise UserError(f"{folder} cannot be read ({first_line(error)}); fetch it again") from error


def shapes_of(folder: Path) -> dict[str, torch.Size]:
    """Return the shapes of all tensors in a folder of shards, whole. Raises UserError for files that cannot be read."""
    try:
        metadata = HuggingFaceStorageReader(str(folder)).read_metadata()
    except UNREADABLE as error:
        raise UserError(f"{folder} cannot be read ({first_line(error)}); fetch it again") from error
    found = {
        name: entry for name, entry in metadata.state_dict_metadata.items() if isinstance(entry, TensorStorageMetadata)
    }
    if broken := [name for name, entry in found.items() if not _is_whole(entry)]:
        raise UserError(f"{folder} lacks parts of {join_names(broken)}, or has foreign ones; fetch it again")
    return {name: entry.size for name, entry in found.items()}


def _is_whole(entry: TensorStorageMetadata) -> bool:
    """Return whether the stored parts of a tensor are floating-point numbers and cover it once: torch does not look."""
    parts = {tuple(part.offsets): part.sizes.numel() for part in entry.chunks}
    is_inside = all(offset >= 0 for offsets in parts for offset in offsets)
    covered = sum(part.sizes.numel() for part in entry.chunks)
    return is_inside and len(parts) == len(entry.chunks) and covered == entry.size.numel() and _is_float(entry)


def _is_float(entry: TensorStorageMetadata) -> bool:
    return entry.properties.dtype in DTYPES.values()


def load_shards(model: PreTrainedModel, folder: Path, dtype: torch.dtype | None, device: str | torch.device) -> None:
    """Replace the parameters of a model, which may be on the meta device, by those in a checkpoint's shards.

    They become `dtype` (None: that of the config). Raises UserError where they are not the model's.
    """
    dtype = dtype or dtype_of(folder)
    state = {name: torch.empty(shape, dtype=dtype, device=device) for name, shape in weights_of(folder, model).items()}
    read_shards(folder / SHARDS, {OF_MODEL + name: tensor for name, tensor in state.items()})
    model.load_state_dict(state, assign=True)


def weights_of(folder: Path, model: PreTrainedModel) -> dict[str, torch.Size]:
    """Return the names and shapes of the weights in a checkpoint's shards.

    Raises UserError where they are not those of `model`, which may be on the meta device: a file may be missing.
    """
    expected = {name: value.shape for name, value in model.state_dict().items()}
    shapes = shapes_of(folder / SHARDS)
    stored = {name.removeprefix(OF_MODEL): shape for name, shape in shapes.items() if name.startswith(OF_MODEL)}
    if stored != expected:
        names = sorted(name for name in stored | expected if stored.get(name) != expected.get(name))
        raise UserError(f"the shards in {folder} do not fit its config.json ({join_names(names)}); fetch it again")
    return stored


def export_weights(folder: Path, model: PreTrainedModel, out: Path, dtype: torch.dtype) -> None:
    """Write the weights in a checkpoint's shards into `out` as a published folder has them, one file at a time.

    `model` has their names and shapes, and may be on the meta device. Raises UserError where they are not its own.
    """
    shapes = weights_of(folder, model)
    plan = split_torch_state_dict_into_shards(
        {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()},
        max_shard_size=LARGEST_FILE,
    )
    for file, names in plan.filename_to_tensors.items():
        state = {name: torch.empty(shapes[name], dtype=dtype) for name in names}
        read_shards(folder / SHARDS, {OF_MODEL + name: tensor for name, tensor in state.items()})
        save_file(state, out / file, metadata={"format": "pt"})
        (out / file).chmod((folder / CONFIG).stat().st_mode)  # the library lets nobody else read it
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (out / WEIGHTS_INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def dtype_of(folder: Path) -> torch.dtype:
    """Return the dtype that the model in a checkpoint of shards computes in: its weights are float32 there.

    Raises UserError for one that no run computes in.
    """
    name = str(read_json(folder / CONFIG).get("dtype"))
    if name not in DTYPES:
        raise UserError(f"{folder / CONFIG} says dtype {name:.40}, and shards have {', '.join(DTYPES)}; fetch it again")
    return DTYPES[name]
