"""Block caches against a decoder written by hand, and that nothing but the canvas and the seed matters."""

from itertools import zip_longest
from typing import Any

import pytest
import torch
from tests.helpers.oracle import TableDenoiser, keys_of
from tests.helpers.plain import Frozen
from tests.helpers.published import PUBLISHED, random_weights
from tests.helpers.sampling import sample_with
from torch import Tensor

from diffpo.core.canvas import canvas_at
from diffpo.core.errors import UserError
from diffpo.core.options import CacheKind
from diffpo.core.rollout import Rollout
from diffpo.likelihood.mismatch import Distance, distance, uncached_logp
from diffpo.models import denoiser as denoiser_module
from diffpo.models.denoiser import ModelDenoiser
from diffpo.recipes.tables import EvalRecipe, RlRecipe
from diffpo.sampling.controller import Controller
from diffpo.sampling.rules import EntropyBound, LowConfidence, Rule, TopK

BLOCK, LENGTH = 3, 9
RULES = {"llada": EntropyBound(5.0), "Dream": EntropyBound(4.5)}
"""By which rows of a batch come into a block at different calls."""
KINDS: tuple[CacheKind, ...] = ("prefix", "dual")
FAMILIES = tuple(PUBLISHED)
SEEDS = torch.arange(6)
STOPS = tuple(range(12))


def denoiser_of(family: str) -> ModelDenoiser:
    published = PUBLISHED[family]
    model = published.model_class(published.config_class.from_dict(published.config))
    model.load_state_dict(random_weights(published))
    return ModelDenoiser(model.eval(), published.id(published.mask), STOPS)


def prompts() -> tuple[Tensor, Tensor]:
    """Six of 5, 3, 1, 5, 3 and 4 tokens; the second and the fifth are the same."""
    ids = torch.randint(20, 250, (6, 5), generator=torch.Generator().manual_seed(0))
    ids[4] = ids[1]
    visible = torch.arange(5) >= 5 - torch.tensor([5, 3, 1, 5, 3, 4])[:, None]
    return ids.masked_fill(~visible, 7), visible


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def denoiser(family: str) -> ModelDenoiser:
    return denoiser_of(family)


def draw(denoiser: ModelDenoiser, rows: Tensor | None = None, **options: Any) -> Rollout:
    """At temperature 1 unless told, blocks of 3 in 9."""
    ids, visible = prompts()
    rows = SEEDS if rows is None else rows
    settings: dict[str, Any] = {
        "length": LENGTH,
        "block_length": BLOCK,
        "rule": RULES[denoiser.model.config.model_type],
        "temperature": 1.0,
        "stop_ids": denoiser.stop_ids,
    }
    return sample_with(denoiser, ids[rows], visible[rows], seeds=SEEDS[rows], **settings | options)


# ------------------------------------------------------------------------------------------------------- by hand


def block_of(completion: list[int], mask: int) -> int:
    return completion.index(mask) // BLOCK


def replayed(family: str, rollout: Rollout, row: int, kind: CacheKind) -> Tensor:
    """Log-probability of each token of a row under the decoder as it is described: at the first call of a block all
    keys and values are frozen, later calls make those of the block alone, or of it and what follows."""
    published, weights = PUBLISHED[family], random_weights(PUBLISHED[family])
    mask, frozen, now = published.id(published.mask), Frozen(), -1
    start = int(rollout.prompt_mask[row].sum())
    logp = torch.zeros(LENGTH, dtype=torch.float64)
    for step in range(int(rollout.nfe[row])):
        ids = canvas_at(rollout, step, mask)[row][-start - LENGTH :].tolist()
        block, places = block_of(ids[start:], mask), None
        if block == now:
            first = start + block * BLOCK - (1 if family == "Dream" else 0)
            places = range(first, start + (LENGTH if kind == "prefix" else (block + 1) * BLOCK))
        now = block
        logits = published.logits(weights, published.config, ids, frozen, places)[start:]
        logits[:, mask] = -torch.inf
        committed = rollout.unmask_step[row] == step
        committed &= torch.arange(LENGTH) // BLOCK == block  # an answer that ended was filled up behind it
        said = logits[committed].log_softmax(dim=-1)
        logp[committed] = said.gather(1, rollout.completion_ids[row][committed][:, None]).squeeze(1)
    return logp


def calls_by_block(rollout: Rollout) -> list[list[int]]:
    """The block that each row was in at each of its calls."""
    last = rollout.unmask_step.view(len(rollout), -1, BLOCK).amax(dim=2)
    return [[int((row < step).sum()) for step in range(int(row.max()) + 1)] for row in last]


@pytest.mark.parametrize("max_in_flight", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_each_token_has_the_probability_that_the_decoder_by_hand_gives_it(
    kind: CacheKind, max_in_flight: int | None, family: str, denoiser: ModelDenoiser
) -> None:
    rollout = draw(denoiser, cache=kind, max_in_flight=max_in_flight)
    at_once = [set(blocks) - {None} for blocks in zip_longest(*calls_by_block(rollout))]
    assert any(len(blocks) > 1 for blocks in at_once), "rows are in different blocks"
    assert len(set(rollout.nfe.tolist())) > 1 and int(rollout.nfe.max()) > LENGTH // BLOCK, "later calls of a block"
    expected = torch.stack([replayed(family, rollout, row, kind) for row in range(len(rollout))]).float()
    drawn = rollout.is_drawn
    torch.testing.assert_close(rollout.behaviour_logp[drawn], expected[drawn], atol=1e-5, rtol=1e-5)


# ----------------------------------------------------------------------------------------- where nothing is approximate


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rule", "block_length"), [(LowConfidence(BLOCK), BLOCK), (TopK(1), 1)], ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_every_call_is_the_first_of_its_block_a_cache_changes_nothing(
    temperature: float, rule: Rule, block_length: int, kind: CacheKind, denoiser: ModelDenoiser
) -> None:
    options: dict[str, Any] = {
        "rule": rule,
        "block_length": block_length,
        "temperature": temperature,
        "max_in_flight": 4,
    }
    found, expected = draw(denoiser, cache=kind, **options), draw(denoiser, **options)
    assert keys_of(found) == keys_of(expected)
    torch.testing.assert_close(found.behaviour_logp, expected.behaviour_logp, atol=1e-5, rtol=1e-5)


def test_elsewhere_it_does(denoiser: ModelDenoiser) -> None:
    assert keys_of(draw(denoiser, cache="dual")) != keys_of(draw(denoiser))
    assert keys_of(draw(denoiser, cache="dual")) != keys_of(draw(denoiser, cache="prefix"))


# ---------------------------------------------------------------------------------------------------- rows of their own


@pytest.mark.parametrize("max_in_flight", [None, 1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_what_it_is_alone_in_any_order_and_any_slot(
    kind: CacheKind, max_in_flight: int | None, denoiser: ModelDenoiser
) -> None:
    order = torch.tensor([4, 2, 0, 5, 3, 1])
    together = draw(denoiser, order, cache=kind, max_in_flight=max_in_flight)
    for place, row in enumerate(order.tolist()):
        alone = draw(denoiser, torch.tensor([row]), cache=kind)
        assert keys_of(together.rows(torch.tensor([place]))) == keys_of(alone)
        assert together.nfe[place] == alone.nfe[0]
        torch.testing.assert_close(together.behaviour_logp[place], alone.behaviour_logp[0], atol=1e-5, rtol=1e-5)


def test_padding_is_not_looked_at(denoiser: ModelDenoiser) -> None:
    ids, visible = prompts()
    options: dict[str, Any] = {"length": LENGTH, "block_length": BLOCK, "rule": TopK(1), "cache": "dual"}
    padded = sample_with(denoiser, ids[1:2], visible[1:2], **options)
    bare = sample_with(denoiser, ids[1:2, 2:], visible[1:2, 2:], **options)
    assert keys_of(padded) == keys_of(bare)


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_are_cached_as_logits_are(
    kind: CacheKind, denoiser: ModelDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = draw(denoiser, cache=kind)
    monkeypatch.setattr(denoiser_module, "FULL_LOGITS_MAX_VOCAB", 0)
    assert denoiser.lm_head is not None
    found = draw(denoiser, cache=kind)
    assert keys_of(found) == keys_of(expected)
    torch.testing.assert_close(found.behaviour_logp, expected.behaviour_logp, atol=1e-5, rtol=1e-5)


def test_the_learned_sampler_reads_a_whole_call(denoiser: ModelDenoiser) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        controller = Controller(4.0, 1.0, 8)
    found = draw(denoiser, cache="dual", controller=controller, explore=True, max_in_flight=2)
    expected = draw(denoiser, controller=controller, explore=True)
    torch.testing.assert_close(found.prompt_features, expected.prompt_features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.entropy_bound, expected.entropy_bound)
    for row in range(len(found)):
        alone = draw(denoiser, torch.tensor([row]), cache="dual", controller=controller, explore=True)
        assert keys_of(found.rows(slice(row, row + 1))) == keys_of(alone)


# --------------------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_run_is_not_counted(kind: CacheKind, family: str, denoiser: ModelDenoiser) -> None:
    rollout = draw(denoiser, torch.tensor([0]), rule=TopK(1), stop_ids=(), cache=kind)
    assert rollout.nfe.tolist() == [LENGTH]
    behind = {"dual": [BLOCK] * 3, "prefix": [9, 6, 3]}[kind]
    before = family == "Dream"
    canvas = 5 + LENGTH
    assert denoiser.usage.canvases == LENGTH
    assert denoiser.usage.tokens == sum(canvas + (BLOCK - 1) * (size + before) for size in behind)


def test_completions_of_a_prompt_share_their_first_call(denoiser: ModelDenoiser) -> None:
    rollout = draw(denoiser, torch.tensor([1, 4]), cache="dual")
    assert denoiser.usage.canvases <= int(rollout.nfe.sum()) - 1


# ------------------------------------------------------------------------------------------------------------- distance


def test_distance_by_hand() -> None:
    behaviour, surrogate = torch.zeros(1, 200), torch.zeros(1, 200)
    surrogate[0, :100] = -torch.arange(1.0, 101.0)
    is_scored = torch.arange(200)[None] < 100
    found = distance(surrogate, behaviour, is_scored)
    assert (found.mean, found.largest, found.num_tokens) == (50.5, 100.0, 100)
    assert found.p95 == pytest.approx(95.05) and found.p99 == pytest.approx(99.01)
    assert distance(surrogate, behaviour, torch.zeros_like(is_scored)) == Distance(0.0, 0.0, 0.0, 0.0, 0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_behaviour_is_the_model_itself_without_a_cache_and_not_with_one(
    temperature: float, denoiser: ModelDenoiser
) -> None:
    for kind, is_far in (("none", False), ("dual", True)):
        rollout = draw(denoiser, temperature=temperature, stop_ids=(), cache=kind)
        every = torch.ones_like(rollout.completion_ids, dtype=torch.bool)
        found = distance(uncached_logp(denoiser, rollout, temperature), rollout.behaviour_logp, every)
        assert (found.mean > 0.02) if is_far else (found.largest < 1e-4)


# -------------------------------------------------------------------------------------------------------------- refused


def test_one_block_is_refused(denoiser: ModelDenoiser) -> None:
    with pytest.raises(ValueError, match="makes the completion one block; use a smaller one"):
        draw(denoiser, cache="dual", block_length=LENGTH)


def test_what_keeps_nothing_is_refused() -> None:
    prompt = torch.tensor([[3]])
    with pytest.raises(UserError, match="TableDenoiser keeps no keys and values; decode with cache = 'none'"):
        sample_with(TableDenoiser(5), prompt, prompt > 0, length=4, block_length=2, rule=TopK(1), cache="prefix")


def test_another_kernel_is_refused(denoiser: ModelDenoiser) -> None:
    denoiser.model.config._attn_implementation = "flex_attention"
    with pytest.raises(UserError, match="needs the attention kernel 'sdpa', and the model was loaded with 'flex_"):
        draw(denoiser, cache="dual")


def test_no_gradient_goes_through_a_cache(denoiser: ModelDenoiser) -> None:
    ids = torch.tensor([[20, 21, 22]])
    visible = torch.ones_like(ids, dtype=torch.bool)
    window = denoiser.new_cache(1, 3).window(torch.tensor([0]), visible, visible)
    with pytest.raises(ValueError, match="no gradient goes through it"):
        denoiser.predict(ids, visible, visible, window)


@pytest.mark.parametrize("block_length", [{}, {"block_length": 16}])
def test_recipes_refuse_a_cache_of_one_block(block_length: dict[str, int]) -> None:
    settings = {"cache": "dual"} | block_length
    with pytest.raises(ValueError, match=r"set rollout\.block_length below 16, or rollout\.cache = 'none'"):
        RlRecipe.model_validate({"base": "x", "budget": {"steps": 1}, "rollout": settings})
    with pytest.raises(ValueError, match="set block_length below 16, or cache = 'none'"):
        EvalRecipe.model_validate({"model": "x", "task": {"kind": "sudoku"}, **settings})
    RlRecipe.model_validate({"base": "x", "budget": {"steps": 1}, "rollout": settings | {"block_length": 4}})
