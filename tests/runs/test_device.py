"""What a question about the device leaves alone, and what the start of a run sets."""

import torch

from diffpo.recipes.tables import DeviceSettings
from diffpo.runs.device import configure_torch_, resolve_device


def test_only_the_start_of_a_run_sets_the_threads() -> None:
    before = torch.get_num_threads()
    settings = DeviceSettings(device="cpu", threads=before + 1)
    try:
        assert resolve_device(settings) == (torch.float32, torch.device("cpu"))
        assert torch.get_num_threads() == before
        configure_torch_(DeviceSettings(device="cpu"))
        assert torch.get_num_threads() == before
        configure_torch_(settings)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
