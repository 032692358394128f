"""Many entropy bounds in one batch: each row is what it is alone, and every canvas is shown once."""

from typing import Any

import pytest
import torch
from tests.helpers.oracle import TableDenoiser, keys_of, tiny_llada

from diffpo.core.canvas import canvas_at
from diffpo.core.options import CacheKind
from diffpo.core.rollout import Rollout
from diffpo.sampling.controller import Controller
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import sample
from diffpo.sampling.rules import CappedSum, EntropyBound, Rule, TopK

LENGTH = 6
BOUNDS = (0.0, 0.3, 0.6, 1.2, 2.5, 1e9)
PROMPTS = torch.tensor([[0, 3], [2, 3], [1, 0]])
SEEDS = torch.arange(len(PROMPTS))


def draw(denoiser: Any, prompts: torch.Tensor, bound: float, seeds: torch.Tensor, **options: Any) -> Rollout:
    """Draw the prompts' completions under one bound, or in one batch under the bounds given for the rows."""
    row_bounds = options.pop("entropy_bound", None)
    decoding = Decoding(EntropyBound(bound, options.pop("subtract_max", True)), LENGTH, LENGTH, **options)
    return sample(denoiser, prompts, torch.ones_like(prompts, dtype=torch.bool), decoding, seeds, row_bounds)


@pytest.mark.parametrize("max_in_flight", [None, 4])
@pytest.mark.parametrize("subtract_max", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_with_bounds_of_their_own_are_bit_equal_to_each_bound_alone(
    temperature: float, subtract_max: bool, max_in_flight: int | None
) -> None:
    table = TableDenoiser(width=LENGTH + 2)
    options: dict[str, Any] = {"temperature": temperature, "subtract_max": subtract_max, "max_in_flight": max_in_flight}
    count = len(BOUNDS)
    together = draw(
        table,
        PROMPTS.repeat_interleave(count, dim=0),
        0.1,
        SEEDS.repeat_interleave(count),
        entropy_bound=torch.tensor(BOUNDS).repeat(len(PROMPTS)),
        **options,
    )
    assert len(set(together.nfe.tolist())) > 2
    for i, bound in enumerate(BOUNDS):
        alone, rows = draw(table, PROMPTS, bound, SEEDS, **options), together.rows(slice(i, None, count))
        assert all(torch.equal(value, getattr(alone, name)) for name, value in vars(rows).items()), bound


@pytest.mark.parametrize("stop_ids", [(), (6,)])
@pytest.mark.parametrize("block_length", [6, 3])
def test_every_canvas_is_shown_once_whatever_call_comes_to_it(block_length: int, stop_ids: tuple[int, ...]) -> None:
    denoiser = tiny_llada(8, 5, stop_ids)
    prompts = PROMPTS.repeat_interleave(len(BOUNDS), dim=0)
    decoding = Decoding(EntropyBound(), LENGTH, block_length)
    is_prompt = torch.ones_like(prompts, dtype=torch.bool)
    rollout = sample(denoiser, prompts, is_prompt, decoding, None, torch.tensor(BOUNDS).repeat(len(PROMPTS)))
    shown = {
        tuple(canvas) for step in range(LENGTH) for canvas in canvas_at(rollout, step, 5)[rollout.nfe > step].tolist()
    }
    assert denoiser.usage.canvases == len(shown) < 0.5 * int(rollout.nfe.sum())
    for i, bound in enumerate(BOUNDS):
        decoding = Decoding(EntropyBound(bound), LENGTH, block_length)
        alone = sample(denoiser, PROMPTS, is_prompt[: len(PROMPTS)], decoding)
        assert keys_of(alone) == keys_of(rollout.rows(slice(i, None, len(BOUNDS))))


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_bounds_of_rows_go_with_a_cache(cache: CacheKind) -> None:
    denoiser = tiny_llada(8, 5)
    prompts, bounds = PROMPTS.repeat_interleave(len(BOUNDS), dim=0), torch.tensor(BOUNDS).repeat(len(PROMPTS))
    is_prompt = torch.ones_like(prompts, dtype=torch.bool)
    together = sample(denoiser, prompts, is_prompt, Decoding(EntropyBound(), LENGTH, 3, cache=cache), None, bounds)
    for i, bound in enumerate(BOUNDS):
        decoding = Decoding(EntropyBound(bound), LENGTH, 3, cache=cache)
        alone = sample(denoiser, PROMPTS, is_prompt[: len(PROMPTS)], decoding)
        assert keys_of(alone) == keys_of(together.rows(slice(i, None, len(BOUNDS))))


@pytest.mark.parametrize(
    ("rule", "controller", "message"),
    [
        (TopK(1), None, "TopK.* has none"),
        (CappedSum(), None, "CappedSum.* has none"),
        (EntropyBound(), Controller(hidden=4), "a controller chooses them, too"),
    ],
)
def test_bounds_that_cannot_be_used_are_refused(rule: Rule, controller: Controller | None, message: str) -> None:
    decoding = Decoding(rule, LENGTH, LENGTH, controller=controller)
    is_prompt = torch.ones_like(PROMPTS, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        sample(TableDenoiser(width=LENGTH + 2), PROMPTS, is_prompt, decoding, None, torch.ones(3))
