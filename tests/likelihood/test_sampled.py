"""The sampled exact likelihood against enumeration: all draws of the calls, each with its probability."""

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tests.helpers.oracle import TableDenoiser, entropy_bound, rollout_of, tiny_llada, trajectories
from torch import Tensor

from diffpo.core.canvas import canvas_at
from diffpo.core.errors import UserError
from diffpo.core.rollout import Rollout
from diffpo.likelihood import Exact, SampledExact, conditionals
from diffpo.likelihood.mismatch import committed_kl
from diffpo.likelihood.sampled import inclusion_probability, systematic_sample
from diffpo.recipes import load_recipe
from diffpo.recipes.parts import build_estimator
from diffpo.recipes.tables import RlRecipe, StudyRecipe

PROMPT, LENGTH = [3], 5
TABLE = TableDenoiser(width=1 + LENGTH, seed=1)
MASK, STOP = TABLE.mask_id, 2
SAMPLED = [
    SampledExact(1),
    SampledExact(2, "gradient", uniform_share=0.0),
    SampledExact(2, "surprisal", uniform_share=0.3),
    SampledExact(2, "uniform"),
    SampledExact(1, "surprisal", "drawn"),
    SampledExact(2, "gradient", "drawn"),
    SampledExact(3, "uniform", "drawn", uniform_share=1.0),
]


@cache
def population() -> Rollout:
    """Every trajectory of a rule with a stop token, many with tokens drawn behind it, and what drew them."""
    known = trajectories(TABLE, PROMPT, LENGTH, LENGTH, entropy_bound(0.1), stop_ids=(STOP,))
    ids, steps = (torch.tensor([key[part] for key in known]) for part in (0, 1))
    stops_before = (ids == STOP).cumsum(dim=1) - (ids == STOP).long()
    return replace(
        rollout_of(torch.full((len(known), 1), PROMPT[0]), ids, steps),
        behaviour_logp=torch.tensor([trajectory.token_logp for trajectory in known.values()]),
        is_drawn=torch.tensor([trajectory.is_drawn for trajectory in known.values()]),
        is_answer=stops_before == 0,
    )


def test_the_population_is_worth_testing_on() -> None:
    assert set(population().nfe.tolist()) == {1, 2, 3, 4, 5}
    assert bool((population().is_drawn & ~population().is_answer).any())
    assert bool((population().unmask_step.sort(dim=1).values.diff(dim=1) == 0).any())


# ------------------------------------------------------------------------------------- the probabilities, by definition


def score_of(proposal: str, logps: list[float]) -> float:
    if proposal == "uniform":
        return 1.0
    if proposal == "surprisal":
        return -sum(logps)
    return math.sqrt(sum((1 - math.exp(logp)) ** 2 for logp in logps))


def probabilities_of(estimator: SampledExact, logps: list[float], steps: list[int]) -> list[float]:
    """With which each call of one rollout is read: min(1, c q), summing to K or to the number of calls."""
    calls = range(max(steps) + 1)
    of_call = [[logp for logp, step in zip(logps, steps, strict=True) if step == call] for call in calls]
    scores = [score_of(estimator.proposal, own) for own in of_call]
    drawn = [call for call in calls if call > 0 or estimator.first_call == "drawn"]
    if not drawn:
        return [1.0]
    total = sum(scores[call] for call in drawn)
    q = {
        call: (1 - estimator.uniform_share) * scores[call] / total + estimator.uniform_share / len(drawn)
        for call in drawn
    }
    low, high = 0.0, 1e9
    for _ in range(200):  # the c for which min(1, c q) sums to K
        middle = (low + high) / 2
        is_enough = sum(min(1.0, middle * share) for share in q.values()) >= min(estimator.draws, len(drawn))
        low, high = (low, middle) if is_enough else (middle, high)
    return [min(1.0, high * q[call]) if call in q else 1.0 for call in calls]


@pytest.mark.parametrize("estimator", SAMPLED, ids=str)
def test_calls_are_read_with_the_probabilities_of_the_definition(estimator: SampledExact) -> None:
    found = estimator.reading_probability(population())
    for row in range(len(population())):
        logps, steps = population().behaviour_logp[row].tolist(), population().unmask_step[row].tolist()
        expected = probabilities_of(estimator, logps, steps)
        expected += [0.0] * (found.shape[1] - len(expected))
        assert found[row].tolist() == pytest.approx(expected, abs=1e-6)


def test_probabilities_by_hand() -> None:
    proposal = torch.tensor([[0.6, 0.3, 0.1, 0.0], [0.25, 0.25, 0.25, 0.25], [0.9, 0.08, 0.02, 0.0]]).double()
    one, two, three = (inclusion_probability(proposal, draws) for draws in (1, 2, 3))
    torch.testing.assert_close(one, proposal)
    # 2 * 0.6 is above 1: what is left is shared 3 : 1. In the third row 2 * 0.9 is, and the rest is shared 4 : 1.
    torch.testing.assert_close(two, torch.tensor([[1.0, 0.75, 0.25, 0.0], [0.5] * 4, [1.0, 0.8, 0.2, 0.0]]).double())
    # 3 * 0.5 and 3 * 0.4 are above 1; the third draw is shared 3 : 2.
    two_sure = inclusion_probability(torch.tensor([[0.5, 0.4, 0.06, 0.04]]).double(), 3)
    torch.testing.assert_close(two_sure, torch.tensor([[1.0, 1.0, 0.6, 0.4]]).double())
    torch.testing.assert_close(three, torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.75] * 4, [1.0, 1.0, 1.0, 0.0]]).double())


def test_a_systematic_sample_by_hand() -> None:
    probability = torch.tensor([[0.5, 1.0, 0.75, 0.75]]).double()  # ends 0.5, 1.5, 2.25, 3; points u, u + 1, u + 2
    for uniform, expected in ((0.1, [1, 1, 1, 0]), (0.3, [1, 1, 0, 1]), (0.6, [0, 1, 1, 1])):
        found = systematic_sample(probability, torch.tensor([uniform]))
        assert found.int().tolist() == [expected]


# ------------------------------------------------------------------------------------------------ all draws, enumerated


def every_draw(estimator: SampledExact, rollout: Rollout) -> list[tuple[float, Tensor]]:
    """Every draw for a batch whose rows have one uniform number in common, with its probability.

    Between two numbers at which any row's sample changes, all draws are the same.
    """
    ends: set[float] = {0.0, 1.0}
    for logps, steps in zip(rollout.behaviour_logp.tolist(), rollout.unmask_step.tolist(), strict=True):
        below = 0.0
        for probability in probabilities_of(estimator, logps, steps)[int(estimator.first_call == "always") :]:
            below += probability
            ends.add(below % 1)
    cuts = sorted(ends)
    found = []
    for low, high in pairwise(cuts):
        if high - low > 1e-9:
            uniform = torch.full((len(rollout),), (low + high) / 2)
            found.append((high - low, estimator.call_weights(rollout, uniform)))
    assert sum(probability for probability, _ in found) == pytest.approx(1, abs=1e-6)
    return found


@pytest.mark.parametrize("estimator", SAMPLED, ids=str)
def test_every_token_counts_once_on_average_and_on_its_own_canvas(estimator: SampledExact) -> None:
    rollout = population().rows(torch.arange(0, len(population()), 7))
    exact = Exact()(rollout, Exact().draw(rollout, torch.Generator()), MASK)
    true = conditionals(TABLE, exact, rollout.is_drawn).logp(rollout.completion_ids, 1.0)
    counts, total = torch.zeros(rollout.completion_ids.shape), torch.zeros(rollout.completion_ids.shape)
    sizes = set()
    for probability, draw in every_draw(estimator, rollout):
        plan = estimator(rollout, draw, MASK)
        assert plan.loss_weight is not None
        is_read = plan.is_needed(rollout.is_drawn)
        logp = conditionals(TABLE, plan, rollout.is_drawn).logp(rollout.completion_ids, 1.0)
        torch.testing.assert_close(logp, true.masked_fill(~is_read, 0.0), atol=1e-5, rtol=1e-5)
        counts += probability * plan.loss_weight
        total += probability * plan.loss_weight * logp
        sizes |= {(int(nfe), int(size)) for nfe, size in zip(rollout.nfe, (draw > 0).sum(dim=1), strict=True)}
    torch.testing.assert_close(counts, torch.ones_like(counts), atol=1e-4, rtol=0)
    torch.testing.assert_close(total, true, atol=1e-3, rtol=1e-3)
    first = int(estimator.first_call == "always")
    assert sizes == {(nfe, min(nfe, estimator.draws + first)) for nfe in set(rollout.nfe.tolist())}


def test_draws_follow_their_probabilities_and_are_stratified_over_the_batch() -> None:
    row, count = int((population().nfe == 5).nonzero()[0]), 4000
    rollout = population().rows(torch.full((count,), row))
    estimator = SampledExact(2)
    (probability,) = estimator.reading_probability(rollout.rows(slice(0, 1))).tolist()
    draw = estimator.draw(rollout, torch.Generator().manual_seed(0))
    for call, expected in enumerate(probability):
        # Stratified: of 4000 equal rows those that read a call are as many as its probability says, but for the ends.
        assert float((draw[:, call] > 0).float().mean()) == pytest.approx(expected, abs=3 / count)
        assert float(draw[:, call].max()) == pytest.approx(1 / expected, rel=1e-5)
    assert probability[0] == 1 and sum(probability) == pytest.approx(3)


def test_a_call_that_is_not_read_shows_no_canvas() -> None:
    rollout, estimator = population(), SampledExact(1, "uniform", "drawn")
    draw = estimator.draw(rollout, torch.Generator().manual_seed(1))
    plan = estimator(rollout, draw, MASK)
    shown = {tuple(canvas) for canvas in plan.canvas.tolist()}
    read = {
        tuple(canvas_at(rollout.rows(slice(row, row + 1)), int(step), MASK)[0].tolist())
        for row, step in (draw > 0).nonzero().tolist()
    }
    assert shown == read
    every = {
        tuple(canvas)
        for step in range(LENGTH)
        for canvas in canvas_at(rollout, step, MASK)[rollout.nfe > step].tolist()
    }
    assert shown < every


def test_a_rollout_that_was_sure_of_everything_is_read_evenly() -> None:
    sure = replace(population(), behaviour_logp=torch.zeros(population().completion_ids.shape))
    evenly = SampledExact(1, "uniform", "drawn").reading_probability(sure)
    for estimator in (SampledExact(1, "gradient", "drawn"), SampledExact(1, "surprisal", "drawn")):
        torch.testing.assert_close(estimator.reading_probability(sure), evenly)


def test_its_distance_from_the_behaviour_is_not_asked_for() -> None:
    denoiser = tiny_llada(4, MASK)
    with pytest.raises(ValueError, match="no one conditional"):
        committed_kl(denoiser, population(), population().is_drawn, SampledExact(), 1, torch.Generator())


# -------------------------------------------------------------------------------------------------------------- recipes


def recipe(tmp_path: Path, *overrides: str) -> RlRecipe:
    file = tmp_path / "run.toml"
    file.write_text('base = "somewhere"\n[budget]\nsteps = 1\n', encoding="utf-8")
    return load_recipe(RlRecipe, str(file), overrides)


def test_its_table_becomes_the_part(tmp_path: Path) -> None:
    table = 'estimator={kind="sampled-exact", draws=3, proposal="surprisal", first_call="drawn", uniform_share=0.2}'
    found = recipe(tmp_path, table, "objective.importance_cap=2.0").estimator
    assert build_estimator(found) == SampledExact(3, "surprisal", "drawn", 0.2)
    assert build_estimator(recipe(tmp_path, 'estimator={kind="sampled-exact"}').estimator) == SampledExact()


@pytest.mark.parametrize("objective", ['{kind="distribution-matching"}', '{kind="wddo"}'])
def test_objectives_of_whole_completions_are_refused(objective: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"whole completions.*reads some of their tokens only; use estimator 'exact'"):
        recipe(tmp_path, "estimator.kind=sampled-exact", f"objective={objective}")


def test_a_custom_objective_of_whole_completions_is_refused_too(tmp_path: Path) -> None:
    tables = {}
    for requires in ("none", "old"):
        code = tmp_path / f"{requires}.py"
        code.write_text(
            "from diffpo.objective.policy_gradient import Reinforce\n\n\n"
            f"class Own(Reinforce):\n    requires = {requires!r}\n",
            encoding="utf-8",
        )
        tables[requires] = f'objective={{kind="{code}:Own"}}'
    assert recipe(tmp_path, "estimator.kind=sampled-exact", tables["none"]).objective.kind.endswith(":Own")
    with pytest.raises(UserError, match="whole completions"):
        recipe(tmp_path, "estimator.kind=sampled-exact", tables["old"])


def test_a_study_of_distances_refuses_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no distance to measure"):
        load_recipe(StudyRecipe, "study-likelihood", ['mismatch.estimators=[{kind="sampled-exact"}]'])
