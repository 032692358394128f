"""Rates over a run, and which weights Muon gets."""

import copy

import pytest
import torch

from diffpo.models.llada import LLaDAConfig, LLaDAModelLM
from diffpo.recipes.tables import PolicyOptimizerRecipe
from diffpo.runs.optimizer import MUON_SCALE, MuonAndAdam, policy_optimizer, set_learning_rate


def tiny() -> LLaDAModelLM:
    torch.manual_seed(0)
    return LLaDAModelLM(LLaDAConfig(d_model=16, n_layers=1, n_heads=2, mlp_hidden_size=24, vocab_size=9))


@pytest.mark.parametrize(("update", "spent", "expected"), [(0, 0.0, 0.1), (4, 0.0, 0.5), (9, 0.0, 1.0), (50, 0.5, 1.0)])
def test_the_rate_rises_over_the_warm_up_and_stays(update: int, spent: float, expected: float) -> None:
    recipe = PolicyOptimizerRecipe(lr=1.0, warmup=10)
    optimizer = policy_optimizer(tiny(), recipe)
    set_learning_rate(optimizer, recipe, update, spent)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([expected])


@pytest.mark.parametrize(("update", "spent", "expected"), [(4, 0.2, 0.4), (99, 0.75, 0.25), (99, 1.0, 0.0)])
def test_a_linear_decay_follows_the_budget(update: int, spent: float, expected: float) -> None:
    recipe = PolicyOptimizerRecipe(lr=1.0, warmup=10, decay="linear")
    optimizer = policy_optimizer(tiny(), recipe)
    set_learning_rate(optimizer, recipe, update, spent)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([expected])


def test_muon_takes_the_matrices_of_the_blocks_and_adam_every_other_weight() -> None:
    model = tiny()
    recipe = PolicyOptimizerRecipe(kind="muon", lr=1e-3)
    optimizer = policy_optimizer(model, recipe)
    set_learning_rate(optimizer, recipe, 0, 0.0)
    muon, others = optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_muon = {names[id(p)].split(".")[-2] for p in muon["params"]}
    assert by_muon == {"q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"}
    assert all(".blocks." in names[id(p)] for p in muon["params"]), "the output head is AdamW's"
    assert len(muon["params"]) + len(others["params"]) == len(names)
    assert (muon["lr"], others["lr"]) == pytest.approx((MUON_SCALE * 1e-3, 1e-3))


def test_a_restored_pair_goes_on_bit_for_bit() -> None:
    recipe = PolicyOptimizerRecipe(kind="muon", lr=1e-2)

    def step(model: LLaDAModelLM, optimizer: MuonAndAdam, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()

    straight = tiny()
    optimizer = policy_optimizer(straight, recipe)
    assert isinstance(optimizer, MuonAndAdam)
    step(straight, optimizer, 1)
    resumed = tiny()
    resumed.load_state_dict({name: value.clone() for name, value in straight.state_dict().items()})
    again = policy_optimizer(resumed, recipe)
    assert isinstance(again, MuonAndAdam)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(straight, optimizer, 2)
    step(resumed, again, 2)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
