"""Surrogate likelihoods against slow readings of a table, and against the exact behaviour where the two meet."""

import math
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
import torch
from tests.helpers.oracle import TableDenoiser, rollout_of, tiny_llada
from tests.helpers.sampling import sample_with
from torch import Tensor

from diffpo.core.canvas import canvas_at, full_attention_mask
from diffpo.core.rollout import Rollout
from diffpo.likelihood import Conditionals, Estimator, MeanField, ScoringPlan, TwoTimesMeanField, conditionals
from diffpo.models.denoiser_output import Logits
from diffpo.objective.kl import kl_full, kl_k3
from diffpo.sampling.rules import EntropyBound, TopK

PROMPT, LENGTH, GROUP = 2, 3, 4
TABLE = TableDenoiser(width=PROMPT + LENGTH)
MASK = TABLE.mask_id


@cache
def some_rollout(temperature: float = 1.0) -> Rollout:
    """Three prompts (the first has a padding token) by four completions, drawn from the table with ragged steps."""
    prompt_ids = torch.tensor([[0, 2], [2, 3], [3, 3]]).repeat_interleave(GROUP, dim=0)
    prompt_mask = torch.ones_like(prompt_ids, dtype=torch.bool)
    prompt_mask[:GROUP, 0] = False
    rule, seeds = EntropyBound(0.3), torch.arange(len(prompt_ids))
    options = {"length": LENGTH, "block_length": LENGTH, "temperature": temperature}
    return sample_with(TABLE, prompt_ids, prompt_mask, rule=rule, seeds=seeds, **options)  # type: ignore[arg-type]


def every_token() -> Tensor:
    return torch.ones_like(some_rollout().completion_ids, dtype=torch.bool)


def surrogate_logp(
    estimator: Estimator, draw: Tensor, rollout: Rollout | None = None, temperature: float = 1.0
) -> Tensor:
    rollout = some_rollout() if rollout is None else rollout
    views = estimator(rollout, draw, MASK)
    return conditionals(TABLE, views, every_token()).logp(rollout.completion_ids, temperature)


def by_hand(rollout: Rollout, row: int, position: int, boundary: int, hide: set[int], temperature: float) -> float:
    """One token's log-probability, its canvas spelt out; `hide`: prompt positions that are masked."""
    ids: list[int] = rollout.completion_ids[row].tolist()
    steps: list[int] = rollout.unmask_step[row].tolist()
    usage = boundary if steps[position] >= boundary else 0
    prompt = [MASK if i in hide else token for i, token in enumerate(rollout.prompt_ids[row].tolist())]
    canvas = prompt + [ids[i] if steps[i] < usage else MASK for i in range(LENGTH)]
    padding = int((~rollout.prompt_mask[row]).sum())
    return TABLE.logp(canvas, PROMPT + position, temperature, padding)[ids[position]]


def test_the_sample_is_worth_testing_on() -> None:
    assert {2, 3} <= set(some_rollout().nfe.tolist())
    assert ((some_rollout().unmask_step == 0).sum(dim=1) > 1).any()


# -------------------------------------------------------------------------------------------------- canvases and values


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_two_times_mean_field_by_hand(temperature: float) -> None:
    rollout = some_rollout(temperature)
    for seed in range(4):
        draw = TwoTimesMeanField().draw(rollout, torch.Generator().manual_seed(seed))
        expected = [
            [by_hand(rollout, row, position, int(draw[row]), set(), temperature) for position in range(LENGTH)]
            for row in range(len(rollout))
        ]
        found = surrogate_logp(TwoTimesMeanField(), draw, rollout, temperature)
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_mean_field_by_hand(rate: float) -> None:
    estimator = MeanField(rate)
    draw = estimator.draw(some_rollout(), torch.Generator().manual_seed(3))
    expected = [
        [by_hand(some_rollout(), row, i, 0, set(draw[row].nonzero().flatten().tolist()), 1.0) for i in range(LENGTH)]
        for row in range(len(some_rollout()))
    ]
    torch.testing.assert_close(surrogate_logp(estimator, draw), torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_boundary_zero_is_mean_field_exactly() -> None:
    nothing = MeanField(prompt_mask_rate=0.0).draw(some_rollout(), torch.Generator())
    zero = torch.zeros(len(some_rollout()), dtype=torch.long)
    assert torch.equal(
        surrogate_logp(TwoTimesMeanField(), zero), surrogate_logp(MeanField(prompt_mask_rate=0.0), nothing)
    )


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_tokens_committed_at_the_boundary_are_scored_exactly(temperature: float) -> None:
    rollout = some_rollout(temperature)
    for boundary in range(int(rollout.nfe.max())):
        step = torch.full((len(rollout),), boundary).minimum(rollout.nfe - 1)
        is_at = rollout.unmask_step == step[:, None]
        assert bool(is_at.any(dim=1).all())
        found = surrogate_logp(TwoTimesMeanField(), step, rollout, temperature)
        torch.testing.assert_close(found[is_at], rollout.behaviour_logp[is_at], atol=1e-6, rtol=1e-6)
        others = ~is_at & (rollout.unmask_step > 0)
        assert not torch.isclose(found[others], rollout.behaviour_logp[others], atol=1e-3).any()


def test_earlier_tokens_are_scored_on_the_fully_masked_canvas() -> None:
    last = some_rollout().nfe - 1
    views = TwoTimesMeanField()(some_rollout(), last, MASK)
    canvas = views.canvas[views.source][..., PROMPT:]  # [B, L, L]: the completion that each token's canvas shows
    is_early = some_rollout().unmask_step < last[:, None]
    assert bool((canvas[is_early] == MASK).all())
    expected = canvas_at(some_rollout(), last, MASK)[:, None, PROMPT:].expand(-1, LENGTH, -1)
    assert torch.equal(canvas[~is_early], expected[~is_early])


def test_a_view_shows_the_rows_own_prompt_and_padding() -> None:
    draw = TwoTimesMeanField().draw(some_rollout(), torch.Generator().manual_seed(0))
    for views in (
        TwoTimesMeanField()(some_rollout(), draw, MASK),
        MeanField(prompt_mask_rate=0.0)(some_rollout(), some_rollout().prompt_mask & False, MASK),
    ):
        for position in range(LENGTH):
            source = views.source[:, position]
            assert torch.equal(views.canvas[source, :PROMPT], some_rollout().prompt_ids)
            assert torch.equal(views.attention_mask[source], full_attention_mask(some_rollout().prompt_mask, LENGTH))


# ------------------------------------------------------------------------------------------------------------- sharing


def test_completions_of_a_prompt_share_canvases() -> None:
    views = MeanField(prompt_mask_rate=0.0)(some_rollout(), some_rollout().prompt_mask & False, MASK)
    assert len(views.canvas) == 3
    for boundary in (some_rollout().nfe - 1, torch.zeros_like(some_rollout().nfe)):
        views = TwoTimesMeanField()(some_rollout(), boundary, MASK)
        assert 3 <= len(views.canvas) <= 3 + len(some_rollout())
    assert len(views.canvas) == 3


def test_prompts_that_differ_only_in_padding_are_not_shared() -> None:
    prompt_ids = torch.tensor([[0, 2], [0, 2]])
    prompt_mask = torch.tensor([[True, True], [False, True]])
    rollout = rollout_of(prompt_ids, torch.tensor([[0, 2, 3]] * 2), torch.tensor([[0, 1, 2]] * 2), prompt_mask)
    views = MeanField(prompt_mask_rate=0.0)(rollout, prompt_mask & False, MASK)
    assert len(views.canvas) == 2
    logp = conditionals(TABLE, views, every_token()[:2]).logp(rollout.completion_ids, 1.0)
    assert not torch.isclose(logp[0], logp[1]).any()


def test_sharing_changes_neither_values_nor_gradients() -> None:
    denoiser = tiny_llada(TABLE.vocab, MASK)
    draw = TwoTimesMeanField().draw(some_rollout(), torch.Generator().manual_seed(1))
    shared = TwoTimesMeanField()(some_rollout(), draw, MASK)
    rows = len(some_rollout())
    plain = ScoringPlan(
        torch.cat([canvas_at(some_rollout(), 0, MASK), canvas_at(some_rollout(), draw, MASK)]),
        full_attention_mask(some_rollout().prompt_mask, LENGTH).repeat(2, 1),
        torch.arange(rows)[:, None] + rows * (some_rollout().unmask_step >= draw[:, None]),
    )
    assert len(shared.canvas) < len(plain.canvas)
    weight = torch.randn(some_rollout().completion_ids.shape, generator=torch.Generator().manual_seed(2))

    def value_and_gradient(views: ScoringPlan) -> tuple[Tensor, Tensor]:
        denoiser.model.zero_grad()
        logp = conditionals(denoiser, views, every_token()).logp(some_rollout().completion_ids, 1.0)
        (logp * weight).sum().backward()
        return logp.detach(), torch.cat([p.grad.flatten() for p in denoiser.model.parameters() if p.grad is not None])

    for one, other in zip(value_and_gradient(shared), value_and_gradient(plain), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_shared_views_are_each_canvas_once() -> None:
    canvas = torch.tensor([[1, 2], [3, 4], [1, 2], [1, 2]])
    seen = torch.tensor([[True, True], [True, True], [True, True], [False, True]])
    views = ScoringPlan(canvas, seen, torch.tensor([[0, 1], [2, 3]])).shared()
    assert len(views.canvas) == 3
    assert torch.equal(views.canvas[views.source], canvas[torch.tensor([[0, 1], [2, 3]])])
    assert torch.equal(views.attention_mask[views.source], seen[torch.tensor([[0, 1], [2, 3]])])


# --------------------------------------------------------------------------------------------------------------- draws


def ragged_rollout(rows: int, prompt: int = 6) -> Rollout:
    """Any steps will do: every row has some nfe from 1 to 5."""
    steps = torch.arange(5).expand(rows, 5).minimum(torch.arange(rows)[:, None] % 5)
    prompt_mask = torch.arange(prompt) >= torch.arange(rows)[:, None] % prompt
    return rollout_of(torch.zeros(rows, prompt, dtype=torch.long), torch.zeros(rows, 5).long(), steps, prompt_mask)


def test_masked_prompt_positions_are_real_ones_at_the_right_rate() -> None:
    rollout = ragged_rollout(2000)
    draw = MeanField(0.15).draw(rollout, torch.Generator().manual_seed(0))
    assert not (draw & ~rollout.prompt_mask).any()
    count = int(rollout.prompt_mask.sum())
    error = math.sqrt(0.15 * 0.85 / count)
    assert float(draw[rollout.prompt_mask].float().mean()) == pytest.approx(0.15, abs=4 * error)
    per_position = draw.sum(dim=0) / rollout.prompt_mask.sum(dim=0)
    assert per_position.tolist() == pytest.approx([0.15] * 6, abs=0.06)
    assert not torch.equal(draw[6], draw[12])  # afresh in every row
    assert not MeanField(0.0).draw(rollout, torch.Generator()).any()
    assert torch.equal(MeanField(1.0).draw(rollout, torch.Generator()), rollout.prompt_mask)


def test_boundary_steps_are_uniform_over_the_rows_own_calls() -> None:
    rollout = ragged_rollout(20)
    counts = [Counter[int]() for _ in range(20)]
    draws = 1500
    for seed in range(draws):
        for row, step in enumerate(TwoTimesMeanField().draw(rollout, torch.Generator().manual_seed(seed)).tolist()):
            counts[row][step] += 1
    for row, count in enumerate(counts):
        nfe = int(rollout.nfe[row])
        assert set(count) == set(range(nfe))
        assert all(abs(n / draws - 1 / nfe) < 4 * math.sqrt(1 / nfe / draws) for n in count.values())


def test_boundary_steps_are_stratified_over_the_batch() -> None:
    rows, nfe = 20, 5
    rollout = replace(ragged_rollout(rows), nfe=torch.full((rows,), nfe))
    orders = set()
    for seed in range(20):
        draw = TwoTimesMeanField().draw(rollout, torch.Generator().manual_seed(seed))
        assert Counter(draw.tolist()) == dict.fromkeys(range(nfe), rows // nfe)
        orders.add(tuple(draw.tolist()))
    assert len(orders) == 20


@pytest.mark.parametrize("estimator", [MeanField(0.3), TwoTimesMeanField()], ids=str)
def test_a_draw_is_a_function_of_its_generator(estimator: Estimator) -> None:
    rollout = ragged_rollout(30)
    first, again, other = (estimator.draw(rollout, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# ------------------------------------------------------------------------------------------------------- scored places


def test_unscored_tokens_are_not_asked_for() -> None:
    draw = some_rollout().nfe - 1
    views = TwoTimesMeanField()(some_rollout(), draw, MASK)
    is_scored = torch.rand(every_token().shape, generator=torch.Generator().manual_seed(5)) < 0.5
    is_scored[0] = False
    TABLE.asked.clear()
    part = conditionals(TABLE, views, is_scored)
    ((canvas, at),) = TABLE.asked
    wanted = {
        (tuple(views.canvas[views.source[row, i]].tolist()), PROMPT + i) for row, i in is_scored.nonzero().tolist()
    }
    asked = {(tuple(canvas[row].tolist()), position) for row, position in at.nonzero().tolist()}
    assert asked == wanted
    assert len(part.output.logits) == int(at.sum()) == len(asked)  # every place once
    whole = conditionals(TABLE, views, every_token())
    found, expected = (c.logp(some_rollout().completion_ids, 1.0)[is_scored] for c in (part, whole))
    assert torch.equal(found, expected)


def test_per_token_values_are_those_of_the_tokens_own_place() -> None:
    views = TwoTimesMeanField()(some_rollout(), some_rollout().nfe - 1, MASK)
    read = conditionals(TABLE, views, every_token())
    best = read.per_token(read.output.logits.amax(dim=-1))
    for row in range(len(some_rollout())):
        for i in range(LENGTH):
            source = int(views.source[row, i])
            at = torch.zeros(1, PROMPT + LENGTH, dtype=torch.bool)
            at[0, PROMPT + i] = True
            one = slice(source, source + 1)
            assert best[row, i] == TABLE.predict(views.canvas[one], views.attention_mask[one], at).logits.amax()


def test_low_temperatures_keep_values_and_gradients_finite() -> None:
    logits = torch.randn(2, TABLE.vocab, generator=torch.Generator().manual_seed(0))
    logits[:, MASK] = torch.finfo(torch.float32).min / 2
    logits.requires_grad_(True)
    slot = torch.tensor([[0, 1]])
    logp = Conditionals(Logits(logits), slot, slot >= 0).logp(torch.tensor([[0, 2]]), 0.05)
    logp.sum().backward()
    assert logits.grad is not None
    assert bool(logp.isfinite().all() and logits.grad.isfinite().all())


# ------------------------------------------------------------------------------------------------------------------ KL


def two_policies() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits, base = 2 * torch.randn(2, 50, 6, generator=generator)
    logits[:, 3] = base[:, 3] = torch.finfo(torch.float32).min / 2
    return logits, base


def test_full_kl_is_the_sum_over_the_vocabulary() -> None:
    logits, base = two_policies()
    p, q = logits.double().softmax(-1).tolist(), base.double().softmax(-1).tolist()
    expected = [
        sum(a * math.log(a / b) for a, b in zip(row, other, strict=True) if a > 0)
        for row, other in zip(p, q, strict=True)
    ]
    found = kl_full(logits, base)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert bool((found >= 0).all())
    assert kl_full(logits, logits).abs().max() < 1e-6


def test_k3_is_unbiased_and_never_negative() -> None:
    logits, base = two_policies()
    logp, base_logp = logits.log_softmax(-1), base.log_softmax(-1)
    is_token = torch.arange(6) != 3
    every = kl_k3(logp[:, is_token], base_logp[:, is_token])
    expectation = (logp[:, is_token].exp() * every).sum(dim=-1)
    torch.testing.assert_close(expectation, kl_full(logits, base), atol=1e-5, rtol=1e-4)
    assert float(every.min()) >= -1e-6
    assert not kl_k3(logp, logp).any()


def test_k3_by_hand() -> None:
    # Policy 1/2, base 1/4: the gap is log(1/2), so k3 = 1/2 + log 2 - 1.
    found = kl_k3(torch.tensor([0.5]).log(), torch.tensor([0.25]).log())
    assert float(found) == pytest.approx(0.5 + math.log(2) - 1)


def test_the_kls_gradient_pulls_the_policy_to_the_base() -> None:
    logits, base = two_policies()
    logits.requires_grad_(True)
    before = kl_full(logits, base)
    (gradient,) = torch.autograd.grad(before.sum(), logits)
    assert bool(gradient.isfinite().all())
    assert float(kl_full(logits.detach() - 0.1 * gradient, base).sum()) < float(before.sum().detach())


def test_top_k_rollouts_have_the_same_oracle() -> None:
    prompt = torch.tensor([[2, 3]] * 5)
    rollout = sample_with(
        TABLE, prompt, prompt > 0, length=3, block_length=3, rule=TopK(1), temperature=1.0, seeds=torch.arange(5)
    )
    for step in range(3):
        found = conditionals(TABLE, TwoTimesMeanField()(rollout, torch.full((5,), step), MASK), every_token()[:5])
        logp = found.logp(rollout.completion_ids, 1.0)
        is_at = rollout.unmask_step == step
        torch.testing.assert_close(logp[is_at], rollout.behaviour_logp[is_at], atol=1e-6, rtol=1e-6)
