"""What a risk model learns from: a token does harm where patience ends solved, and with another token."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from tests.helpers.oracle import rollout_of, tiny_llada
from torch import Tensor

from diffpo.core.canvas import canvas_at, completion_mask
from diffpo.core.randomness import generator_for
from diffpo.models.encoding import encode_prompts
from diffpo.models.tokenizer import char_tokenizer, decode_text
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import SampledCall, sample
from diffpo.sampling.policy import Policy
from diffpo.sampling.risk_rules import Patient
from diffpo.sampling.rules import EntropyBound
from diffpo.tasks.base import Grade, Problem
from diffpo.tasks.sudoku import Sudoku
from diffpo.training.risk_data import Haste, KeptStates, RiskData, collect_states, concatenate, hasty_starts

MASK, STOP, LENGTH = 9, 5, 4


def call(rows: Sequence[int], token: Sequence[Sequence[int]], is_candidate: Sequence[Sequence[bool]]) -> SampledCall:
    """A call whose scores are the token, three times and once more as the hidden state."""
    ids = torch.tensor(token)
    return SampledCall(
        torch.tensor(rows), torch.tensor(is_candidate), ids, ids[:, :, None].expand(-1, -1, 4).float().contiguous()
    )


def test_harm_by_hand() -> None:
    kept = KeptStates(torch.ones(3, LENGTH, dtype=torch.bool))
    every, late = [True] * 4, [False, False, True, True]
    # Row 0 is solved, row 1 is not, row 2 is and ends at its second token.
    kept(call([2, 0, 1], [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]], [every, every, every]))
    kept(call([0, 1], [[7, 7, 8, 4], [7, 7, 8, 4]], [late, late]))
    final = torch.tensor([[1, 7, 3, 8], [1, 7, 3, 8], [6, STOP, 3, 8]])
    data = kept.labelled(final, torch.tensor([True, False, True]), (STOP,))
    assert data.row.tolist() == [0, 0, 1, 1, 2], "row by row, call by call"
    assert data.is_harm.tolist() == [
        [False, True, False, True],
        [False, False, True, True],
        [False] * 4,
        [False] * 4,
        [True, True, False, False],
    ]
    assert data.is_candidate.tolist() == [every, late, every, late, every]
    assert data.hidden.dtype == torch.float16 and torch.equal(data.hidden[..., 0].float(), data.statistics[..., 0])
    assert data.statistics[1, :, 0].tolist() == [7, 7, 8, 4]


def test_only_the_calls_that_were_chosen_are_kept() -> None:
    is_kept = torch.tensor([[False, True, False, False], [True, False, False, False]])
    kept = KeptStates(is_kept)
    every = [[True] * 4] * 2
    for number in range(3):
        kept(call([1, 0], [[10 + number] * 4, [number] * 4], every))
    data = kept.labelled(torch.zeros(2, 4, dtype=torch.long), torch.tensor([True, True]), ())
    assert data.row.tolist() == [0, 1] and data.statistics[:, 0, 0].tolist() == [1, 10]


def test_parts_are_joined_and_some_rows_taken() -> None:
    kept = KeptStates(torch.ones(2, LENGTH, dtype=torch.bool))
    kept(call([0, 1], [[1] * 4, [2] * 4], [[True] * 4] * 2))
    data = kept.labelled(torch.ones(2, 4, dtype=torch.long), torch.tensor([True, True]), ())
    both = concatenate([data, replace(data, row=data.row + 2)])
    assert len(both) == 4 and both.row.tolist() == [0, 1, 2, 3]
    assert both.rows(both.row == 2).statistics.equal(data.rows(slice(0, 1)).statistics)


# ------------------------------------------------------------------------------------------------------------- a model


class Sums(Sudoku):
    """A completion is right where the sum of its characters is even: of an untrained model, about half."""

    def grade(self, problem: Problem, completion: str) -> Grade:
        is_solved = float(sum(map(ord, completion)) % 2 == 0)
        return Grade(is_solved, {"solved": is_solved})


def untrained(stop_ids: Callable[[Policy], tuple[int, ...]] = lambda policy: ()) -> Policy:
    tokenizer = char_tokenizer(Sudoku().alphabet)
    denoiser = tiny_llada(len(tokenizer), tokenizer.mask_token_id, d_model=16, n_heads=2)
    policy = Policy(denoiser, tokenizer)
    return replace(policy, denoiser=replace(denoiser, stop_ids=stop_ids(policy)))


def collected(policy: Policy, max_in_flight: int | None = None, per_completion: int = 16, seed: int = 0) -> RiskData:
    task = Sums()
    problems = task.problems("train", 12, seed=1)
    haste = Haste(0.05, 10.0, 0.4)
    states, solved = collect_states(
        policy, task, problems, 16, max_in_flight, haste, per_completion, generator_for(seed, "states")
    )
    assert 0 < solved < 1
    return states


@pytest.mark.parametrize("with_stops", [False, True])
def test_labels_are_those_of_the_patient_ends(with_stops: bool) -> None:
    policy = untrained(lambda p: tuple(p.tokenizer.convert_tokens_to_ids(["1", "2"])) if with_stops else ())
    task, haste = Sums(), Haste(0.05, 10.0, 0.4)
    problems = task.problems("train", 12, seed=1)
    data = collected(policy)
    prompt_ids, prompt_mask = encode_prompts(policy.tokenizer, [problem.prompt for problem in problems])
    quick = Decoding(EntropyBound(subtract_max=False), 16, 16)
    starts = hasty_starts(policy, prompt_ids, prompt_mask, quick, haste, generator_for(0, "states"))
    end = sample(policy.denoiser, prompt_ids, prompt_mask, Decoding(Patient(), 16, 16), start=starts)
    mask = policy.denoiser.mask_id
    number = -1
    for i, row in enumerate(data.row.tolist()):
        number = number + 1 if i and data.row[i - 1] == row else 0
        committed = (end.unmask_step[row] < number) & end.is_drawn[row]
        canvas = torch.where(committed, end.completion_ids[row], starts[row])
        assert torch.equal(data.is_candidate[i], canvas == mask)
        text = decode_text(policy.tokenizer, end.completion_ids[row].tolist(), policy.denoiser.stop_ids)
        is_solved = task.grade(problems[row], text).is_solved
        output = policy.denoiser.predict(
            torch.cat([prompt_ids[row], canvas])[None],
            torch.cat([prompt_mask[row], torch.ones(16, dtype=torch.bool)])[None],
            torch.cat([torch.zeros_like(prompt_mask[row]), canvas == mask])[None],
        )
        harm = (output.logits.argmax(dim=-1) != end.completion_ids[row][canvas == mask]) & is_solved
        harm &= completion_mask(end.completion_ids[row][None], policy.denoiser.stop_ids)[0][canvas == mask]
        assert torch.equal(data.is_harm[i][canvas == mask], harm)
    assert data.is_harm.any() and not data.is_harm[~data.is_candidate].any()


def same(one: RiskData, other: RiskData) -> None:
    assert torch.equal(one.row, other.row) and torch.equal(one.is_harm, other.is_harm)
    assert torch.equal(one.is_candidate, other.is_candidate)
    torch.testing.assert_close(one.statistics, other.statistics, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one.hidden, other.hidden, atol=1e-2, rtol=1e-2)


def test_states_do_not_depend_on_which_rows_are_in_flight() -> None:
    policy = untrained()
    whole = collected(policy, per_completion=5)
    for max_in_flight in (1, 5):
        same(collected(policy, max_in_flight, per_completion=5), whole)
    assert not torch.equal(collected(policy, per_completion=5, seed=1).statistics, whole.statistics)


def test_some_states_of_a_decoding_are_kept() -> None:
    policy = untrained()
    every, some = collected(policy, per_completion=16), collected(policy, per_completion=4)
    calls = torch.bincount(every.row)
    assert len(calls) == 12 and int(calls.max()) == 16 and int(calls.min()) < 16
    assert 0.1 * len(every) < len(some) < 0.5 * len(every)


# --------------------------------------------------------------------------------------------------------------- haste


def test_bounds_are_log_uniform_from_low_to_high() -> None:
    bounds = Haste(0.1, 10.0, 0.5).bounds(1000, torch.Generator().manual_seed(0))
    assert float(bounds.min()) >= 0.1 and float(bounds.max()) <= 10.0
    torch.testing.assert_close(bounds.log10().sort().values, torch.linspace(-1, 1, 1000), atol=3e-3, rtol=0)


def test_a_hasty_start_is_the_canvas_before_a_call_of_a_quick_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = torch.tensor([[0, 1, 1, 2]] * 300 + [[0, 0, 0, 0]] * 100)
    rollout = rollout_of(torch.zeros(400, 1, dtype=torch.long), torch.arange(4).expand(400, 4).contiguous(), steps)
    monkeypatch.setattr("diffpo.training.risk_data.sample", lambda *arguments, **options: rollout)
    policy = untrained()
    quick = Decoding(EntropyBound(subtract_max=False), 4, 4)

    def starts(fresh: float) -> Tensor:
        seen = torch.ones(400, 1, dtype=torch.bool)
        generator = torch.Generator().manual_seed(0)
        return hasty_starts(policy, rollout.prompt_ids, seen, quick, Haste(0.1, 1.0, fresh), generator)

    def counts(fresh: float) -> list[int]:
        found, mask = starts(fresh), policy.denoiser.mask_id
        assert (found[300:] == mask).all(), "what took one call has no canvas before another"
        before = [canvas_at(rollout, step, mask)[0, 1:] for step in range(3)]
        return [int((found[:300] == canvas).all(dim=1).sum()) for canvas in before]

    # Early calls are likelier: the square of a uniform number is below 1/2 in 71 % of all cases.
    fresh, first, second = counts(0.0)
    assert fresh == 0 and first + second == 300 and 190 < first < 235
    assert counts(1.0) == [300, 0, 0]
    some = counts(0.4)
    assert sum(some) == 300 and 95 < some[0] < 145
