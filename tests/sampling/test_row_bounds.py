"""Many entropy bounds in one batch: each row is what it is alone, and equal canvases are shown once."""

from typing import Any

import pytest
import torch
from tests.helpers.oracle import TableDenoiser, keys_of, tiny_llada

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


def test_equal_canvases_of_different_bounds_are_shown_once() -> None:
    together, apart = (tiny_llada(8, 5) for _ in range(2))
    prompts = PROMPTS.repeat_interleave(len(BOUNDS), dim=0)
    bounds = torch.tensor(BOUNDS).repeat(len(PROMPTS))
    rollout = draw(together, prompts, 0.1, torch.arange(len(prompts)), entropy_bound=bounds)
    for i, bound in enumerate(BOUNDS):
        alone = draw(apart, PROMPTS, bound, SEEDS)
        assert keys_of(alone) == keys_of(rollout.rows(slice(i, None, len(BOUNDS))))
    assert together.usage.canvases < 0.6 * apart.usage.canvases == 0.6 * int(rollout.nfe.sum())


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
