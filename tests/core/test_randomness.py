"""Randomness: whole numbers from uniform ones, strata, and seeds that do not collide."""

import math

import pytest
import torch

from diffpo.core.randomness import derive_seed, generator_for, stratified_uniform, uniform_to_index


def test_picks_by_hand() -> None:
    # Three choices have a third of [0, 1] each. Float32 may round what is just below 1 up to it: still the last.
    uniform = torch.tensor([0.0, 0.33, 0.34, 0.66, 0.67, 1.0])
    assert uniform_to_index(uniform, 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert uniform_to_index(uniform, torch.tensor([1, 2, 3, 4, 5, 6])).tolist() == [0, 0, 1, 2, 3, 5]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (6, 1), (1, 4), (6, 4)])
def test_strata_have_one_number_of_each_row_in_each_part_of_each_column(rows: int, columns: int) -> None:
    drawn = [stratified_uniform(rows, columns, generator_for(seed)).double() for seed in range(200)]
    for uniform in drawn:
        assert uniform.shape == (rows, columns)
        for column in range(columns):
            cells = (uniform[:, column] * rows * columns - column * rows).floor().long()
            assert sorted(cells.tolist()) == list(range(rows))
    # Seen alone, a row is uniform over the column's part, whichever row it is: mean 1/2, standard error 1 / sqrt(12 n).
    within = torch.stack(drawn) * columns - torch.arange(columns)
    error = 1 / math.sqrt(12 * len(drawn))
    assert float((within.mean(dim=0) - 0.5).abs().max()) < 4 * error


def test_seeds_are_a_function_of_all_their_parts() -> None:
    parts: list[tuple[int | str, ...]] = [(0,), (1,), (0, 1), (1, 0), (0, "draw"), (1, 23), (12, 3), (123,)]
    seeds = [derive_seed(*part) for part in parts]
    assert len(set(seeds)) == len(parts)
    assert seeds == [derive_seed(*part) for part in parts]
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Pinned: a run continued by a later version must draw the same.
    assert derive_seed(0, "eval") == 8506563323004087420
