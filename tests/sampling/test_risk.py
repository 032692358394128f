"""The rule that adds up learned risks: against enumeration, and against the risk computed one position at a time."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from tests.helpers.marks import computes_in_bfloat16
from tests.helpers.oracle import TableDenoiser, chi_square_p, keys_of, log_softmax, tiny_llada, trajectories
from tests.helpers.risk import HiddenTable, commit_risk, features_of, hidden_of, risk_model, risk_of
from torch import Tensor

from diffpo.core.errors import UserError
from diffpo.core.rollout import Rollout
from diffpo.models import denoiser as denoiser_module
from diffpo.models.denoiser_output import HiddenStates
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import sample
from diffpo.sampling.risk import MAX_DEVIATION, context_features, token_statistics
from diffpo.sampling.risk_rules import CommitRisk, Patient
from diffpo.sampling.rules import HiddenRule, Rule, entropy

VOCAB, LENGTH = 4, 4
TABLE = HiddenTable(width=LENGTH + 1, scale=1.5)
MODEL = risk_model(VOCAB, seed=2)
BOUNDS = (0.0, 0.3, 0.8, 1.5, math.inf)


def draw(bound: float, rows: int, *, block_length: int = LENGTH, temperature: float = 1.0) -> Rollout:
    prompt = torch.full((rows, 1), 3)
    decoding = Decoding(CommitRisk(MODEL, bound), LENGTH, block_length, temperature)
    return sample(TABLE, prompt, torch.ones_like(prompt, dtype=torch.bool), decoding, torch.arange(rows))


def ragged(rows: int = 40, length: int = 7, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, hidden states, and candidates; row 0 has none, row 1 has all."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, length, VOCAB, generator=generator)
    logits[2, 3:5] = logits[2, 2]  # equal entropies
    is_candidate = torch.rand(rows, length, generator=generator) < torch.rand(rows, 1, generator=generator)
    is_candidate[0], is_candidate[1:3] = False, True
    return logits, torch.randn(rows, length, VOCAB, generator=generator), is_candidate


def scored(rule: HiddenRule, logits: Tensor, hidden: Tensor) -> Tensor:
    """The rule's scores of every position."""
    flat = logits.flatten(0, 1)
    score = rule.hidden_score(flat, flat.argmax(dim=-1), hidden.flatten(0, 1))
    return score.view(*logits.shape[:2], -1)


# --------------------------------------------------------------------------------------------------- (a) the trajectory


@pytest.mark.parametrize("stop_ids", [(), (2,)])
@pytest.mark.parametrize("block_length", [4, 2])
@pytest.mark.parametrize("bound", BOUNDS)
def test_recorded_logp_is_the_law_of_the_trajectory(
    bound: float, block_length: int, stop_ids: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TABLE, "stop_ids", stop_ids)
    known = trajectories(TABLE, [3], LENGTH, block_length, commit_risk(MODEL, bound, LENGTH), 1.0, stop_ids)
    assert sum(t.probability for t in known.values()) == pytest.approx(1, abs=1e-9)
    rollout = draw(bound, 1500, block_length=block_length)
    keys = keys_of(rollout)
    expected = torch.tensor([known[key].token_logp for key in keys])
    torch.testing.assert_close(rollout.behaviour_logp, expected, atol=1e-5, rtol=1e-5)
    assert rollout.is_drawn.tolist() == [list(known[key].is_drawn) for key in keys]
    assert chi_square_p(Counter(keys), {key: found.probability for key, found in known.items()}) > 1e-3
    assert rollout.entropy_bound.isnan().all(), "its bound is not one of entropies"


def test_bound_zero_takes_a_call_per_token_and_infinity_one_per_block() -> None:
    assert draw(0.0, 50).nfe.tolist() == [LENGTH] * 50
    assert draw(math.inf, 50).nfe.tolist() == [1] * 50
    assert draw(math.inf, 50, block_length=2).nfe.tolist() == [2] * 50
    assert len(set(draw(0.8, 200).nfe.tolist())) > 1


# ----------------------------------------------------------------------------------------------------- (b) the features


def test_features_are_their_definitions() -> None:
    logits, _, is_candidate = ragged()
    found = context_features(token_statistics(logits), is_candidate)
    assert not found[~is_candidate].any()
    for row, candidates, features in zip(logits, is_candidate, found, strict=True):
        probabilities = {i: [math.exp(v) for v in log_softmax(row[i].tolist())] for i in range(7) if candidates[i]}
        for i, expected in features_of(probabilities, 7).items():
            torch.testing.assert_close(features[i], torch.tensor(expected), atol=2e-5, rtol=1e-4)


def test_what_is_no_candidate_plays_no_part() -> None:
    logits, hidden, is_candidate = ragged()
    others = torch.where(is_candidate[:, :, None], logits, logits.flip(0) - 5)
    hidden_others = torch.where(is_candidate[:, :, None], hidden, hidden + 3)
    scores = [
        MODEL.token_scores(token_statistics(values), states)
        for values, states in ((logits, hidden), (others, hidden_others))
    ]
    one, other = (MODEL.risk(score, is_candidate)[is_candidate] for score in scores)
    assert torch.equal(one, other)
    for rule in (CommitRisk(MODEL, 0.7), Patient()):
        chosen = [rule.select(score, is_candidate) for score in scores]
        assert torch.equal(*chosen) and not (chosen[0] & ~is_candidate).any()


def test_the_risk_is_that_of_two_hidden_layers() -> None:
    logits, hidden, is_candidate = ragged(rows=12)
    hidden[3] *= 100  # far out
    risk = MODEL.risk(MODEL.token_scores(token_statistics(logits), hidden), is_candidate)
    context = context_features(token_statistics(logits), is_candidate)
    for row, position in is_candidate.nonzero().tolist():
        expected = risk_of(MODEL, context[row, position].tolist(), hidden[row, position].tolist())
        assert float(risk[row, position]) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert float(risk[is_candidate].std()) > 0.2


def test_inputs_are_standardised_by_the_states_and_cut_off() -> None:
    model = risk_model(3)
    hidden = torch.tensor([[0.0, 5.0, 1.0], [2.0, 5.0, 3.0]])
    model.standardise_(hidden, torch.arange(28.0).view(2, 14))
    assert model.hidden_mean.tolist() == [1.0, 5.0, 2.0] and model.hidden_std.tolist() == [
        1.0,
        pytest.approx(1e-3),
        1.0,
    ]
    assert model.context_mean.tolist() == [7.0 + i for i in range(14)] and model.context_std.tolist() == [7.0] * 14
    far = torch.tensor([1.0, 5 + 2 * MAX_DEVIATION * 1e-3, 2.0])
    statistics = torch.zeros(3)
    assert torch.equal(
        model.token_scores(statistics, far), model.token_scores(statistics, far + torch.tensor([0, 9, 0]))
    )
    model.standardise_(hidden[:1], torch.zeros(1, 14))
    assert bool(model.hidden_std.isfinite().all())  # of one candidate


# -------------------------------------------------------------------------------------------------------- (c) the bound


@pytest.mark.parametrize("bound", [0.0, 0.05, 0.4, 1.0, 3.0])
def test_risks_add_up_to_the_bound_at_most_and_one_token_is_committed(bound: float) -> None:
    logits, hidden, is_candidate = ragged()
    rule = CommitRisk(MODEL, bound)
    assert isinstance(rule, HiddenRule) and not isinstance(rule, Rule) and rule.is_exact
    score = scored(rule, logits, hidden)
    chosen, risk = rule.select(score, is_candidate), MODEL.risk(score, is_candidate)
    assert torch.equal(chosen.any(dim=1), is_candidate.any(dim=1))
    for taken, risks, candidates in zip(chosen, risk, is_candidate, strict=True):
        if not candidates.any():
            continue
        spent = sorted(risks[taken].tolist())
        left = sorted(risks[candidates & ~taken].tolist())
        assert len(spent) == 1 or sum(spent) <= bound + 1e-6
        assert not left or (left[0] >= spent[-1] and sum(spent) + left[0] > bound - 1e-6), (
            "the safest, and all that fit"
        )


def test_a_risk_is_never_zero() -> None:
    model = risk_model(VOCAB)
    with torch.no_grad():
        list(model.body.parameters())[-1].fill_(-1e4)
    logits, hidden, is_candidate = ragged()
    rule = CommitRisk(model, 0.0)
    chosen = rule.select(scored(rule, logits, hidden), is_candidate)
    assert torch.equal(chosen.sum(dim=1), is_candidate.any(dim=1).long())


@pytest.mark.parametrize("max_in_flight", [None, 4])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_with_bounds_of_their_own_are_bit_equal_to_each_bound_alone(
    temperature: float, max_in_flight: int | None
) -> None:
    prompts, count = torch.tensor([[0], [2], [3]]), len(BOUNDS)
    is_prompt, seeds = torch.ones_like(prompts, dtype=torch.bool), torch.arange(3)
    settings = Decoding(CommitRisk(MODEL, 0.1), LENGTH, LENGTH, temperature, max_in_flight=max_in_flight)
    together = sample(
        TABLE,
        prompts.repeat_interleave(count, dim=0),
        is_prompt.repeat_interleave(count, dim=0),
        settings,
        seeds.repeat_interleave(count),
        torch.tensor(BOUNDS).repeat(3),
    )
    assert len(set(together.nfe.tolist())) > 2
    for i, bound in enumerate(BOUNDS):
        alone = sample(TABLE, prompts, is_prompt, replace(settings, rule=CommitRisk(MODEL, bound)), seeds)
        rows = together.rows(slice(i, None, count))
        assert all(
            torch.equal(value, getattr(alone, name)) for name, value in vars(rows).items() if name != "entropy_bound"
        )


def test_patience_commits_the_surest_token_alone() -> None:
    logits, hidden, is_candidate = ragged()
    score = scored(Patient(), logits, hidden)
    assert torch.equal(score[..., 3:], hidden) and torch.equal(score[..., 0], entropy(logits))
    chosen = Patient().select(score, is_candidate)
    surest = logits.softmax(dim=-1).amax(dim=-1).masked_fill(~is_candidate, -1).argmax(dim=1)
    assert chosen[is_candidate.any(dim=1)].nonzero()[:, 1].tolist() == surest[is_candidate.any(dim=1)].tolist()


# ----------------------------------------------------------------------------------------------------- (d) the denoiser


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=computes_in_bfloat16)])
def test_choices_are_the_same_without_full_logits(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = tiny_llada(40, 5)
    denoiser.model.to(dtype)
    model = risk_model(32)
    prompts = torch.randint(6, 40, (6, 3), generator=torch.Generator().manual_seed(0))
    seen = torch.ones_like(prompts, dtype=torch.bool)
    rules: tuple[Rule | HiddenRule, ...] = (CommitRisk(model, 0.6), CommitRisk(model, 2.0), Patient())

    def rollouts() -> list[Rollout]:
        return [sample(denoiser, prompts, seen, Decoding(rule, 8, 8)) for rule in rules]

    full = rollouts()
    monkeypatch.setattr(denoiser_module, "FULL_LOGITS_MAX_VOCAB", 0)
    at = torch.ones(6, 3, dtype=torch.bool)
    assert isinstance(denoiser.predict(prompts, at, at), HiddenStates)
    assert [keys_of(rollout) for rollout in rollouts()] == [keys_of(rollout) for rollout in full]
    assert len({int(nfe) for rollout in full for nfe in rollout.nfe}) > 3


def test_a_denoiser_without_hidden_states_is_refused() -> None:
    prompt = torch.tensor([[3]])
    decoding = Decoding(CommitRisk(MODEL, 1.0), LENGTH, LENGTH)
    with pytest.raises(UserError, match="gives no hidden states, which the rule CommitRisk looks at"):
        sample(TableDenoiser(width=LENGTH + 1), prompt, prompt > 0, decoding)


def test_the_oracle_knows_the_hidden_states_of_the_table() -> None:
    canvas = torch.tensor([[3, 1, 0, 1, 2]])
    at = canvas == 1
    output = TABLE.predict(canvas, torch.ones_like(at), at)
    expected = [hidden_of([math.exp(v) for v in TABLE.logp(canvas[0].tolist(), i)]) for i in (1, 3)]
    assert output.hidden is not None
    torch.testing.assert_close(output.hidden, torch.tensor(expected), atol=1e-5, rtol=1e-5)
