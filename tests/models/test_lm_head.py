"""The output head by slices of the vocabulary, against the full softmax in float64."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from tests.helpers.marks import computes_in_bfloat16
from tests.helpers.oracle import rollout_of, tiny_llada
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from diffpo.likelihood import Conditionals, MeanField, conditionals
from diffpo.models import denoiser as denoisers
from diffpo.models import lm_head as heads
from diffpo.models.adapters import AdapterOffDenoiser, add_adapter
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.denoiser_output import HiddenStates, Logits
from diffpo.models.dream import DreamConfig, DreamModel
from diffpo.models.lm_head import MIN_COLUMNS, LMHead, lm_head_kl, lm_head_logp

ROWS, WIDTH, VOCAB, SIZE, MASK = 9, 16, 700, 650, 301
INDEX = torch.tensor([0, 1, 1, 1, 2, 4, 5, 6, 7, 7, 8])
"""Row 3 does not occur; rows 1 and 7 occur more than once, and row 1 twice with the same token."""
TOKEN = torch.tensor([5, 0, 649, 0, 127, 128, 300, 302, 255, 256, 640])


def some(sharpness: float = 1.0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator)
    weight = torch.randn(VOCAB, WIDTH, generator=generator)
    hidden[INDEX] = hidden[INDEX] + sharpness * weight[TOKEN]  # or all the tokens would be unlikely
    return hidden.to(dtype).requires_grad_(True), weight.to(dtype)


def plain_logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """[M, S] in float64, of what can be output alone; ids above the mask token's move down by one."""
    allowed = [token for token in range(SIZE) if token != MASK]
    return hidden.double() @ weight.double()[allowed].T


def plain_logp(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logp = (plain_logits(hidden, weight) / temperature).log_softmax(dim=-1)
    return logp[INDEX, TOKEN - (TOKEN > MASK).long()]


def gradients(values: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of a sum of the values with weights of both signs."""
    upstream = torch.linspace(-1, 2, len(values), dtype=values.dtype)
    return torch.autograd.grad((values * upstream).sum(), of, retain_graph=True)


# ------------------------------------------------------------------------------------------------- values and gradients


@pytest.mark.parametrize("chunk", [1, ROWS * 300, None], ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("is_trained", [False, True], ids=["frozen", "trained"])
def test_values_and_gradients_are_those_of_the_whole_softmax(
    is_trained: bool, temperature: float, chunk: int | None
) -> None:
    hidden, weight = some()
    weight.requires_grad_(is_trained)
    found = lm_head_logp(hidden, LMHead(weight, MASK, SIZE), INDEX, TOKEN, temperature, chunk)
    expected = plain_logp(hidden, weight, temperature)
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-5)
    of = (hidden, weight) if is_trained else (hidden,)
    for one, other in zip(gradients(found, *of), gradients(expected, *of), strict=True):
        assert float(other.abs().max()) > 1
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("is_trained", [False, True], ids=["frozen", "trained"])
def test_gradients_by_finite_differences(is_trained: bool) -> None:
    hidden, weight = some(dtype=torch.float64)
    weight.requires_grad_(is_trained)

    def logp(h: Tensor, w: Tensor) -> Tensor:
        return lm_head_logp(h, LMHead(w, MASK, SIZE), INDEX, TOKEN, 0.8)

    assert torch.autograd.gradcheck(logp, (hidden, weight), fast_mode=True)


def test_the_slices_are_cut_where_they_should_be() -> None:
    """The tokens lie on both sides of a cut, and the last slice is a short one."""
    assert MIN_COLUMNS == 128 and {127, 128, 255, 256} < set(TOKEN.tolist()) and SIZE % MIN_COLUMNS


def test_forbidden_tokens_have_no_probability_and_no_gradient() -> None:
    hidden, weight = some(sharpness=0.0)
    weight.requires_grad_(True)
    head = LMHead(weight, MASK, SIZE)
    everything = torch.arange(VOCAB)
    index = torch.zeros_like(everything)
    logp = lm_head_logp(hidden, head, index, everything, 1.0, chunk=1)
    is_forbidden = (everything == MASK) | (everything >= SIZE)
    assert bool((logp[is_forbidden] < -1e30).all()) and bool(logp.isfinite().all())
    assert float(logp[~is_forbidden].exp().sum().detach()) == pytest.approx(1, abs=1e-5)
    (grad,) = gradients(logp[~is_forbidden], weight)
    assert not grad[is_forbidden].any() and bool(grad[~is_forbidden].any(dim=1).all())
    (whole,) = gradients(head.logits(hidden).log_softmax(dim=-1)[0], hidden)
    (grad,) = gradients(logp, hidden)  # of forbidden tokens, too
    torch.testing.assert_close(grad, whole, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_few_rows_get_the_same_logits_by_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight = some()
    monkeypatch.setattr(heads, "VOCAB_SLICE", 64)  # the last one is shorter
    made = LMHead(weight, MASK, SIZE).logits(hidden)
    allowed = [token for token in range(SIZE) if token != MASK]
    torch.testing.assert_close(made[:, allowed], plain_logits(hidden, weight).float(), atol=1e-5, rtol=1e-5)
    assert made.shape == (ROWS, VOCAB) and not made.softmax(dim=-1)[:, [MASK, SIZE, VOCAB - 1]].any()


def test_no_tokens_give_no_log_probabilities() -> None:
    hidden, weight = some()
    none = torch.zeros(0, dtype=torch.long)
    found = lm_head_logp(hidden, LMHead(weight, MASK, SIZE), none, none, 1.0)
    (grad,) = torch.autograd.grad(found.sum(), hidden)
    assert found.shape == (0,) and not grad.any()


@pytest.mark.parametrize("is_trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("chunk", [1, 4 * SIZE, 100 * SIZE])
def test_full_kl_is_that_of_the_whole_softmax(chunk: int, is_trained: bool) -> None:
    hidden, weight = some()
    weight.requires_grad_(is_trained)
    base, base_weight = (x.detach() + 0.1 * torch.ones_like(x).cumsum(0).sin() for x in (hidden, weight))
    found = lm_head_kl(hidden, LMHead(weight, MASK, SIZE), base, LMHead(base_weight, MASK, SIZE), chunk)
    logp, base_logp = plain_logits(hidden, weight).log_softmax(-1), plain_logits(base, base_weight).log_softmax(-1)
    expected = (logp.exp() * (logp - base_logp)).sum(dim=-1)
    assert float(expected.min().detach()) > 1e-3
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)
    of = (hidden, weight) if is_trained else (hidden,)
    for one, other in zip(gradients(found, *of), gradients(expected, *of), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------------------------------------- bfloat16


@computes_in_bfloat16
@pytest.mark.parametrize("is_trained", [False, True], ids=["frozen", "trained"])
def test_bfloat16_rounds_the_models_logits_and_nothing_after(is_trained: bool) -> None:
    hidden, weight = some(dtype=torch.bfloat16)
    weight.requires_grad_(is_trained)
    found = lm_head_logp(hidden, LMHead(weight, MASK, SIZE), INDEX, TOKEN, 1.0, chunk=1)
    logits = torch.cat([(hidden @ weight[:MASK].T), (hidden @ weight[MASK + 1 : SIZE].T)], dim=1).double()
    expected = logits.log_softmax(dim=-1)[INDEX, TOKEN - (TOKEN > MASK).long()]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-6)
    of = (hidden, weight) if is_trained else (hidden,)
    for one, other in zip(gradients(found, *of), gradients(expected, *of), strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one.double(), other.double(), atol=0.03, rtol=0.02)


@computes_in_bfloat16
def test_bfloat16_keeps_the_gradient_of_a_token_that_is_all_but_certain() -> None:
    """Its pull, (1 - p) W[token], is lost where p is rounded before it is taken from 1."""
    hidden, weight = some(dtype=torch.bfloat16)
    longest = weight[:SIZE].float().norm(dim=1).argmax()
    with torch.no_grad():
        hidden[0] = 0.42 * weight[longest]
    head = LMHead(weight, MASK, SIZE)
    logp = lm_head_logp(hidden, head, torch.tensor([0]), longest[None], 1.0)
    (found,) = torch.autograd.grad(logp.sum(), hidden)
    probability = head.logits(hidden)[0].detach().double().softmax(-1)
    rest = probability.index_fill(0, longest, 0.0)
    assert 2**-12 < float(rest.sum()) < 2**-9
    pull = rest.sum() * weight[longest].double()
    expected = pull - rest @ weight.double()
    assert float(pull.norm()) > 0.3 * float(expected.norm())
    torch.testing.assert_close(found[0].double(), expected, atol=0.01 * float(expected.norm()), rtol=0.02)


@computes_in_bfloat16
@pytest.mark.parametrize("whole", [0, 10**9], ids=["states", "logits"])
def test_a_bfloat16_models_log_probabilities_are_float32(whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoisers, "FULL_LOGITS_MAX_VOCAB", whole)
    denoiser = large(dtype=torch.bfloat16)
    scores = scored(denoiser)
    with torch.no_grad():
        found = scores.logp(IDS, 0.7)
        logits = denoiser.model(masked_canvas(), logits_at=completion_at()).logits
    logits = logits.double().index_fill(1, torch.tensor([LARGE_MASK]), -math.inf)
    expected = (logits / 0.7).log_softmax(-1)[scores.index, IDS]
    assert logits.dtype == torch.float64 and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------ the whole model

LARGE, LARGE_MASK = denoisers.FULL_LOGITS_MAX_VOCAB + 200, 7
PROMPT = torch.tensor([[1, 2, 3]] * 3 + [[4, 5, 6]] * 3)
IDS = torch.randint(8, LARGE, (6, 5), generator=torch.Generator().manual_seed(3))


def large(family: str = "llada", dtype: torch.dtype = torch.float32, is_trained: bool = True) -> ModelDenoiser:
    if family == "llada":
        denoiser = tiny_llada(LARGE, LARGE_MASK)
    else:
        shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = DreamModel(DreamConfig(vocab_size=LARGE, mask_token_id=LARGE_MASK, initializer_range=0.3, **shape))
        denoiser = ModelDenoiser(model.eval(), LARGE_MASK, ())
    denoiser.model.get_output_embeddings().weight.requires_grad_(is_trained)
    denoiser.model.to(dtype)
    return denoiser


def scored(denoiser: ModelDenoiser) -> Conditionals:
    """On the fully masked canvas, which the completions of a prompt share."""
    rollout = rollout_of(PROMPT, IDS, torch.zeros_like(IDS))
    views = MeanField(prompt_mask_rate=0.0)(rollout, torch.zeros_like(PROMPT, dtype=torch.bool), LARGE_MASK)
    return conditionals(denoiser, views, torch.ones_like(IDS, dtype=torch.bool))


def masked_canvas() -> Tensor:
    return torch.cat([PROMPT[[0, 3]], torch.full((2, 5), LARGE_MASK)], dim=1)


def completion_at() -> Tensor:
    return torch.arange(8).expand(2, 8) >= 3


@pytest.mark.parametrize("is_trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_through_the_whole_model(family: str, is_trained: bool) -> None:
    denoiser = large(family, is_trained=is_trained)
    scores = scored(denoiser)
    assert isinstance(scores.output, HiddenStates) and len(scores.output.hidden) == 10
    upstream = torch.linspace(-1, 2, IDS.numel()).view(IDS.shape)
    logp = scores.logp(IDS, 0.7)
    (logp * upstream).sum().backward()
    found = {name: p.grad for name, p in denoiser.model.named_parameters() if p.grad is not None}

    twin = large(family, is_trained=is_trained)
    logits = twin.model(masked_canvas(), logits_at=completion_at()).logits.double()
    logits = logits.index_fill(1, torch.tensor([LARGE_MASK]), -math.inf)
    expected = (logits / 0.7).log_softmax(-1)[scores.index, IDS]
    torch.testing.assert_close(logp.double(), expected, atol=2e-5, rtol=1e-5)
    (expected * upstream).sum().backward()
    grads = {name: p.grad for name, p in twin.model.named_parameters() if p.grad is not None}
    assert found.keys() == grads.keys() and len(found) > 10
    for name, grad in grads.items():
        torch.testing.assert_close(found[name], grad, atol=1e-4 * float(grad.abs().max()), rtol=1e-3)


class Largest(TorchDispatchMode):
    """The most numbers that any one result held."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not func.is_view:
            self.numbers = max(self.numbers, result.numel())
        return result


@pytest.mark.parametrize("whole", [0, 10**9], ids=["states", "logits"])
def test_no_logits_of_the_whole_vocabulary_exist(whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoisers, "FULL_LOGITS_MAX_VOCAB", whole)
    monkeypatch.setitem(heads.CHUNK, "cpu", 10 * MIN_COLUMNS)
    denoiser = large(is_trained=False)
    denoiser.model.get_input_embeddings().requires_grad_(False)  # its gradient is a large one, too
    with Largest() as seen:
        scored(denoiser).logp(IDS, 1.0).sum().backward()
    logits = 10 * LARGE
    assert seen.numbers >= logits if whole else seen.numbers < logits / 6


def test_a_small_vocabulary_keeps_its_logits() -> None:
    assert isinstance(scored(ModelDenoiser(large().model, LARGE_MASK, ())).output, HiddenStates)
    small = tiny_llada(denoisers.FULL_LOGITS_MAX_VOCAB, LARGE_MASK)
    assert small.lm_head is None
    at = completion_at()
    output = small.predict(masked_canvas(), torch.ones_like(at), at)
    assert isinstance(output, Logits)
    own = small.model(input_ids=masked_canvas(), attention_mask=torch.ones_like(at), logits_at=at).logits
    assert torch.equal(output.logits, heads.mask_forbidden_(own.float(), LARGE_MASK, None))


def test_every_call_is_counted() -> None:
    denoiser = large()
    at = completion_at()
    for number, vocabulary in enumerate((None, LARGE - 100), start=1):
        replace(denoiser, vocabulary=vocabulary).predict(masked_canvas(), torch.ones_like(at), at)
        assert (denoiser.usage.canvases, denoiser.usage.tokens) == (2 * number, 16 * number)


def test_rows_that_are_no_tokens_are_no_tokens_here_either() -> None:
    denoiser = replace(large(), vocabulary=LARGE - 100)
    at = completion_at()
    output = denoiser.predict(masked_canvas(), torch.ones_like(at), at)
    assert isinstance(output, HiddenStates)
    own = denoiser.model(input_ids=masked_canvas(), attention_mask=torch.ones_like(at), logits_at=at).logits
    logits = heads.mask_forbidden_(own.float(), LARGE_MASK, LARGE - 100)
    assert torch.equal(output.logits, logits)
    index, token = torch.arange(10), torch.full((10,), 11)
    torch.testing.assert_close(output.logp(index, token, 1.0), logits.log_softmax(-1)[:, 11], atol=1e-5, rtol=1e-5)


def test_a_head_that_is_more_than_a_matrix_keeps_its_logits() -> None:
    assert large().lm_head is not None
    denoiser = large()
    denoiser.model.model.transformer["ff_out"] = nn.Linear(32, LARGE, bias=True)
    assert denoiser.lm_head is None
    adapted = large()
    adapted.model.add_adapter(LoraConfig(r=2, target_modules=["ff_out"]), "default")  # d1's list has it, the head's too
    assert adapted.lm_head is None


def test_the_adapter_is_off_for_the_reference() -> None:
    denoiser = large()
    reference = scored(denoiser).logp(IDS, 1.0).detach()
    add_adapter(denoiser, rank=2, alpha=4, seed=0)
    with torch.no_grad():
        for name, parameter in denoiser.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    off, on = (scored(one).logp(IDS, 1.0).detach() for one in (AdapterOffDenoiser.of(denoiser), denoiser))
    torch.testing.assert_close(off, reference, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(on, reference, atol=1e-2)
