"""The right answers that a run has found: which are kept, in which order, and how batches of them are drawn."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tests.helpers.oracle import rollout_of
from torch import Tensor

from diffpo.core.rollout import Rollout
from diffpo.training.right_answers import RightAnswers

EOS, PAD, STOP = 7, 9, 6
Pair = tuple[tuple[int, ...], tuple[int, ...]]
A, B, C, D = [((1, 2), (token, token, 5)) for token in (1, 2, 3, 4)]


def rollout(*pairs: Pair, answer_tokens: Sequence[int] = ()) -> Rollout:
    """Prompts padded on the left with their completions; answers end after so many tokens, or fill their completion."""
    width = max(len(prompt) for prompt, _ in pairs)
    prompts = torch.tensor([[PAD] * (width - len(prompt)) + list(prompt) for prompt, _ in pairs])
    mask = torch.tensor([[False] * (width - len(prompt)) + [True] * len(prompt) for prompt, _ in pairs])
    completions = torch.tensor([completion for _, completion in pairs])
    lengths = torch.tensor(answer_tokens or [completions.shape[1]] * len(pairs))
    made = rollout_of(prompts, completions, torch.zeros_like(completions), mask)
    return replace(made, is_answer=torch.arange(completions.shape[1]) < lengths[:, None])


def found(*pairs: Pair, capacity: int = 100) -> RightAnswers:
    """A store to which the pairs were added one at a time, all of them right."""
    answers = RightAnswers(3, capacity)
    for pair in pairs:
        answers.add(rollout(pair), torch.tensor([True]), EOS)
    return answers


def kept(answers: RightAnswers) -> list[Pair]:
    """What a store holds, oldest first, as its checkpoint has it."""
    state = answers.state_dict()
    prompts = [tuple(row[mask].tolist()) for row, mask in zip(state["prompt_ids"], state["prompt_mask"], strict=True)]
    return list(zip(prompts, map(tuple, state["completion_ids"].tolist()), strict=True))


def test_right_answers_are_kept_once_and_wrong_ones_never() -> None:
    answers = RightAnswers(3, 100)
    answers.add(rollout(A, B, C, A), torch.tensor([True, False, True, True]), EOS)
    assert kept(answers) == [C, A] and len(answers) == 2
    answers.add(rollout(C, D), torch.tensor([False, False]), EOS)
    assert kept(answers) == [C, A], "an answer that is called wrong later on is no newer for it"


def test_one_answer_to_two_prompts_and_two_answers_to_one_are_four() -> None:
    pairs = [((1,), (1, 1, 5)), ((2,), (1, 1, 5)), ((1,), (2, 2, 5)), ((0, 1), (1, 1, 5))]
    assert kept(found(*pairs)) == pairs, "0 is a token like others"


def test_the_newest_are_kept_and_what_is_found_again_is_new() -> None:
    assert kept(found(A, B, C, capacity=3)) == [A, B, C]
    assert kept(found(A, B, C, D, capacity=3)) == [B, C, D]
    assert kept(found(A, B, C, A, D, capacity=3)) == [C, A, D]
    at_once = RightAnswers(3, 2)
    at_once.add(rollout(A, B, C, D), torch.ones(4, dtype=torch.bool), EOS)
    assert kept(at_once) == [C, D]


def test_padding_makes_no_answer_another() -> None:
    short, long = ((3,), (1, 1, 1)), ((1, 2, 3, 4), (2, 2, 2))
    answers = found(short)
    answers.add(rollout(short, long), torch.tensor([True, True]), EOS)
    assert kept(answers) == [short, long]
    (targets,) = answers.draw(1, 40, torch.Generator().manual_seed(0))
    for ids, visible in zip(targets.ids, targets.visible, strict=True):
        assert ids[visible].tolist() in ([3, 1, 1, 1], [1, 2, 3, 4, 2, 2, 2])
        assert visible.tolist() == sorted(visible.tolist()), "padding is on the left"
    assert targets.length.tolist() == [3] * 40


def test_behind_an_answers_end_there_is_end_of_text() -> None:
    """Also where tokens were drawn there, and however they were filled: they are one and the same answer."""
    answers = RightAnswers(3, 100)
    tails = [((1,), (4, STOP, tail)) for tail in (2, STOP, EOS)]
    answers.add(rollout(*tails, answer_tokens=[2, 2, 2]), torch.tensor([True] * 3), EOS)
    assert kept(answers) == [((1,), (4, STOP, EOS))], "the stop token itself belongs to the answer"
    answers.add(rollout(((1,), (4, STOP, 2))), torch.tensor([True]), EOS)
    assert kept(answers)[1] == ((1,), (4, STOP, 2)), "a completion without a stop is an answer as a whole"


def test_rows_are_drawn_uniformly_with_replacement() -> None:
    rows, batches = 50, 60
    drawn = list(found(A, B, C).draw(batches, rows, torch.Generator().manual_seed(1)))
    assert [targets.ids.shape for targets in drawn] == [(rows, 5)] * batches
    counts = Counter(tuple(row) for targets in drawn for row in targets.ids.tolist())
    assert counts.keys() == {(*prompt, *completion) for prompt, completion in (A, B, C)}
    total = rows * batches
    for count in counts.values():
        assert count / total == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 9 / total))
    spread = [sum(row[2] == 1 for row in targets.ids.tolist()) for targets in drawn]
    assert torch.tensor(spread).float().var() == pytest.approx(rows * 2 / 9, rel=0.6), "each row is drawn by itself"


def test_a_draw_depends_on_the_generator_alone() -> None:
    def drawn(seed: int) -> list[Tensor]:
        return [targets.ids for targets in found(A, B, C, D).draw(3, 8, torch.Generator().manual_seed(seed))]

    torch.manual_seed(0)
    first, state = drawn(5), torch.get_rng_state()
    torch.manual_seed(1)
    assert all(a.equal(b) for a, b in zip(first, drawn(5), strict=True))
    assert not all(a.equal(b) for a, b in zip(first, drawn(6), strict=True))
    assert not first[0].equal(first[1]), "batches of a step are different ones"
    torch.manual_seed(0)
    assert torch.get_rng_state().equal(state), "nothing was drawn from the global generator"


@pytest.mark.parametrize("pairs", [[], [A], [D, ((3,), (1, 2, 3)), A]])
def test_a_store_comes_back_as_it_was(pairs: list[Pair]) -> None:
    before, after = found(*pairs, capacity=3), RightAnswers(3, 3)
    after.add(rollout(B), torch.tensor([True]), EOS)
    before.updates = 7
    after.load_state_dict(before.state_dict())
    assert kept(after) == pairs and after.updates == 7
    for answers in (before, after):
        answers.add(rollout(A, C), torch.tensor([True, True]), EOS)
    assert kept(before) == kept(after)
    one, other = (next(answers.draw(1, 9, torch.Generator().manual_seed(2))) for answers in (before, after))
    assert one.ids.equal(other.ids) and one.visible.equal(other.visible)


def test_nothing_can_be_drawn_from_nothing() -> None:
    with pytest.raises(ValueError, match="there are no right answers to draw from"):
        RightAnswers(3, 5).draw(1, 1, torch.Generator())
