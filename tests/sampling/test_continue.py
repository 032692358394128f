"""Going on from a part of a completion, and watching the calls."""

import pytest
import torch
from tests.helpers.oracle import keys_of, tiny_llada
from torch import Tensor

from diffpo.core.canvas import canvas_at, open_block
from diffpo.sampling.controller import Controller
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import SampledCall, decode_, sample
from diffpo.sampling.rules import EntropyBound, Rule, TopK
from diffpo.sampling.state import fully_masked

VOCAB, MASK, STOP, LENGTH = 8, 5, 6, 8
PROMPTS = torch.tensor([[0, 3], [2, 3], [1, 0], [4, 4], [7, 1]])
SEEN = torch.ones_like(PROMPTS, dtype=torch.bool)


@pytest.mark.parametrize("stop_ids", [(), (STOP,)])
@pytest.mark.parametrize("max_in_flight", [None, 2])
@pytest.mark.parametrize("rule", [EntropyBound(0.5), TopK(2)], ids=str)
def test_going_on_from_any_call_ends_as_the_rollout_does(
    rule: Rule, max_in_flight: int | None, stop_ids: tuple[int, ...]
) -> None:
    denoiser = tiny_llada(VOCAB, MASK, stop_ids)
    decoding = Decoding(rule, LENGTH, 4, max_in_flight=max_in_flight)
    whole = sample(denoiser, PROMPTS, SEEN, decoding)
    assert int(whole.nfe.min()) > 1
    for step in range(int(whole.nfe.max())):
        at = torch.minimum(torch.tensor(step), whole.nfe - 1)
        start = canvas_at(whole, at, MASK)[:, -LENGTH:]
        kept = start.clone()
        rest = sample(denoiser, PROMPTS, SEEN, decoding, start=start)
        assert torch.equal(rest.completion_ids, whole.completion_ids)
        assert torch.equal(rest.nfe, whole.nfe - at)
        is_new = whole.unmask_step >= at[:, None]
        assert torch.equal(rest.unmask_step[is_new], (whole.unmask_step - at[:, None])[is_new])
        assert torch.equal(rest.is_drawn, whole.is_drawn & is_new)
        assert torch.equal(start, kept), "what was given is left as it is"


def test_a_start_without_a_mask_before_its_stop_is_refused() -> None:
    denoiser = tiny_llada(VOCAB, MASK, (STOP,))
    start = torch.full((len(PROMPTS), LENGTH), MASK)
    start[2, 0] = STOP
    with pytest.raises(ValueError, match="no mask before its first stop token"):
        sample(denoiser, PROMPTS, SEEN, Decoding(EntropyBound(), LENGTH, LENGTH), start=start)
    start[2] = torch.tensor([MASK] + [0] * 6 + [STOP])
    done = sample(denoiser, PROMPTS, SEEN, Decoding(EntropyBound(), LENGTH, LENGTH), start=start)
    assert int(done.nfe[2]) == 1 and done.completion_ids[2, 1:].tolist() == [0] * 6 + [STOP]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("has_controller", [False, True])
def test_rows_that_change_places_between_calls_end_as_they_do_alone(temperature: float, has_controller: bool) -> None:
    """After each of the calls 1, 2, 4 the rows go to two other states, one of which may have none that is open."""
    denoiser = tiny_llada(VOCAB, MASK, (STOP,))
    controller = Controller(initial_bound=0.5) if has_controller else None
    decoding = Decoding(EntropyBound(0.5), LENGTH, LENGTH, temperature, controller=controller, explore=has_controller)
    seeds = torch.arange(len(PROMPTS))
    expected = sample(denoiser, PROMPTS, SEEN, decoding, seeds)
    assert int(expected.nfe.max()) > 2 and int(expected.nfe.min()) < int(expected.nfe.max())
    state, every = fully_masked(PROMPTS, SEEN, MASK, (STOP,), decoding, seeds), torch.arange(len(PROMPTS))
    for until in (1, 2, 4, None):
        is_first = every % 2 == 0 if until != 2 else state.is_open(every)
        halves = [state.kept(every[is_first]), state.kept(every[~is_first])]
        for half in halves:
            decode_(denoiser, half, decoding, until=until)
            assert until is None or not len(half.step) or int(half.step.max()) <= until
        place = torch.cat([every[is_first], every[~is_first]]).argsort()
        state = halves[0].joined(halves[1]).kept(place)
    assert keys_of(state.rollout()) == keys_of(expected)
    torch.testing.assert_close(state.rollout().behaviour_logp, expected.behaviour_logp)
    torch.testing.assert_close(state.rollout().entropy_bound, expected.entropy_bound, equal_nan=True)


@pytest.mark.parametrize("max_in_flight", [None, 2])
def test_an_observer_sees_every_call_before_its_tokens_are_committed(max_in_flight: int | None) -> None:
    denoiser = tiny_llada(VOCAB, MASK, (STOP,))
    rule = EntropyBound(0.5)
    seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def watch(call: SampledCall) -> None:
        seen.append((call.rows, call.is_candidate, call.token, call.score))

    decoding = Decoding(rule, LENGTH, 4, max_in_flight=max_in_flight)
    rollout = sample(denoiser, PROMPTS, SEEN, decoding, observe=watch)
    assert keys_of(rollout) == keys_of(sample(denoiser, PROMPTS, SEEN, decoding))
    calls = [0] * len(PROMPTS)
    for rows, is_candidate, token, score in seen:
        chosen = rule.select(score, is_candidate)
        for i, row in enumerate(rows.tolist()):
            canvas = canvas_at(rollout, calls[row], MASK)[row, -LENGTH:]
            assert torch.equal(is_candidate[i], open_block((canvas == MASK)[None], 4)[0])
            is_new = chosen[i]
            assert torch.equal(token[i][is_new], rollout.completion_ids[row][is_new])
            assert (rollout.unmask_step[row][is_new] == calls[row]).all()
            assert not score[i][~is_candidate[i]].any()
            calls[row] += 1
    assert calls == rollout.nfe.tolist()
