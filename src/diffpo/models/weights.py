"""Check the weights in safetensors files against a model, and load them into it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from diffpo.core.errors import UserError
from diffpo.models.model_paths import first_line, join_names

STORED_TYPES = ("F64", "F32", "BF16", "F16")
"""Other types are quantised, and need scales that these files do not have."""


def check_weights(model: PreTrainedModel, files: Sequence[Path], folder: Path) -> None:
    """Check that the files hold all of the model's weights in its shapes and no others. Only headers are read.

    Raises UserError that names what is missing, unexpected, misshapen or quantised.
    """
    expected = {name: list(value.shape) for name, value in model.state_dict().items()}
    found: set[str] = set()
    wrong: list[str] = []
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:
                for name in list(weights.keys()):
                    found.add(name)
                    header = weights.get_slice(name)
                    shape, stored = list(header.get_shape()), header.get_dtype()
                    if name in expected and shape != expected[name]:
                        wrong.append(f"{name} is {shape} and not {expected[name]}")
                    elif stored not in STORED_TYPES:
                        wrong.append(f"{name} is stored as {stored} and not as one of {', '.join(STORED_TYPES)}")
        except (OSError, SafetensorError) as error:
            raise UserError(f"{file} cannot be loaded: {first_line(error)}; fetch it again") from error
    problems = {
        "missing keys": [name for name in expected if name not in found],
        "unexpected keys": sorted(found - expected.keys()),
        "misfits": wrong,
    }
    if details := [f"{kind}: {join_names(names)}" for kind, names in problems.items() if names]:
        raise UserError(
            f"the weights in {folder} do not fit its config.json ({'; '.join(details)}); bring files that belong "
            "together"
        )


def read_weights(
    model: PreTrainedModel, files: Sequence[Path], dtype: torch.dtype | None, device: str | torch.device
) -> None:
    """Replace the model's parameters by the files' tensors, as `dtype` (None: as they are stored) on `device`.

    The model may be on the meta device. At most the model and one file's pages are in memory. The tensors are copies:
    parameters that share memory with a mapped file would change when someone overwrites it.
    """
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:
                names = list(weights.keys())
                tensors = ((name, weights.get_tensor(name)) for name in names)
                state = {name: tensor.to(device, dtype or tensor.dtype, copy=True) for name, tensor in tensors}
        except (OSError, SafetensorError) as error:
            raise UserError(f"{file} cannot be loaded: {first_line(error)}; fetch it again") from error
        model.load_state_dict(state, strict=False, assign=True)
