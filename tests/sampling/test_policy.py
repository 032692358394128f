"""A policy is saved and loaded bit for bit, with its controller if it has one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import diffpo
from diffpo.sampling.controller import Controller
from diffpo.sampling.policy import Policy, load, save


def with_controller(policy: Policy) -> Policy:
    controller = Controller(initial_bound=2.0, hidden=8)
    with torch.no_grad():
        next(controller.head.parameters()).fill_(0.25)
    return replace(policy, controller=controller)


@pytest.mark.parametrize("has_controller", [False, True])
def test_what_is_saved_is_loaded_bit_for_bit(has_controller: bool, base: Path, tmp_path: Path) -> None:
    policy = with_controller(load(base)) if has_controller else load(base)
    save(policy, str(tmp_path / "new" / "folder"))
    again = diffpo.load(tmp_path / "new" / "folder")
    state, found = policy.denoiser.model.state_dict(), again.denoiser.model.state_dict()
    assert state.keys() == found.keys() and all(torch.equal(state[name], found[name]) for name in state)
    assert again.tokenizer.get_vocab() == policy.tokenizer.get_vocab()
    assert again.denoiser.stop_ids == policy.denoiser.stop_ids
    assert (again.controller is not None) == has_controller
    if again.controller is not None and policy.controller is not None:
        weights = zip(again.controller.parameters(), policy.controller.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in weights)


def test_a_new_counter_starts_at_zero_and_leaves_the_old_one_alone(base: Path) -> None:
    policy = load(base)
    policy.denoiser.usage.canvases = 7
    apart = policy.with_new_counter()
    apart.denoiser.usage.canvases += 1
    assert (policy.denoiser.usage.canvases, apart.denoiser.usage.canvases) == (7, 1)
    assert apart.denoiser.model is policy.denoiser.model
