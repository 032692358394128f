"""What a machine is, and the versions that it computes with."""

import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch


def device_name(device: torch.device) -> str:
    """Return the name of a CUDA device as its driver gives it, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def driver() -> str | None:
    """Return the version of NVIDIA's driver; None where nvidia-smi does not tell."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None


def versions() -> dict[str, str | None]:
    """Return versions by name; None for what is not installed."""
    found = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for name in ("torch", "transformers", "peft", "triton", "flash-attn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
