"""Rows that come and go between denoiser calls become what each would be alone."""

from dataclasses import dataclass, field

import pytest
import torch
from tests.helpers.families import tiny_policy
from tests.helpers.oracle import tiny_llada

from diffpo.sampling.controller import Controller
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import sample
from diffpo.sampling.rules import EntropyBound, LowConfidence, TopK
from diffpo.sampling.running import Committed, Row, RunningBatch
from diffpo.sampling.state import fully_masked

VOCAB, MASK, STOP = 8, 5, 6
CPU = torch.device("cpu")
CONTROLLER = Controller(initial_bound=0.6, hidden=4)
DECODINGS = (
    Decoding(EntropyBound(0.5), 8, 8),
    Decoding(EntropyBound(0.5), 8, 4, temperature=1.0),
    Decoding(TopK(2), 6, 6, temperature=0.7),
    Decoding(LowConfidence(1), 5, 5, temperature=1.0),
    Decoding(EntropyBound(0.0), 8, 8, controller=CONTROLLER),
)
PROMPTS = ((0, 3), (2, 3, 1, 1), (1,), (4, 4, 7), (7, 1, 0, 2, 3))
ROWS = [Row(key, PROMPTS[key % 5], DECODINGS[key % 3 if key < 9 else key % 5], seed=key * 7) for key in range(20)]


@dataclass
class Drawn:
    """A row put together from what its calls have committed."""

    tokens: dict[int, int] = field(default_factory=dict)
    step: dict[int, int] = field(default_factory=dict)
    bound: float = 0.0
    is_done: bool = False

    def take(self, one: Committed) -> None:
        assert not self.is_done and not self.tokens.keys() & set(one.positions), "a token is committed once"
        self.tokens |= dict(zip(one.positions, one.tokens, strict=True))
        self.step |= dict.fromkeys(one.positions, one.call)
        self.bound, self.is_done = one.entropy_bound, one.is_done


def drawn_alone(denoiser: object, row: Row) -> Drawn:
    ids = torch.tensor([row.prompt_ids])
    rollout = sample(denoiser, ids, torch.ones_like(ids, dtype=torch.bool), row.decoding, torch.tensor([row.seed]))  # type: ignore[arg-type]
    steps = rollout.unmask_step[0].tolist()
    return Drawn(
        dict(enumerate(rollout.completion_ids[0].tolist())), dict(enumerate(steps)), float(rollout.entropy_bound), True
    )


@pytest.mark.parametrize("stop_ids", [(), (STOP,)])
def test_rows_that_come_at_any_time_are_what_each_is_alone(stop_ids: tuple[int, ...]) -> None:
    denoiser = tiny_llada(VOCAB, MASK, stop_ids)
    batch, found, waiting = RunningBatch(denoiser, CPU), {row.key: Drawn() for row in ROWS}, list(ROWS)
    batch.add([waiting.pop(0)])
    sizes = []
    while len(batch):
        for one in batch.call():
            found[one.key].take(one)
        batch.add(waiting[:2])
        del waiting[:2]
        sizes.append(len(batch))
    assert not waiting and max(sizes) > 5
    for row in ROWS:
        alone = drawn_alone(denoiser, row)
        assert found[row.key].tokens == alone.tokens, row
        assert found[row.key].step == alone.step, row
        assert found[row.key].is_done
        assert str(found[row.key].bound) == str(alone.bound), "nan where the rule has none"


def test_a_row_that_is_taken_out_leaves_the_others_as_they_are() -> None:
    denoiser = tiny_llada(VOCAB, MASK, ())
    batch, found = RunningBatch(denoiser, CPU), {row.key: Drawn() for row in ROWS}
    batch.add(ROWS)
    for one in batch.call():
        found[one.key].take(one)
    gone = {row.key for row in ROWS[::3]} | {999}
    batch.remove(gone)
    assert len(batch) == len([row for row in ROWS if row.key not in gone and not found[row.key].is_done])
    while len(batch):
        for one in batch.call():
            assert one.key not in gone
            found[one.key].take(one)
    for row in ROWS:
        if row.key not in gone:
            assert found[row.key].tokens == drawn_alone(denoiser, row).tokens


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_prompts_and_completions_of_other_lengths_share_a_call(family: str) -> None:
    policy = tiny_policy(family)
    denoiser = policy.denoiser
    rows = [
        Row(0, (1, 2, 3), Decoding(EntropyBound(0.0), 12, 4, temperature=1.0), 1),
        Row(1, tuple(1 + i % 4 for i in range(29)), Decoding(TopK(3), 6, 6), 2),
    ]
    batch, found = RunningBatch(denoiser, CPU), {0: Drawn(), 1: Drawn()}
    batch.add(rows)
    before = denoiser.usage.canvases
    calls = 0
    while len(batch):
        calls += 1
        for one in batch.call():
            found[one.key].take(one)
    assert calls == 12 and denoiser.usage.canvases - before == 12 + 2
    for row in rows:
        alone = drawn_alone(denoiser, row)
        assert (found[row.key].tokens, found[row.key].step) == (alone.tokens, alone.step)


def test_joined_states_have_their_padding_on_the_left() -> None:
    states = []
    for prompt in ([[1, 2]], [[3, 4, 4]], [[2]]):
        ids = torch.tensor(prompt)
        states.append(fully_masked(ids, torch.ones_like(ids, dtype=torch.bool), MASK, (), DECODINGS[0]))
    joined = states[0].joined(states[1]).joined(states[2])
    assert joined.prompt_ids.tolist() == [[0, 1, 2], [3, 4, 4], [0, 0, 2]]
    assert joined.prompt_mask.long().tolist() == [[0, 1, 1], [1, 1, 1], [0, 0, 1]]
    assert joined.kept(torch.tensor([2])).prompt_ids.tolist() == [[0, 0, 2]]
