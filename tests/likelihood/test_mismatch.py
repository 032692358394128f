"""Distances of surrogates from the behaviour, against every trajectory of a table of conditionals."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from tests.helpers.oracle import TableDenoiser, entropy_bound, rollout_of, trajectories
from torch import Tensor

from diffpo.core.rollout import Rollout
from diffpo.likelihood import Coupled, Elbo, Exact, ManyTimesMeanField, MeanField, TwoTimesMeanField
from diffpo.likelihood.mismatch import boundary_kl, by_step, committed_kl, rises

PROMPT, LENGTH = [3], 4
TABLE = TableDenoiser(width=1 + LENGTH)


@cache
def enumerated() -> tuple[Rollout, Tensor]:
    known = trajectories(TABLE, PROMPT, LENGTH, LENGTH, entropy_bound(0.6))
    ids, steps = (torch.tensor([key[part] for key in known]) for part in (0, 1))
    logp = torch.tensor([trajectory.token_logp for trajectory in known.values()])
    rollout = replace(rollout_of(torch.full((len(known), 1), PROMPT[0]), ids, steps), behaviour_logp=logp)
    return rollout, torch.tensor([trajectory.probability for trajectory in known.values()])


def population() -> Rollout:
    """Every trajectory of the entropy-bound rule as one batch."""
    return enumerated()[0]


def probability() -> Tensor:
    """[B]: the probability of each trajectory."""
    return enumerated()[1]


def every_token() -> Tensor:
    return torch.ones_like(population().completion_ids, dtype=torch.bool)


def kl(true: Sequence[float], other: Sequence[float]) -> float:
    """From the definition; a token of no probability adds nothing."""
    return sum(math.exp(p) * (p - q) for p, q in zip(true, other, strict=True) if p > -1000)


def conditional_at(row: int, position: int, step: int) -> list[float]:
    """Log-probabilities at a position on the canvas of a row's call `step`."""
    ids, steps = population().completion_ids[row].tolist(), population().unmask_step[row].tolist()
    completion = [token if s < step else TABLE.mask_id for token, s in zip(ids, steps, strict=True)]
    return TABLE.logp([*PROMPT, *completion], len(PROMPT) + position)


def expected(row: int, position: int, step: int) -> float:
    """KL of the token's own conditional to the one at call `step`, which is not later."""
    own = int(population().unmask_step[row, position])
    return kl(conditional_at(row, position, own), conditional_at(row, position, step))


def distance(estimator: object, draws: int, rollout: Rollout | None = None, scored: Tensor | None = None) -> Tensor:
    rollout = population() if rollout is None else rollout
    is_scored = torch.ones_like(rollout.completion_ids, dtype=torch.bool) if scored is None else scored
    generator = torch.Generator().manual_seed(0)
    return committed_kl(TABLE, rollout, is_scored, estimator, draws, generator)  # type: ignore[arg-type]


def rows_to_look_at() -> list[int]:
    return [row for row in range(0, len(population()), 17) if int(population().nfe[row]) > 2][:12]


def test_mean_field_is_the_distance_to_the_first_canvas() -> None:
    found = distance(MeanField(prompt_mask_rate=0.0), draws=1)
    for row in rows_to_look_at():
        for position in range(LENGTH):
            assert float(found[row, position]) == pytest.approx(expected(row, position, 0), abs=1e-4)


def test_exact_has_no_distance_and_tokens_of_the_first_call_have_none() -> None:
    assert distance(Exact(), draws=1).abs().max() < 1e-5
    assert distance(TwoTimesMeanField(), draws=3)[population().unmask_step == 0].abs().max() < 1e-5
    assert float(distance(MeanField(prompt_mask_rate=0.0), draws=1)[population().unmask_step > 0].mean()) > 0.1


def test_two_times_mean_field_is_the_mean_over_all_boundaries() -> None:
    row = rows_to_look_at()[0]
    calls = int(population().nfe[row])
    copies = population().rows(torch.full((40 * calls,), row))
    found = distance(TwoTimesMeanField(), draws=1, rollout=copies).mean(dim=0)  # stratified: each boundary 40 times
    for position in range(LENGTH):
        own = int(population().unmask_step[row, position])
        readings = [expected(row, position, tau if tau <= own else 0) for tau in range(calls)]
        assert float(found[position]) == pytest.approx(sum(readings) / calls, rel=0.03, abs=1e-4)


def test_draws_are_averaged() -> None:
    singles = [
        committed_kl(TABLE, population(), every_token(), TwoTimesMeanField(), 1, generator)
        for generator in [torch.Generator().manual_seed(5)]
        for _ in range(3)
    ]
    together = committed_kl(
        TABLE, population(), every_token(), TwoTimesMeanField(), 3, torch.Generator().manual_seed(5)
    )
    torch.testing.assert_close(together, sum(singles) / 3)


def test_the_expected_log_ratio_is_the_expected_kl() -> None:
    """E[behaviour - mean-field] over all trajectories is the KL of docs/math.md, token by token in sum."""
    gap = torch.zeros(len(population()))
    for row in range(len(population())):
        ids = population().completion_ids[row].tolist()
        first = sum(conditional_at(row, position, 0)[ids[position]] for position in range(LENGTH))
        gap[row] = float(population().behaviour_logp[row].sum()) - first
    found = distance(MeanField(prompt_mask_rate=0.0), draws=1).sum(dim=1)
    assert float(probability() @ found) == pytest.approx(float(probability() @ gap), abs=1e-3)


def test_what_is_not_scored_counts_nothing() -> None:
    scored = every_token().clone()
    scored[:, 2] = False
    found = distance(ManyTimesMeanField(3), draws=2, scored=scored)
    assert found[:, 2].abs().max() == 0
    sums, counts = by_step(found, population(), scored)
    assert counts.sum() == scored.sum()
    torch.testing.assert_close(sums.sum(dim=1), found.sum(dim=1))


def test_sums_by_step_by_hand() -> None:
    steps = torch.tensor([[0, 2, 1, 2], [1, 1, 0, 0]])
    rollout = rollout_of(torch.tensor([PROMPT] * 2), torch.zeros(2, 4).long(), steps)
    kl = torch.tensor([[1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0]])
    scored = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 1]]).bool()
    sums, counts = by_step(kl, rollout, scored)
    assert sums.tolist() == [[1, 4, 10, 0], [8, 1, 0, 0]]
    assert counts.tolist() == [[1, 1, 2, 0], [1, 1, 0, 0]]


def test_a_coupled_pair_has_a_distance_too_and_a_bound_has_none() -> None:
    assert float(distance(Coupled(), draws=2).mean()) > 0
    with pytest.raises(ValueError, match="no one conditional"):
        distance(Elbo(), draws=1)


def test_every_boundary_of_every_token() -> None:
    found = boundary_kl(TABLE, population(), every_token())
    assert found.shape == (int(population().nfe.max()), len(population()), LENGTH)
    for row in rows_to_look_at():
        for position in range(LENGTH):
            own = int(population().unmask_step[row, position])
            for step in range(len(found)):
                wanted = expected(row, position, step) if step <= own else 0.0
                assert float(found[step, row, position]) == pytest.approx(wanted, abs=1e-4)
    torch.testing.assert_close(found[0], distance(MeanField(prompt_mask_rate=0.0), draws=1), atol=1e-5, rtol=1e-4)


def test_rises_are_differences_of_neighbouring_boundaries_before_a_tokens_own_call() -> None:
    sums, counts = rises(boundary_kl(TABLE, population(), every_token()), population(), every_token())
    assert float(counts.triu().sum()) == 0, "only boundaries before the call"
    assert not sums.triu().any()
    assert float(counts[:, :, 0].sum()) == 0
    for row in rows_to_look_at():
        steps = population().unmask_step[row].tolist()
        for call in range(LENGTH):
            for boundary in range(1, call):
                members = [position for position in range(LENGTH) if steps[position] == call]
                wanted = sum(expected(row, p, boundary) - expected(row, p, boundary - 1) for p in members)
                assert float(sums[row, call, boundary]) == pytest.approx(wanted, abs=1e-4)
                assert int(counts[row, call, boundary]) == len(members)
    assert float(counts.sum()) > 0
