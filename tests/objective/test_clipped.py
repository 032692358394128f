"""The clipped surrogate: numbers worked by hand, its gradient, and how tokens are weighed."""

import pytest
import torch
from tests.helpers.oracle import all_scored
from torch import Tensor

from diffpo.objective.base import PolicyLoss, token_weights
from diffpo.objective.clipped import ClippedSurrogate, clipped_loss


def logs(*values: float) -> Tensor:
    return torch.tensor([values]).log()


def surrogate(
    logp: Tensor, old: Tensor, behaviour: Tensor, advantage: float, clip: float = 0.2, cap: float | None = None
) -> PolicyLoss:
    return ClippedSurrogate(clip, cap)(logp, old, behaviour, torch.tensor([advantage]), all_scored(logp))


def test_clipping_by_hand_for_both_signs() -> None:
    # Ratios 1/2, 1, 3/2 with clip 0.2, so clipped to 0.8, 1, 1.2.
    old, new = logs(0.4, 0.4, 0.4), logs(0.2, 0.4, 0.6)
    # A = 2: min(1, 1.6), min(2, 2), min(3, 2.4): only growth beyond the trust region is cut.
    up = surrogate(new, old, old, 2.0)
    torch.testing.assert_close(up.loss, torch.tensor([[-1.0, -2.0, -2.4]]))
    assert up.is_clipped.tolist() == [[False, False, True]]
    # A = -2: min(-1, -1.6), -2, min(-3, -2.4): only shrinking beyond it is cut.
    down = surrogate(new, old, old, -2.0)
    torch.testing.assert_close(down.loss, torch.tensor([[1.6, 2.0, 3.0]]))
    assert down.is_clipped.tolist() == [[True, False, False]]
    torch.testing.assert_close(up.policy_ratio, torch.tensor([[0.5, 1.0, 1.5]]))


def test_the_clip_is_not_symmetric_in_logs_but_in_the_ratio() -> None:
    old = logs(0.5, 0.5, 0.5, 0.5)
    new = logs(0.5 * 1.19, 0.5 * 1.21, 0.5 * 0.81, 0.5 * 0.79)
    assert surrogate(new, old, old, 1.0).is_clipped.tolist() == [[False, True, False, False]]
    assert surrogate(new, old, old, -1.0).is_clipped.tolist() == [[False, False, False, True]]


def test_the_importance_weight_is_surrogate_over_behaviour_capped() -> None:
    # Surrogate old .1 .2 .4 .8 over behaviour .4 .2 .1 .1: weights 1/4, 1, 4, 8, the last two capped at 3.
    old, behaviour = logs(0.1, 0.2, 0.4, 0.8), logs(0.4, 0.2, 0.1, 0.1)
    found = surrogate(old, old, behaviour, 2.0, cap=3.0)
    torch.testing.assert_close(found.importance_weight, torch.tensor([[0.25, 1.0, 3.0, 3.0]]))
    torch.testing.assert_close(found.loss, torch.tensor([[-0.5, -2.0, -6.0, -6.0]]))
    assert surrogate(old, old, behaviour, 2.0, cap=None).importance_weight.tolist() == [[1.0] * 4]


def test_the_weight_multiplies_the_clipped_loss() -> None:
    # Ratio 3/2 cut to 1.2 at A = 1, weight .2 / .4 = 1/2: loss -0.6. The cap is on the weight, not on the product.
    found = surrogate(logs(0.3), logs(0.2), logs(0.4), 1.0, cap=0.9)
    assert float(found.loss) == pytest.approx(-0.6)


def test_each_row_has_its_own_advantage() -> None:
    zero = torch.zeros(3, 2)
    found = ClippedSurrogate()(zero, zero, zero, torch.tensor([1.0, -2.0, 0.0]), all_scored(zero))
    assert found.loss.tolist() == [[-1, -1], [2, 2], [0, 0]]


def test_the_gradient_at_ratio_one_is_weighted_reinforce() -> None:
    generator = torch.Generator().manual_seed(0)
    parameter = torch.randn(2, 3, 5, generator=generator, requires_grad=True)
    ids = torch.randint(5, (2, 3), generator=generator)
    behaviour = -torch.rand(2, 3, generator=generator) * 3
    advantage = torch.tensor([1.5, -0.5])

    def logp() -> Tensor:
        return parameter.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)

    old = logp().detach()
    loss = ClippedSurrogate(0.2, 2.0)(logp(), old, behaviour, advantage, all_scored(old)).loss.sum()
    (found,) = torch.autograd.grad(loss, parameter)
    weight = (old - behaviour).exp().clamp(max=2.0)
    (expected,) = torch.autograd.grad(-(weight * advantage[:, None] * logp()).sum(), parameter)
    torch.testing.assert_close(found, expected)
    assert float(expected.abs().max()) > 0.1


def test_weight_and_statistics_carry_no_gradient() -> None:
    logp = logs(0.2, 0.5).requires_grad_(True)
    found = surrogate(logp, logp.detach(), logs(0.3, 0.3), 1.0, cap=2.0)
    assert found.loss.requires_grad
    assert not found.importance_weight.requires_grad
    assert not found.policy_ratio.requires_grad


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"), [(1.3, 1.0, 0), (1.3, -1.0, 1), (0.7, 1.0, 1), (0.7, -1.0, 0)]
)
def test_outside_the_trust_region_only_the_way_back_has_a_gradient(ratio: float, advantage: float, moves: int) -> None:
    free = torch.tensor([ratio], requires_grad=True)
    loss, is_clipped = clipped_loss(free, torch.tensor([advantage]), 0.2)
    (gradient,) = torch.autograd.grad(loss.sum(), free)
    assert float(gradient) == -advantage * moves
    assert bool(is_clipped) is not bool(moves)


def test_token_weights_by_hand() -> None:
    is_scored = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    # Each of 3 sequences counts 1/3, shared among its 2, 4 or 1 tokens.
    sequence = torch.tensor([[1 / 6, 1 / 6, 0, 0], [1 / 12] * 4, [1 / 3, 0, 0, 0]])
    torch.testing.assert_close(token_weights(is_scored, "sequence-mean"), sequence)
    # Each of 7 tokens counts 1/7.
    torch.testing.assert_close(token_weights(is_scored, "token-mean"), is_scored / 7)


@pytest.mark.parametrize("loss_aggregation", ["sequence-mean", "token-mean"])
def test_token_weights_sum_to_one(loss_aggregation: str) -> None:
    lengths = torch.randint(1, 9, (16,), generator=torch.Generator().manual_seed(0))
    weights = token_weights(torch.arange(8) < lengths[:, None], loss_aggregation)  # type: ignore[arg-type]
    assert float(weights.sum()) == pytest.approx(1)
    assert bool((weights >= 0).all())
    assert not token_weights(torch.zeros(2, 3, dtype=torch.bool), loss_aggregation).any()  # type: ignore[arg-type]
