"""Muon against singular values and a hand-computed step."""

import math

import pytest
import torch
from torch import Tensor

from diffpo.runs.muon import MOMENTUM, RMS, Muon, orthogonalise


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(2, 6, 6), (3, 4, 9), (3, 9, 4)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    matrices = drawn(*shape)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    rotated = u.mT @ orthogonalise(matrices) @ vh.mT  # diagonal, if the vectors are the same
    values = rotated.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(rotated, torch.diag_embed(values), atol=1e-4, rtol=0)
    assert ((values > 0.6) & (values < 1.3)).all()


def test_each_matrix_is_treated_alone_and_its_scale_does_not_matter() -> None:
    matrices = drawn(2, 5, 7)
    torch.testing.assert_close(orthogonalise(matrices)[1], orthogonalise(1000 * matrices[1:])[0])
    assert (orthogonalise(torch.zeros(1, 3, 3)) == 0).all()


def test_a_step_is_nesterov_momentum_of_fixed_length() -> None:
    """Two steps by the formulas, weight decay included."""
    first, second = drawn(4, 6), drawn(5, 4, 6)[4]
    weight = torch.nn.Parameter(torch.ones(4, 6))
    optimizer = Muon([weight], lr=0.1, weight_decay=0.5)
    expected, momentum = torch.ones(4, 6), torch.zeros(4, 6)
    for gradient in (first, second):
        weight.grad = gradient.clone()
        optimizer.step()
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        direction = (1 - MOMENTUM) * gradient + MOMENTUM * momentum
        expected = (1 - 0.1 * 0.5) * expected - 0.1 * RMS * math.sqrt(6) * orthogonalise(direction[None])[0]
    torch.testing.assert_close(weight.detach(), expected)


def test_it_goes_downhill_and_leaves_weights_without_gradient_alone() -> None:
    weight, other = torch.nn.Parameter(drawn(4, 4)), torch.nn.Parameter(torch.ones(4, 4))
    optimizer = Muon([weight, other], lr=0.3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = (weight - 1).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
    assert (other == 1).all()
