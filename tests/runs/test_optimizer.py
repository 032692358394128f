"""Rates over a run, which weights Muon gets, and that all that is trained is float32."""

import copy

import pytest
import torch
from tests.helpers.families import tiny_denoiser
from torch import Tensor

from diffpo.models.adapters import add_adapter
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


DREAM = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
LLADA = {"q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"}


@pytest.mark.parametrize(("family", "matrices"), [("llada", LLADA), ("dream", DREAM)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muon_finds_the_matrices_of_every_family(family: str, matrices: set[str], dtype: torch.dtype) -> None:
    model = tiny_denoiser(family, dtype).model
    muon, others = policy_optimizer(model, PolicyOptimizerRecipe(kind="muon", lr=1e-3)).param_groups
    expected = [p.shape for name, p in model.named_parameters() if name.split(".")[-2] in matrices and p.dim() == 2]
    expected = [shape for shape in expected if len(model.get_input_embeddings().weight) not in shape]  # LLaDA's head
    assert [p.shape for p in muon["params"]] == expected and len(expected) == 2 * len(matrices)
    assert len(muon["params"]) + len(others["params"]) == len(list(model.parameters()))
    assert all(p.dtype == torch.float32 for group in (muon, others) for p in group["params"])


def test_an_adapters_factors_are_all_muons_and_its_optimiser_goes_on() -> None:
    denoiser = tiny_denoiser("dream", torch.bfloat16)
    add_adapter(denoiser, 4, 8, seed=0)
    trained = [p for p in denoiser.model.parameters() if p.requires_grad]
    recipe = PolicyOptimizerRecipe(kind="muon", lr=1e-3)
    optimizer = policy_optimizer(denoiser.model, recipe)
    (muon,) = optimizer.param_groups
    assert [id(p) for p in muon["params"]] == [id(p) for p in trained]
    before = [p.detach().clone() for p in trained]
    for p in trained:
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    for p, old in zip(trained, before, strict=True):
        step = (old - p).detach() / (muon["lr"] * 0.2 * max(p.shape) ** 0.5)
        values = torch.linalg.svdvals(step)
        assert ((values > 0.6) & (values < 1.3)).all(), "orthogonalised"
    policy_optimizer(denoiser.model, recipe).load_state_dict(copy.deepcopy(optimizer.state_dict()))


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("is_adapter", [False, True])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_equal_gradients_change_a_bfloat16_runs_numbers_as_a_float32_runs(
    family: str, is_adapter: bool, kind: str
) -> None:
    recipe = PolicyOptimizerRecipe.model_validate({"kind": kind, "lr": 3e-6, "beta2": 0.999})
    changes: list[list[Tensor]] = []
    for dtype in (torch.float32, torch.bfloat16):
        denoiser = tiny_denoiser(family, dtype, width=8, hidden=12, layers=1)
        if is_adapter:
            add_adapter(denoiser, 2, 4, seed=0)
            equalise(denoiser.model)
        trained = [p for p in denoiser.model.parameters() if p.requires_grad]
        optimizer = policy_optimizer(denoiser.model, recipe)
        numbers = [p for group in optimizer.param_groups for p in group["params"]]
        before = [p.detach().double() for p in numbers]
        steady = torch.Generator().manual_seed(1)
        direction = [torch.randn(p.shape, generator=steady) for p in trained]
        noise = torch.Generator().manual_seed(2)
        for _ in range(200):
            optimizer.zero_grad()
            for p, mean in zip(trained, direction, strict=True):
                gradient = mean + torch.randn(p.shape, generator=noise)
                p.grad = gradient.bfloat16().to(p.grad_dtype)
            optimizer.step()
        changes.append([p.detach().double() - old for p, old in zip(numbers, before, strict=True)])
        if dtype == torch.bfloat16 and not is_adapter:
            masters = {id(p.grad): p for p in numbers}
            assert all(p.equal(masters[id(p.grad)].bfloat16()) for p in trained), "the model is its masters, rounded"
    for exact, found in zip(*changes, strict=True):
        assert exact.abs().max() > 0
        assert (found - exact).norm() <= 1e-6 * exact.norm()


def equalise(model: torch.nn.Module) -> None:
    """Round an adapter's start to bfloat16, as PEFT draws it on a bfloat16 model."""
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(p.bfloat16().float())


@pytest.mark.parametrize("is_adapter", [False, True])
def test_the_gradients_of_several_passes_are_added_up_in_float32(is_adapter: bool) -> None:
    denoiser = tiny_denoiser("llada", torch.bfloat16)
    if is_adapter:
        add_adapter(denoiser, 4, 8, seed=0)
    trained = [p for p in denoiser.model.parameters() if p.requires_grad]
    optimizer = policy_optimizer(denoiser.model, PolicyOptimizerRecipe(lr=1e-3))
    canvas = torch.arange(60).view(5, 12) % 8
    everywhere = torch.ones(12, dtype=torch.bool)[None]
    sums = [torch.zeros(p.shape) for p in trained]
    for row in canvas:
        optimizer.zero_grad()
        denoiser.predict(row[None], everywhere, everywhere).logits.log_softmax(-1)[:, 1].sum().backward()
        for total, p in zip(sums, trained, strict=True):
            assert p.grad is not None
            total += p.grad
    optimizer.zero_grad()
    for row in canvas:
        denoiser.predict(row[None], everywhere, everywhere).logits.log_softmax(-1)[:, 1].sum().backward()
    for total, p in zip(sums, trained, strict=True):
        assert p.grad is not None and p.grad.dtype == torch.float32 and p.grad.equal(total)
    assert {p.dtype for group in optimizer.param_groups for p in group["params"]} == {torch.float32}
    optimizer.step()
    moments = [x for x in tensors(optimizer.state_dict()) if x.dim()]
    assert len(moments) >= 2 * len(trained) and all(x.dtype == torch.float32 for x in moments)


def tensors(state: object) -> list[Tensor]:
    if isinstance(state, dict | list):
        return [x for part in (state.values() if isinstance(state, dict) else state) for x in tensors(part)]
    return [state] if isinstance(state, Tensor) else []


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
