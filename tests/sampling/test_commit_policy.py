"""Commit policies: their sets and trajectories against enumeration, greedy decoding, and the network itself."""

import math
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.commits import commit_policy, drawn_trajectories, logits_of, set_keys, sets_of
from tests.helpers.oracle import TableDenoiser, chi_square_p, keys_of, tiny_llada
from tests.helpers.risk import HiddenTable
from torch import Tensor

from diffpo.core.errors import UserError
from diffpo.core.options import CommitPolicyKind
from diffpo.core.rollout import Rollout
from diffpo.models.denoiser import Denoiser
from diffpo.sampling.commit_policy import CommitPolicy
from diffpo.sampling.commit_rules import commit_rule
from diffpo.sampling.commit_sets import draw_set, expected_set, set_logp
from diffpo.sampling.controller import Controller
from diffpo.sampling.controller_files import load_controller, save_controller
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import sample
from diffpo.sampling.rules import EntropyBound, HiddenRule, Rule, TopK
from diffpo.training.commit_update import commit_calls

VOCAB, LENGTH = 4, 3
TABLE = HiddenTable(width=LENGTH + 1, scale=1.5)
POLICIES = {
    "confidence-policy": commit_policy("confidence-policy", 1),
    "planner": commit_policy("planner", VOCAB, seed=1),
}
KINDS: list[CommitPolicyKind] = ["confidence-policy", "planner"]


def draw(kind: str, rows: int, denoiser: Denoiser = TABLE, first_seed: int = 0, **options: Any) -> Rollout:
    """Completions of the one-token prompt whose sets are drawn, temperature 1 unless told."""
    settings: dict[str, Any] = {"block_length": LENGTH, "temperature": 1.0, "explore": True} | options
    prompt = torch.full((rows, 1), 3)
    decoding = Decoding(EntropyBound(), LENGTH, controller=POLICIES[kind], **settings)
    seeds = torch.arange(first_seed, first_seed + rows)
    return sample(denoiser, prompt, torch.ones_like(prompt, dtype=torch.bool), decoding, seeds)


# ------------------------------------------------------------------------------------------------------------ (a) sets


def every_set(length: int = 4) -> Tensor:
    return torch.tensor(list(product([False, True], repeat=length)))


@pytest.mark.parametrize("candidates", [[0, 1, 2, 3], [1, 3], [2]])
def test_probabilities_of_all_sets_are_those_of_their_draws_and_sum_to_one(candidates: list[int]) -> None:
    logit = torch.tensor([0.4, -1.1, 2.0, -0.3])
    is_candidate = torch.zeros(4, dtype=torch.bool)
    is_candidate[candidates] = True
    sets = every_set()
    sets = sets[sets.any(dim=1) & ~(sets & ~is_candidate).any(dim=1)]
    found = set_logp(logit.expand(len(sets), 4), sets, is_candidate.expand(len(sets), 4)).exp()
    known = dict(sets_of({i: float(logit[i]) for i in candidates}))
    expected = [known[tuple(row.nonzero().flatten().tolist())] for row in sets]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=1e-5)
    assert float(found.sum()) == pytest.approx(1, abs=1e-6)


def test_the_law_of_a_set_by_hand() -> None:
    # Probabilities 1/2, 1/4, 1/5: the empty draw has .5 x .75 x .8 = .3, which {0} gets beside its own .3.
    logit = torch.tensor([0.5, 0.25, 0.2]).logit().expand(3, 3)
    sets = torch.tensor([[True, False, False], [False, True, False], [True, False, True]])
    found = set_logp(logit, sets, torch.ones(3, 3, dtype=torch.bool)).exp()
    torch.testing.assert_close(found, torch.tensor([0.6, 0.5 * 0.25 * 0.8, 0.5 * 0.75 * 0.2]))


def test_of_equal_probabilities_the_left_one_is_committed_where_nothing_is_drawn() -> None:
    logit, every = torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)
    drawn = draw_set(logit, every, torch.full((1, 3), 0.9, dtype=torch.float64))
    assert drawn.is_commit.tolist() == [[True, False, False]]
    assert float(drawn.logp.exp()) == pytest.approx(0.25), "1/8 of itself and 1/8 of the empty draw"


def test_what_is_left_of_the_numbers_is_uniform_again_and_independent() -> None:
    rows = 20000
    uniform = torch.rand(rows, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logit = torch.tensor([-1.0, 0.5, -0.4]).expand(rows, 3)
    is_candidate = torch.tensor([True, True, False]).expand(rows, 3)
    drawn = draw_set(logit, is_candidate, uniform)
    assert torch.equal(drawn.uniform[:, 2], uniform[:, 2]), "no candidate, no use of its number"
    is_left = (uniform >= logit.double().sigmoid()) & is_candidate
    for position in (0, 1):
        left = drawn.uniform[is_left[:, position], position]
        assert float(left.min()) >= 0 and float(left.max()) < 1
        distance = (left.sort().values - torch.arange(1, len(left) + 1) / len(left)).abs().max()
        assert float(distance) < 2 / math.sqrt(len(left)), "Kolmogorov and Smirnov's"
    both = drawn.uniform[is_left[:, :2].all(dim=1), :2]
    assert abs(float(torch.corrcoef(both.T)[0, 1])) < 0.05


def test_sure_probabilities_are_no_trouble() -> None:
    logit = torch.tensor([[60.0, -60.0, 60.0]])
    drawn = draw_set(logit, torch.ones(1, 3, dtype=torch.bool), torch.full((1, 3), 1 - 2**-48, dtype=torch.float64))
    assert drawn.is_commit.tolist() == [[True, False, True]]
    assert float(drawn.logp) == pytest.approx(0, abs=1e-6) and bool(drawn.uniform.isfinite().all())


@pytest.mark.parametrize(("factor", "count"), [(1.0, 2), (0.1, 1), (1.5, 3), (100.0, 4)])
def test_greedy_takes_the_likeliest_as_many_as_a_draw_has_on_average(factor: float, count: int) -> None:
    # Probabilities of the candidates .9 .2 .7 .5 sum to 2.3, which is rounded down; .99 is no candidate.
    logit = torch.tensor([[0.9, 0.99, 0.2, 0.7, 0.5]]).logit()
    is_candidate = torch.tensor([[True, False, True, True, True]])
    order = [0, 3, 4, 2]
    chosen = expected_set(logit, is_candidate, factor)
    assert chosen.nonzero()[:, 1].tolist() == sorted(order[:count])


# ---------------------------------------------------------------------------------------------------- (b) trajectories


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("block_length", "stop_ids"), [(3, ()), (1, ()), (3, (2,))])
@pytest.mark.parametrize("kind", KINDS)
def test_recorded_logps_of_tokens_and_sets_are_the_law_of_the_trajectory(
    kind: str, block_length: int, stop_ids: tuple[int, ...], temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TABLE, "stop_ids", stop_ids)
    logits = logits_of(POLICIES[kind], LENGTH)
    known = drawn_trajectories(TABLE, [3], LENGTH, block_length, logits, temperature, stop_ids)
    assert sum(t.probability for t in known.values()) == pytest.approx(1, abs=1e-6)

    rollout = draw(kind, 3000, block_length=block_length, temperature=temperature)
    keys = set_keys(rollout)
    expected = torch.tensor([known[key].token_logp for key in keys])
    torch.testing.assert_close(rollout.behaviour_logp, expected, atol=1e-5, rtol=1e-5)
    sets = torch.tensor([[*known[key].set_logp, *[0.0] * LENGTH][:LENGTH] for key in keys])
    torch.testing.assert_close(rollout.commit_logp, sets, atol=1e-4, rtol=1e-4)
    probability = {key: trajectory.probability for key, trajectory in known.items()}
    assert chi_square_p(Counter(keys), probability) > 1e-3


@pytest.mark.parametrize("stop_ids", [(), (2,)])
@pytest.mark.parametrize("block_length", [3, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_the_record_gives_the_logp_of_every_set_again(
    kind: str, block_length: int, stop_ids: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TABLE, "stop_ids", stop_ids)
    rollout = draw(kind, 200, block_length=block_length)
    calls = commit_calls(rollout, block_length)
    logp = set_logp(POLICIES[kind](calls.inputs, calls.is_candidate), calls.is_commit, calls.is_candidate)
    assert len(logp) == int(rollout.nfe.sum())
    total = torch.zeros(200).index_add(0, calls.row, logp)
    torch.testing.assert_close(total, rollout.commit_logp.sum(dim=1), atol=1e-4, rtol=1e-4)
    assert bool((calls.is_commit.sum(dim=1) >= 1).all()) and not (calls.is_commit & ~calls.is_candidate).any()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_in_flight_and_the_order_of_prompts_change_no_row(kind: str) -> None:
    whole, few = draw(kind, 60), draw(kind, 60, max_in_flight=7)
    for name in ("completion_ids", "unmask_step", "behaviour_logp"):
        assert torch.equal(getattr(whole, name), getattr(few, name)), name
    torch.testing.assert_close(whole.commit_logp, few.commit_logp)
    torch.testing.assert_close(whole.commit_inputs, few.commit_inputs)
    assert keys_of(draw(kind, 20, first_seed=40)) == keys_of(whole)[40:], "a row's seed alone decides"
    assert len(set(whole.nfe.tolist())) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_without_drawing_it_is_a_rule_that_records_no_sets(kind: str) -> None:
    rule = commit_rule(POLICIES[kind])
    assert isinstance(rule, HiddenRule if kind == "planner" else Rule) and rule.is_exact
    rollout = draw(kind, 3, explore=False, temperature=0.0)
    assert len(set(keys_of(rollout))) == 1
    assert rollout.commit_logp.shape == (3, 0) and rollout.commit_inputs.shape[1] == 0
    assert bool(rollout.entropy_bound.isnan().all())
    prompt = torch.full((3, 1), 3)
    faster = Decoding(commit_rule(POLICIES[kind], 100.0), LENGTH, LENGTH)
    assert sample(TABLE, prompt, prompt > 0, faster).nfe.tolist() == [1] * 3
    assert not faster.needs_seeds and replace(faster, explore=True).needs_seeds


def test_a_commit_policy_decides_in_place_of_the_rule_and_a_controller_beside_it() -> None:
    fixed, bounds = EntropyBound(0.2), Controller(hidden=4)
    for learned, expected in ((None, (fixed, None)), (bounds, (fixed, bounds))):
        decoding = Decoding(fixed, 4, 4, controller=learned)
        assert (decoding.deciding_rule, decoding.bound_controller) == expected
    decoding = Decoding(TopK(1), 4, 4, controller=POLICIES["planner"])
    assert decoding.deciding_rule == commit_rule(POLICIES["planner"]) and decoding.bound_controller is None


def test_a_planner_needs_hidden_states() -> None:
    with pytest.raises(UserError, match="gives no hidden states, which the rule PlannerCommit looks at"):
        draw("planner", 2, TableDenoiser(width=LENGTH + 1))


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_a_models_hidden_states_reach_the_planner_in_blocks_and_with_a_cache(cache: Any) -> None:
    denoiser, policy = tiny_llada(8, 5), commit_policy("planner", 32)
    prompt = torch.tensor([[3, 2]] * 8)
    decoding = Decoding(commit_rule(policy), 6, 3, 1.0, explore=True, cache=cache)
    rollout = sample(denoiser, prompt, prompt > 0, decoding, torch.arange(8))
    assert rollout.commit_inputs.shape == (8, 6, 6, 32)
    assert not rollout.commit_inputs[:, 0, 3:].any() and bool(rollout.commit_inputs[:, 0, :3].any(dim=2).all())


# -------------------------------------------------------------------------------------------------------- (c) network


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_around_the_initial_probability(kind: CommitPolicyKind) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = CommitPolicy(kind, 5 if kind == "planner" else 1, 64, initial_probability=0.12)
    inputs = torch.rand(20, 7, policy.num_inputs, generator=torch.Generator().manual_seed(0))
    probability = policy(inputs, torch.ones(20, 7, dtype=torch.bool)).detach().sigmoid()
    assert float(probability.min()) > 0.04 and float(probability.max()) < 0.35


def test_it_tells_places_candidates_and_inputs_apart() -> None:
    policy, every = POLICIES["confidence-policy"], torch.ones(1, 4, dtype=torch.bool)
    inputs = torch.tensor([[[0.9], [0.2], [0.2], [0.6]]])
    logit = policy(inputs, every)
    assert not torch.allclose(logit[0, 1], logit[0, 2]), "where it stands among the others"
    assert not torch.allclose(logit[:, 1:3], policy(inputs.flip(1), every).flip(1)[:, 1:3])
    fewer = every.clone()
    fewer[0, 3] = False
    without = inputs * fewer[..., None]
    assert not torch.allclose(policy(without, every)[0, :3], policy(without, fewer)[0, :3]), "masked or not"


def test_a_planner_sees_hidden_states_whatever_their_scale() -> None:
    hidden, every = torch.randn(2, 5, VOCAB, generator=torch.Generator().manual_seed(0)), torch.ones(2, 5) > 0
    policy = POLICIES["planner"]
    torch.testing.assert_close(policy(9 * hidden, every), policy(hidden, every), atol=1e-3, rtol=1e-3)


# ---------------------------------------------------------------------------------------------------------- (d) folder


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_is_bit_equal(kind: str, tmp_path: Path) -> None:
    save_controller(POLICIES[kind], tmp_path)
    loaded = load_controller(tmp_path, VOCAB)
    assert isinstance(loaded, CommitPolicy) and loaded.kind == kind
    assert all(torch.equal(*pair) for pair in zip(loaded.parameters(), POLICIES[kind].parameters(), strict=True))


def test_a_planner_of_another_width_is_refused(tmp_path: Path) -> None:
    save_controller(POLICIES["planner"], tmp_path)
    with pytest.raises(UserError, match="hidden states of width 4, and those of the model have 32; use the model"):
        load_controller(tmp_path, 32)
    save_controller(POLICIES["confidence-policy"], tmp_path)
    assert load_controller(tmp_path, 32) is not None, "confidences are of no width"
