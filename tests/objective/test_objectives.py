"""Objectives by hand and by enumeration: expected gradients, targets, proximal steps, KL estimates, recipes."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from tests.helpers.oracle import TableDenoiser, all_scored, entropy_bound, rollout_of, trajectories
from torch import Tensor

from diffpo.core.errors import UserError
from diffpo.likelihood import Exact, conditionals
from diffpo.objective import advantages
from diffpo.objective.base import Groups, Objective
from diffpo.objective.clipped import ClippedSurrogate
from diffpo.objective.diagnostics import PUSHES_DOWN, group_weight_metrics, pushes_down, token_weight_metrics
from diffpo.objective.dmpo import DistributionMatching, Target, Wddo, effective_share, proximal_step
from diffpo.objective.kl import kl_full, kl_k1, kl_k2, kl_k3
from diffpo.objective.policy_gradient import Reinforce, WeightedLikelihood
from diffpo.recipes import dump_recipe, load_recipe
from diffpo.recipes.parts import build_objective
from diffpo.recipes.tables import ClippedSurrogateObjective, ExpertIterationObjective, RlRecipe

LN2, LN3 = math.log(2), math.log(3)


def row(*values: float) -> Tensor:
    return torch.tensor([values])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -------------------------------------------------------------------------------------------------- importance weights


def test_weights_are_truncated_from_both_sides() -> None:
    # Surrogate old over behaviour: 1/4, 1/2, 1, 4.
    old, behaviour = row(0.1, 0.2, 0.2, 0.4).log(), row(0.4, 0.4, 0.2, 0.1).log()
    found = ClippedSurrogate(0.2, 2.0, importance_floor=0.4)(old, old, behaviour, torch.tensor([3.0]), all_scored(old))
    torch.testing.assert_close(found.importance_weight, row(0.4, 0.5, 1.0, 2.0))
    torch.testing.assert_close(found.loss, row(-1.2, -1.5, -3.0, -6.0))
    assert found.is_capped.tolist() == [[False, False, False, True]]
    assert found.is_floored.tolist() == [[True, False, False, False]]
    assert bool(found.is_weighted.all())


def test_weights_on_positive_advantages_leave_the_others_alone() -> None:
    old, behaviour = row(0.1, 0.4).log().expand(3, 2), row(0.4, 0.1).log().expand(3, 2)
    credit = torch.tensor([2.0, 0.0, -1.0])
    found = ClippedSurrogate(0.2, 3.0, importance_on="positive")(old, old, behaviour, credit, all_scored(old))
    torch.testing.assert_close(found.importance_weight, torch.tensor([[0.25, 3.0], [1, 1], [1, 1]]))
    assert found.is_weighted.tolist() == [[True] * 2, [False] * 2, [False] * 2]
    assert found.is_capped.tolist() == [[False, True], [False] * 2, [False] * 2]
    torch.testing.assert_close(found.loss, torch.tensor([[-0.5, -6.0], [0, 0], [1, 1]]))
    none = ClippedSurrogate(0.2, None)(old, old, behaviour, credit, all_scored(old))
    assert not none.is_weighted.any() and not none.is_capped.any() and bool((none.importance_weight == 1).all())


def test_a_weight_at_its_cap_is_capped_and_one_at_its_floor_is_not_floored() -> None:
    # All three weights are 1: as large as the cap lets any weight be, and not raised by the floor.
    zero = torch.zeros(1, 3)
    found = ClippedSurrogate(0.2, importance_cap=1.0, importance_floor=1.0)(
        zero, zero, zero, torch.tensor([1.0]), all_scored(zero)
    )
    assert bool(found.is_capped.all()) and not found.is_floored.any()


@pytest.mark.parametrize("objective", [Reinforce(), WeightedLikelihood(), DistributionMatching(), Wddo()], ids=str)
def test_the_record_of_a_loss_without_clip_and_weights(objective: Objective) -> None:
    # New over old is 2, 1/2, 1; the behaviour, which is none of them, is not asked.
    new, old = row(0.4, 0.2, 0.3).log().requires_grad_(True), row(0.2, 0.4, 0.3).log()
    found = objective(new, old, row(0.1, 0.1, 0.9).log(), torch.tensor([-1.5]), all_scored(old))
    torch.testing.assert_close(found.policy_ratio, row(2.0, 0.5, 1.0))
    assert not found.policy_ratio.requires_grad
    assert found.importance_weight.tolist() == [[1.0] * 3]
    assert not any(part.any() for part in (found.is_clipped, found.is_weighted, found.is_capped, found.is_floored))


def test_metrics_of_token_weights_by_hand() -> None:
    weight = torch.tensor([1.0, 3.0, 0.5, 0.5])
    found = token_weight_metrics(
        weight,
        is_capped=torch.tensor([False, True, False, False]),
        is_floored=torch.tensor([False, False, True, True]),
        is_right=torch.tensor([False, False, True, True]),
        progress=torch.tensor([0.0, 0.24, 0.25, 0.99]),
    )
    assert found == pytest.approx(
        {
            "importance_weight_ess": 25 / 10.5 / 4,
            "importance_weight_floored": 0.5,
            "importance_weight_right": 0.5,
            "importance_weight_wrong": 2.0,
            "importance_weight_ess_1": 16 / 10 / 2,
            "importance_weight_ess_2": 1.0,
            "importance_weight_ess_4": 1.0,
            "importance_weight_capped_1": 0.5,
            "importance_weight_capped_2": 0.0,
            "importance_weight_capped_4": 0.0,
        }
    )


def test_metrics_of_group_weights_by_hand() -> None:
    groups = Groups(row(1.0, 0.0), row(LN2 / 2, -LN2 / 2))
    found = group_weight_metrics(WeightedLikelihood().credit(groups), torch.tensor([[True, False]]))
    assert found == pytest.approx({"group_weight_ess": 0.9, "group_weight_right": 4 / 3, "group_weight_wrong": 2 / 3})
    assert group_weight_metrics(Reinforce().credit(groups), torch.tensor([[True, False]])) == {}
    everything_right = group_weight_metrics(WeightedLikelihood().credit(groups), torch.tensor([[True, True]]))
    assert set(everything_right) == {"group_weight_ess", "group_weight_right"}


@pytest.mark.parametrize(
    ("right", "wrong", "warns"), [(0.25, 1.04, True), (0.9, 1.0, False), (0.25, 0.5, False), (1.04, 0.25, False)]
)
def test_the_collapse_pattern(right: float, wrong: float, warns: bool) -> None:
    metrics = {"importance_weight_right": right, "importance_weight_wrong": wrong}
    assert pushes_down(metrics) is warns
    assert not pushes_down({"importance_weight_wrong": wrong}) and not pushes_down({"importance_weight_right": right})
    assert f"({wrong:.2f})" in PUSHES_DOWN.format(**metrics)


# ----------------------------------------------------------------------------------------------------- credit by hand


def test_wd1_by_hand() -> None:
    # exp(psi A) = sqrt 2, 1 / sqrt 2: w+ = 2/3, 1/3 and w- the other way round; G (w+ - w-) = +-2/3.
    groups = Groups(row(0.0, 0.0), row(LN2 / 4, -LN2 / 4))
    credit = WeightedLikelihood(psi=2.0).credit(groups)
    assert credit.weight is not None
    torch.testing.assert_close(credit.weight, row(2 / 3, 1 / 3))
    torch.testing.assert_close(credit.value, row(2 / 3, -2 / 3))


LIKELIHOODS = Groups(
    reward=row(0.0, 2 * LN2),
    advantage=row(0.0, 0.0),
    reference_logp=row(LN2 - 5, -7.0),
    old_logp=row(-5.0, -7.0),
    current_logp=row(LN3 - 5, -7.0),
)
"""base / old is 2 and 1, now / old 3 and 1, exp(reward) 1 and 4."""


@pytest.mark.parametrize(
    ("baseline", "expected"),
    # w = (2, 4) / 6; towards the mirrored reward (2, 1/4) / (9/4); by the policy as it stands (3, 1) / 4.
    [
        ("none", (2 / 3, 4 / 3)),
        ("mean", (-1 / 3, 1 / 3)),
        ("unbias", (2 / 3 - 3 / 2, 4 / 3 - 1 / 2)),
        ("neg", (2 / 3 - 16 / 9, 4 / 3 - 2 / 9)),
    ],
)
def test_dmpo_by_hand(baseline: str, expected: tuple[float, float]) -> None:
    objective = DistributionMatching(Target(alpha=1.0), baseline)  # type: ignore[arg-type]
    credit = objective.credit(LIKELIHOODS)
    torch.testing.assert_close(credit.value, row(*expected))
    assert credit.weight is not None
    torch.testing.assert_close(credit.weight, row(1 / 3, 2 / 3))
    # At alpha 1/2 the reward counts twice: (2, 16) / 18. At half a step all of it counts half: (sqrt 2, 2).
    sharper = replace(objective, target=Target(alpha=0.5)).credit(LIKELIHOODS)
    shorter = replace(objective, target=Target(alpha=1.0, proximal=0.5)).credit(LIKELIHOODS)
    assert sharper.weight is not None and shorter.weight is not None
    torch.testing.assert_close(sharper.weight, row(1 / 9, 8 / 9))
    torch.testing.assert_close(shorter.weight, row(2**0.5 / (2 + 2**0.5), 2 / (2 + 2**0.5)))


def test_a_shorter_step_is_taken_towards_the_mirrored_reward_too() -> None:
    # Half a step: w ~ (sqrt 2, sqrt 4) and b ~ (sqrt 2, sqrt 1/4).
    credit = DistributionMatching(Target(alpha=1.0, proximal=0.5), "neg").credit(LIKELIHOODS).value
    root = 2**0.5
    weight, mirrored = (row(root, other) / (root + other) for other in (2.0, 0.5))
    torch.testing.assert_close(credit, 2 * (weight - mirrored))


def test_wddo_by_hand() -> None:
    logp, old = torch.tensor([[LN2, 0.0, LN2], [0.0, 0.0, 0.0]]), torch.zeros(2, 3)
    credit = Wddo(Target(alpha=1.0)).credit(LIKELIHOODS).value.flatten()
    torch.testing.assert_close(credit, torch.tensor([2 / 3, 4 / 3]))
    found = Wddo(beta=0.5, fake=3.0)(logp, old, old, credit, all_scored(old))
    # g = ln 4, so sigmoid(g / 2) = 2/3; where nothing has moved it is 1/2.
    first = -2 / 3 * math.log(2 / 3) - 3 * math.log(1 / 3)
    second = (4 / 3 + 3) * LN2
    torch.testing.assert_close(found.loss, torch.tensor([[first] * 3, [second] * 3]))


def random_groups(prompts: int = 5, group: int = 6, seed: int = 0) -> Groups:
    drawn = 3 * torch.randn(5, prompts, group, generator=generator(seed))
    return Groups(*drawn.unbind())


OBJECTIVES: list[Objective] = [
    ClippedSurrogate(),
    Reinforce(),
    WeightedLikelihood(0.7),
    *(DistributionMatching(Target(2.0), baseline) for baseline in ("none", "mean", "unbias", "neg")),
    DistributionMatching(Target(1.0, min_ess=0.6), "neg"),
    Wddo(Target(2.0)),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_weights_sum_to_one_and_credit_belongs_to_a_prompt_whatever_the_order(objective: Objective) -> None:
    groups = random_groups()
    credit = objective.credit(groups)
    if credit.weight is not None:
        torch.testing.assert_close(credit.weight.sum(dim=1), torch.ones(5))
    prompts, members = torch.randperm(5, generator=generator(1)), torch.randperm(6, generator=generator(2))
    shuffled = Groups(**{name: value[prompts][:, members] for name, value in vars(groups).items()})
    torch.testing.assert_close(objective.credit(shuffled).value, credit.value[prompts][:, members])
    alone = Groups(**{name: value[2:3] for name, value in vars(groups).items()})
    torch.testing.assert_close(objective.credit(alone).value, credit.value[2:3])


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_the_gradient_is_the_credit_at_the_start(objective: Objective) -> None:
    """All agree at the first inner step: minus the credit; the discriminator takes half of credit minus 1."""
    logp = -torch.rand(3, 4, generator=generator())
    credit = torch.tensor([1.5, 0.0, -0.5])
    new = logp.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(objective(new, logp, logp, credit, all_scored(logp)).loss.sum() / 4, new)
    expected = -credit[:, None].expand(3, 4) / 4
    if isinstance(objective, Wddo):
        expected = -(credit - 1)[:, None].expand(3, 4) / 2
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_credit_carries_no_constants(objective: Objective) -> None:
    groups = random_groups()
    shift = torch.tensor([[3.0], [-2.0], [0.5], [0.0], [1.0]])
    moved = replace(groups, reward=groups.reward + shift, reference_logp=groups.reference_logp + shift)  # type: ignore[operator]
    torch.testing.assert_close(objective.credit(moved).value, objective.credit(groups).value, atol=1e-4, rtol=1e-4)


def test_a_tied_group_has_no_credit_under_neg() -> None:
    groups = replace(random_groups(), reward=torch.full((5, 6), 0.3))
    base = DistributionMatching(Target(1.0), "neg")
    torch.testing.assert_close(base.credit(groups).value, torch.zeros(5, 6), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "objective", [DistributionMatching(), DistributionMatching(baseline="unbias"), Wddo()], ids=str
)
def test_a_target_needs_the_base(objective: Objective) -> None:
    with pytest.raises(ValueError, match="reference"):
        objective.credit(Groups(row(0.0, 1.0), row(0.0, 1.0)))


# ------------------------------------------------------------------------------------------------------- proximal step


def test_the_proximal_step_by_hand() -> None:
    # Two weights of 2/3 and 1/3 have the effective share 1 / (2 * 5/9) = 0.9; of a gap of 4 ln 2 that takes c = 1/4.
    score = torch.tensor([[4 * LN2, 0.0], [0.5 * LN2, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(effective_share(row(2 / 3, 1 / 3)), torch.tensor([0.9]))
    step = proximal_step(score, 1.0, 0.9)
    torch.testing.assert_close(step, torch.tensor([[0.25], [1.0], [1.0]]), atol=1e-4, rtol=0)
    assert proximal_step(score, 0.2, 0.9).flatten().tolist() == pytest.approx([0.2] * 3)
    assert proximal_step(score, 0.8, None).flatten().tolist() == pytest.approx([0.8] * 3)


@pytest.mark.parametrize("min_ess", [0.3, 0.7, 0.95])
def test_the_proximal_step_is_the_largest_that_keeps_the_effective_share(min_ess: float) -> None:
    score = 20 * torch.randn(50, 8, generator=generator()).double()
    step = proximal_step(score, 1.0, min_ess)
    share = effective_share((step * score).softmax(dim=1))
    beyond = effective_share((1.001 * step * score).softmax(dim=1))
    assert bool((share >= min_ess - 1e-6).all())
    assert bool(((beyond < min_ess) | (step[:, 0] > 1 - 1e-6)).all())
    assert bool((step < 1).any())


# ------------------------------------------------------------------------------------- expected gradients, enumerated


def reward_of(completion: tuple[int, ...]) -> float:
    return float(sum((i + 1) * token for i, token in enumerate(completion)) % 5)


def expected_gradient(
    objective: Objective, credit: Callable[[Tensor], Tensor], group: int = 3
) -> tuple[Tensor, Tensor]:
    """Minus the objective's gradient, over all groups of trajectories by their probability; and the true one, of the
    expected reward, by autograd through products of table entries."""
    table, length = TableDenoiser(width=3, seed=2), 2
    known = trajectories(table, [3], length, length, entropy_bound(0.6))
    ids, steps = (torch.tensor([key[part] for key in known]) for part in (0, 1))
    rollout = rollout_of(torch.full((len(known), 1), 3), ids, steps)
    reward = torch.tensor([reward_of(key[0]) for key in known], dtype=torch.float64)
    chance = torch.tensor([trajectory.probability for trajectory in known.values()], dtype=torch.float64)
    table.table = table.table.double().requires_grad_(True)

    views = Exact()(rollout, Exact().draw(rollout, torch.Generator()), table.mask_id)
    logp = conditionals(table, views, torch.ones_like(ids, dtype=torch.bool)).logp(ids, 1.0)
    members = torch.tensor(list(product(range(len(known)), repeat=group)))
    groups = Groups(reward[members], credit(reward[members]))
    rows = logp[members.flatten()]
    loss = objective(
        rows, rows.detach(), rows.detach(), objective.credit(groups).value.flatten(), all_scored(rows)
    ).loss
    mean = loss.sum(dim=1).view(-1, group).mean(dim=1)
    (found,) = torch.autograd.grad(-(chance[members].prod(dim=1) * mean).sum(), table.table)

    expected_reward = torch.zeros((), dtype=torch.float64)
    for (completion, order), value in zip(known, reward.tolist(), strict=True):
        probability = torch.ones((), dtype=torch.float64)
        for position, token in enumerate(completion):
            visible = [t if s < order[position] else table.mask_id for t, s in zip(completion, order, strict=True)]
            index = sum(digit * (table.vocab + 1) ** place for place, digit in enumerate([3, *visible]))
            probability = probability * table.table[index, 1 + position].softmax(dim=0)[token]
        expected_reward = expected_reward + probability * value
    (true,) = torch.autograd.grad(expected_reward, table.table)
    assert float(true.abs().max()) > 0.1
    return found, true


@pytest.mark.parametrize("objective", [Reinforce(), ClippedSurrogate(0.2), ClippedSurrogate(0.2, 2.0)], ids=str)
@pytest.mark.parametrize("group", [2, 3])
def test_leave_one_out_has_the_true_gradient_on_average(objective: Objective, group: int) -> None:
    found, true = expected_gradient(objective, advantages.leave_one_out, group)
    torch.testing.assert_close(found, true, atol=1e-5, rtol=1e-5)


def test_the_group_mean_as_a_baseline_shortens_the_gradient() -> None:
    found, true = expected_gradient(Reinforce(), advantages.group_centered, 3)
    torch.testing.assert_close(found, 2 / 3 * true, atol=1e-5, rtol=1e-5)


def test_wd1_is_to_first_order_the_policy_gradient() -> None:
    psi = 1e-4
    found, true = expected_gradient(WeightedLikelihood(psi), advantages.leave_one_out)
    torch.testing.assert_close(found / (2 * psi), true, atol=1e-3, rtol=1e-3)


# ------------------------------------------------------------------------------------------------ targets, enumerated

COUNTS = torch.tensor([1, 2, 3, 1, 2])
"""Copies of each of five completions in a group that is the old policy's whole population: p_old = COUNTS / 9."""
MEMBERS = torch.arange(5).repeat_interleave(COUNTS)
OLD = (COUNTS.double() / COUNTS.sum()).log()
BASE = torch.randn(5, generator=generator(3)).double().log_softmax(dim=0)
REWARD = torch.tensor([0.0, 1.0, 0.25, 1.0, 0.0]).double()


def tilted(alpha: float, step: float) -> Tensor:
    return ((1 - step) * OLD + step * (BASE + REWARD / alpha)).softmax(dim=0)


def population_gradient(objective: Objective, theta: Tensor) -> tuple[float, Tensor]:
    """Loss and gradient of a softmax policy over the five completions, each one token long."""
    theta = theta.clone().requires_grad_(True)
    logp = theta.log_softmax(dim=0)
    values = (REWARD, REWARD - REWARD.mean(), BASE, OLD, logp.detach())
    credit = objective.credit(Groups(*(value[MEMBERS][None] for value in values))).value.flatten()
    now, old = logp[MEMBERS][:, None], OLD[MEMBERS][:, None]
    loss = objective(now, old, old, credit, all_scored(old)).loss.mean()
    (gradient,) = torch.autograd.grad(loss, theta)
    return float(loss.detach()), gradient


ON_TARGET: list[Callable[[Target], Objective]] = [
    lambda target: DistributionMatching(target, "none"),
    lambda target: DistributionMatching(target, "unbias"),
    Wddo,
]


@pytest.mark.parametrize(("alpha", "step"), [(0.5, 1.0), (0.5, 0.4), (2.0, 1.0)])
@pytest.mark.parametrize("objective_of_target", ON_TARGET, ids=["none", "unbias", "wddo"])
def test_the_target_is_where_the_gradient_vanishes(
    objective_of_target: Callable[[Target], Objective], alpha: float, step: float
) -> None:
    objective, target = objective_of_target(Target(alpha, step)), tilted(alpha, step)
    assert float((target - OLD.exp()).abs().max()) > 0.05
    _, gradient = population_gradient(objective, target.log())
    torch.testing.assert_close(gradient, torch.zeros(5).double(), atol=1e-9, rtol=0)
    _, elsewhere = population_gradient(objective, OLD)
    assert float(elsewhere.abs().max()) > 0.01
    theta = OLD.clone()
    for _ in range(400):
        theta = theta - 2.0 * population_gradient(objective, theta)[1]
    torch.testing.assert_close(theta.softmax(dim=0), target, atol=1e-4, rtol=0)


@pytest.mark.parametrize("objective_of_target", [ON_TARGET[0], ON_TARGET[2]], ids=["none", "wddo"])
def test_the_target_is_the_minimum(objective_of_target: Callable[[Target], Objective]) -> None:
    objective, target = objective_of_target(Target(0.5)), tilted(0.5, 1.0)
    least, _ = population_gradient(objective, target.log())
    for seed in range(20):
        away = target.log() + 0.3 * torch.randn(5, generator=generator(seed)).double()
        assert population_gradient(objective, away)[0] > least


def test_on_the_old_policy_mean_and_unbias_change_no_expected_gradient() -> None:
    plain, mean, unbias = (
        population_gradient(DistributionMatching(Target(0.5), baseline), OLD)[1]
        for baseline in ("none", "mean", "unbias")
    )
    torch.testing.assert_close(mean, plain)
    torch.testing.assert_close(unbias, plain)
    away = OLD + torch.tensor([0.5, 0.0, -0.5, 0.0, 0.0])
    plain, mean, unbias = (
        population_gradient(DistributionMatching(Target(0.5), baseline), away)[1]
        for baseline in ("none", "mean", "unbias")
    )
    torch.testing.assert_close(unbias, plain)
    assert not torch.allclose(mean, plain, atol=1e-3)


def test_wddo_starts_along_half_of_the_cross_entropy() -> None:
    expected = population_gradient(DistributionMatching(Target(0.5), "mean"), OLD)[1] / 2
    torch.testing.assert_close(population_gradient(Wddo(Target(0.5)), OLD)[1], expected)


def test_neg_is_to_first_order_the_policy_gradient() -> None:
    """From the base itself, with a large alpha: 2 / alpha times the gradient of the expected reward."""
    alpha = 1e4
    at_base = Groups(*(value[MEMBERS][None] for value in (REWARD, REWARD, OLD, OLD, OLD)))
    credit = DistributionMatching(Target(alpha), "neg").credit(at_base).value.flatten()
    centred = REWARD[MEMBERS] - REWARD[MEMBERS].mean()
    torch.testing.assert_close(credit * alpha / 2, centred, atol=1e-3, rtol=1e-3)


# ------------------------------------------------------------------------------------------------------------------ KL


def laws(gap: float = 2.0) -> tuple[Tensor, Tensor]:
    logits = torch.randn(6, generator=generator(0)).double()
    base = logits + gap * torch.randn(6, generator=generator(1)).double()
    return logits.requires_grad_(True), base


def mean_and_gradient(kl: Callable[[Tensor, Tensor], Tensor], gap: float = 2.0) -> tuple[float, Tensor]:
    """Of an estimate on tokens of the policy: its mean, and the mean of its gradients."""
    logits, base = laws(gap)
    logp, reference_logp = logits.log_softmax(dim=0), base.log_softmax(dim=0)
    total = (logp.detach().exp() * kl(logp, reference_logp)).sum()
    (gradient,) = torch.autograd.grad(total, logits)
    return float(total.detach()), gradient


def divergence(opposite: bool = False, gap: float = 2.0) -> tuple[float, Tensor]:
    logits, base = laws(gap)
    first, second = logits.log_softmax(dim=0), base.log_softmax(dim=0)
    if opposite:
        first, second = second, first
    total = (first.exp() * (first - second)).sum()
    (gradient,) = torch.autograd.grad(total, logits)
    return float(total.detach()), gradient


def test_k1_and_k3_are_unbiased_and_full_is_exact() -> None:
    expected, gradient = divergence()
    assert expected > 0.1
    assert mean_and_gradient(kl_k1)[0] == pytest.approx(expected)
    assert mean_and_gradient(kl_k3)[0] == pytest.approx(expected)
    logits, base = laws()
    full = kl_full(logits[None], base[None]).sum()
    assert float(full.detach()) == pytest.approx(expected)
    torch.testing.assert_close(torch.autograd.grad(full, logits)[0], gradient)


def test_k2_is_right_to_second_order() -> None:
    assert mean_and_gradient(kl_k2)[0] != pytest.approx(divergence()[0], rel=0.01)
    errors = [abs(mean_and_gradient(kl_k2, gap)[0] - divergence(gap=gap)[0]) for gap in (0.02, 0.01)]
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.1)
    assert errors[1] < 0.05 * divergence(gap=0.01)[0]


def test_gradients_of_the_sampled_divergences() -> None:
    _, gradient = divergence()
    torch.testing.assert_close(mean_and_gradient(kl_k2)[1], gradient)
    torch.testing.assert_close(mean_and_gradient(kl_k1)[1], gradient)
    torch.testing.assert_close(mean_and_gradient(kl_k3)[1], divergence(opposite=True)[1])
    plain = mean_and_gradient(lambda logp, reference_logp: logp - reference_logp)[1]
    torch.testing.assert_close(plain, torch.zeros(6).double(), atol=1e-12, rtol=0)


def test_sampled_divergences_by_hand() -> None:
    logp, base = row(0.5, 0.25).log(), row(0.25, 0.5).log()
    torch.testing.assert_close(kl_k1(logp, base), row(LN2, -LN2))
    torch.testing.assert_close(kl_k2(logp, base), row(LN2**2 / 2, LN2**2 / 2))
    torch.testing.assert_close(kl_k3(logp, base), row(LN2 - 0.5, 1 - LN2))


# -------------------------------------------------------------------------------------------------------------- recipes


def recipe(tmp_path: Path, *overrides: str) -> RlRecipe:
    file = tmp_path / "run.toml"
    file.write_text('base = "somewhere"\n[budget]\nsteps = 1\n', encoding="utf-8")
    return load_recipe(RlRecipe, str(file), overrides)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ([], ClippedSurrogate()),
        (["kind=clipped-surrogate"], ClippedSurrogate()),
        (
            ["importance_cap=2.0", "importance_floor=0.5", "importance_on=positive", "clip=0.3"],
            ClippedSurrogate(0.3, 2.0, 0.5, "positive"),
        ),
        (["kind=reinforce"], Reinforce()),
        (["kind=weighted-likelihood", "psi=0.5"], WeightedLikelihood(0.5)),
        (
            ["kind=distribution-matching", "alpha=0.1", "proximal=0.5", "baseline=unbias"],
            DistributionMatching(Target(0.1, 0.5), "unbias"),
        ),
        (["kind=wddo", "min_ess=0.7", "beta=2.0", "fake=0.5"], Wddo(Target(min_ess=0.7), 2.0, 0.5)),
    ],
)
def test_kinds_become_parts_and_recipes_read_back(settings: list[str], part: Objective, tmp_path: Path) -> None:
    found = recipe(tmp_path, *(f"objective.{setting}" for setting in settings))
    assert not isinstance(found.objective, ExpertIterationObjective)
    assert build_objective(found.objective) == part
    stored = tmp_path / "stored.toml"
    stored.write_text(dump_recipe(found), encoding="utf-8")
    assert load_recipe(RlRecipe, str(stored)) == found


def test_a_recipe_stored_before_objectives_had_kinds_reads_the_same(tmp_path: Path) -> None:
    stored = tmp_path / "recipe.toml"
    stored.write_text(
        'seed = 0\nbase = "base"\n[objective]\nclip = 0.2\nimportance_cap = 2.0\nloss_aggregation = "sequence-mean"\n'
        'advantage = "group-std"\nnfe_penalty = 0.0\nkl_coef = 0.01\nkl_estimator = "full"\nnum_iterations = 2\n'
        "drop_zero_std_groups = true\n"
        "[budget]\nsteps = 3\n",
        encoding="utf-8",
    )
    expected = ClippedSurrogateObjective(importance_cap=2.0, kl_coef=0.01, drop_zero_std_groups=True)
    assert load_recipe(RlRecipe, str(stored)).objective == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["objective.importance_floor=0.5"], "without importance_cap there are none"),
        (["objective.importance_on=positive"], "without importance_cap there are none"),
        (
            ["objective.importance_cap=0.5", "objective.importance_floor=0.6"],
            "importance_floor 0.6 is above importance_cap 0.5",
        ),
        (["objective.kind=wddo", "objective.advantage=group-std"], "objective.advantage: unknown option"),
        (["objective.kind=distribution-matching", "objective.kl_coef=0.1"], "objective.kl_coef: unknown option"),
        (["objective.kind=reinforce", "objective.clip=0.1"], "objective.clip: unknown option"),
        (
            ["objective.kind=weighted-likelihood", "estimator.kind=eubo"],
            "use estimator 'elbo', or objective 'reinforce'",
        ),
        (["objective.kind=distribution-matching", "estimator.kind=eubo"], "objective 'distribution-matching' does not"),
        (
            ["objective.kind=wddo", "estimator.kind=coupled", "estimator.weighting=published"],
            "compares likelihoods of whole completions",
        ),
        (["objective.kind=distribution-matching", "objective.min_ess=1.5"], "objective.min_ess: should be less than"),
        (["objective.kind=reinforced"], "did you mean 'reinforce'?"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(settings: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        recipe(tmp_path, *settings)
    _, line = str(caught.value).splitlines()
    assert said in line


@pytest.mark.parametrize("kind", ["reinforce", "clipped-surrogate"])
def test_objectives_that_follow_the_advantage_go_with_the_sandwich(kind: str, tmp_path: Path) -> None:
    assert recipe(tmp_path, f"objective.kind={kind}", "estimator.kind=eubo").objective.kind == kind
