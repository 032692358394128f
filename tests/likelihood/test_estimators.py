"""Every estimator against enumeration: all trajectories, all orders, all masks of a table of conditionals."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, permutations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.oracle import (
    Chooser,
    TableDenoiser,
    conditional,
    entropy_bound,
    leftmost,
    random_order_logp,
    random_order_mean,
    rollout_of,
    tiny_llada,
    trajectories,
)
from tests.helpers.sampled import every_draw
from tests.helpers.sampling import sample_with
from torch import Tensor

from diffpo.core.canvas import canvas_at, full_attention_mask
from diffpo.core.errors import UserError
from diffpo.core.options import ScoredTokens
from diffpo.core.rollout import Rollout
from diffpo.likelihood import (
    Conditionals,
    Coupled,
    Elbo,
    Estimator,
    Eubo,
    Exact,
    ManyTimesMeanField,
    MeanField,
    SampledExact,
    ScoringPlan,
    TwoTimesMeanField,
    conditionals,
    surrogate_logp,
)
from diffpo.likelihood.masks import with_complements
from diffpo.objective.clipped import ClippedSurrogate
from diffpo.objective.kl import kl_full
from diffpo.recipes import load_recipe
from diffpo.recipes.parts import build_estimator
from diffpo.recipes.tables import ClippedSurrogateObjective, RlRecipe
from diffpo.sampling.rules import EntropyBound, TopK
from diffpo.training.policy_update import update_policy
from diffpo.training.rollouts import Batch, scored
from diffpo.training.update_settings import PolicyUpdate

PROMPT, LENGTH = [3], 4
TABLE = TableDenoiser(width=1 + LENGTH)
MASK = TABLE.mask_id
COMPLETIONS = list(product(TABLE.tokens, repeat=LENGTH))
Subset = frozenset[int]


@cache
def enumerated(bound: float, length: int = LENGTH, table: TableDenoiser = TABLE) -> tuple[Rollout, Tensor]:
    """Every trajectory of the entropy-bound rule as one batch, with its behaviour, and the probability of each."""
    known = trajectories(table, PROMPT, length, length, entropy_bound(bound))
    ids, steps = (torch.tensor([key[part] for key in known]) for part in (0, 1))
    logp = torch.tensor([trajectory.token_logp for trajectory in known.values()])
    rollout = replace(rollout_of(torch.full((len(known), 1), PROMPT[0]), ids, steps), behaviour_logp=logp)
    return rollout, torch.tensor([trajectory.probability for trajectory in known.values()])


def population() -> Rollout:
    """Every trajectory of the entropy-bound rule that most tests use, as one batch."""
    return enumerated(0.6)[0]


def probability() -> Tensor:
    """[B]: the probability of each trajectory."""
    return enumerated(0.6)[1]


def one_by_one() -> Rollout:
    """Every trajectory that commits one token a call."""
    return enumerated(0.0)[0]


def copies(rollout: Rollout, row: int, count: int) -> Rollout:
    return rollout.rows(torch.full((count,), row))


def read(views: ScoringPlan, rollout: Rollout, table: Any = TABLE) -> Conditionals:
    return conditionals(table, views, torch.ones_like(rollout.completion_ids, dtype=torch.bool))


def score(estimator: Estimator, rollout: Rollout, draw: Tensor, is_upper: bool = False, table: Any = TABLE) -> Tensor:
    """[B, L]: what an update would take for the tokens' log-probabilities."""
    views = estimator(rollout, draw, MASK)
    found = read(views, rollout, table)
    logp = found.logp(rollout.completion_ids, 1.0)
    return surrogate_logp(views, logp, found.is_needed, torch.full((len(rollout),), is_upper))


def drawn_score(estimator: Estimator, rollout: Rollout, seed: int, is_upper: bool = False) -> Tensor:
    return score(estimator, rollout, estimator.draw(rollout, torch.Generator().manual_seed(seed)), is_upper)


def test_the_enumeration_is_worth_testing_on() -> None:
    assert float(probability().sum()) == pytest.approx(1, abs=1e-5)
    assert len(set(population().nfe.tolist())) > 1 and int(population().nfe.max()) >= 3
    assert ((population().unmask_step == 0).sum(dim=1) > 1).any()
    assert set(one_by_one().nfe.tolist()) == {LENGTH}


# ------------------------------------------------------------------------------- the law of what each token is read on


@dataclass(frozen=True)
class Reading:
    """With some probability a token adds weight * log p(token | the shown places)."""

    probability: float
    terms: tuple[tuple[float, Subset], ...]


Law = Callable[[int, list[int]], list[Reading]]
"""From a position and the unmask steps of a row to everything that can be drawn for it."""


def trajectory_law(parts: int) -> Law:
    """One boundary from each of `parts` equal parts of the calls; 0 parts: mean-field."""

    def distribution(position: int, steps: list[int]) -> list[Reading]:
        width = (max(steps) + 1) // parts if parts else 1
        choices = list(product(*(range(part * width, (part + 1) * width) for part in range(parts))))
        readings = []
        for boundaries in choices:
            last = max([b for b in boundaries if b <= steps[position]], default=0)
            visible = frozenset(j for j, step in enumerate(steps) if step < last)
            readings.append(Reading(1 / len(choices), ((1.0, visible),)))
        return readings

    return distribution


def exact_law(position: int, steps: list[int]) -> list[Reading]:
    return [Reading(1.0, ((1.0, frozenset(j for j, step in enumerate(steps) if step < steps[position])),))]


def coupled_law(is_published: bool) -> Law:
    """Rates 0.2 to 0.8 of four tokens round to 1, 2, 3 masked ones with probabilities 7/24, 10/24, 7/24."""

    def distribution(position: int, steps: list[int]) -> list[Reading]:
        length, readings = len(steps), []
        for count, chance in ((1, 7 / 24), (2, 10 / 24), (3, 7 / 24)):
            for masked in combinations(range(length), count):
                own = set(masked) if position in masked else set(range(length)) - set(masked)
                visible = frozenset(range(length)) - own
                half = ((0.5, frozenset[int]()), (0.5 / (len(own) / length), visible))
                readings.append(Reading(chance / math.comb(length, count), half if is_published else ((1.0, visible),)))
        return readings

    return distribution


def elbo_law(position: int, steps: list[int]) -> list[Reading]:
    length, readings = len(steps), []
    for count in range(1, length + 1):
        for masked in combinations(range(length), count):
            terms = ((length / count, frozenset(range(length)) - set(masked)),) if position in masked else ()
            readings.append(Reading(1 / length / math.comb(length, count), terms))
    return readings


LAWS: list[tuple[Estimator, Law]] = [
    (MeanField(prompt_mask_rate=0.0), trajectory_law(0)),
    (TwoTimesMeanField(), trajectory_law(1)),
    (ManyTimesMeanField(2), trajectory_law(1)),
    (ManyTimesMeanField(3), trajectory_law(2)),
    (ManyTimesMeanField(4), exact_law),
    (Exact(), exact_law),
    (Coupled(), coupled_law(False)),
    (Coupled(weighting="published"), coupled_law(True)),
    (Elbo(1, antithetic=False), elbo_law),
]


@pytest.mark.parametrize(("estimator", "distribution"), LAWS, ids=[str(estimator) for estimator, _ in LAWS])
def test_mean_and_variance_of_every_token_are_those_of_the_enumerated_law(
    estimator: Estimator, distribution: Law
) -> None:
    row, count = 37, 6000
    ids, steps = one_by_one().completion_ids[row].tolist(), one_by_one().unmask_step[row].tolist()
    found = drawn_score(estimator, copies(one_by_one(), row, count), seed=1).double()
    for position in range(LENGTH):
        readings = distribution(position, steps)
        assert sum(reading.probability for reading in readings) == pytest.approx(1)
        values = [
            sum(weight * conditional(TABLE, PROMPT, ids, visible, position) for weight, visible in reading.terms)
            for reading in readings
        ]
        chances = [reading.probability for reading in readings]
        mean = sum(p * value for p, value in zip(chances, values, strict=True))
        second, fourth = (
            sum(p * (value - mean) ** power for p, value in zip(chances, values, strict=True)) for power in (2, 4)
        )
        error, error_of_variance = math.sqrt(second / count), math.sqrt(max(0, fourth - second**2) / count)
        assert float(found[:, position].mean()) == pytest.approx(mean, abs=4 * error + 1e-5)
        assert float(found[:, position].var(correction=0)) == pytest.approx(second, abs=5 * error_of_variance + 1e-5)


# ----------------------------------------------------------------------------------------------- the rollout's canvases


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("rule", [EntropyBound(0.4), TopK(1)], ids=str)
def test_exact_is_the_behaviour(rule: Any, temperature: float) -> None:
    prompt_ids = torch.tensor([[0, 2], [2, 3], [3, 3]]).repeat_interleave(8, dim=0)
    prompt_mask = torch.ones_like(prompt_ids, dtype=torch.bool)
    prompt_mask[:8, 0] = False
    table = TableDenoiser(width=6)
    rollout = sample_with(
        table, prompt_ids, prompt_mask, length=4, block_length=2, rule=rule, temperature=temperature,
        seeds=torch.arange(24),
    )  # fmt: skip
    views = Exact()(rollout, Exact().draw(rollout, torch.Generator()), MASK)
    logp = read(views, rollout, table).logp(rollout.completion_ids, temperature)
    torch.testing.assert_close(logp, rollout.behaviour_logp, atol=1e-6, rtol=1e-6)
    seen = {
        (tuple(canvas), tuple(visible))
        for step in range(int(rollout.nfe.max()))
        for canvas, visible, is_running in zip(
            canvas_at(rollout, step, MASK).tolist(),
            full_attention_mask(prompt_mask, 4).tolist(),
            (rollout.nfe > step).tolist(),
            strict=True,
        )
        if is_running
    }
    assert len(views.canvas) == len(seen)  # each canvas of the rollout, once


@pytest.mark.parametrize("boundaries", [3, 4, 9])
def test_a_boundary_at_every_call_is_exact(boundaries: int) -> None:
    is_short = boundaries >= population().nfe
    rollout = population().rows(is_short.nonzero().flatten())
    assert int(rollout.nfe.max()) == min(boundaries, int(population().nfe.max()))
    found = drawn_score(ManyTimesMeanField(boundaries), rollout, seed=0)
    torch.testing.assert_close(found, rollout.behaviour_logp, atol=1e-6, rtol=1e-6)


def test_two_boundaries_are_two_times_mean_field() -> None:
    for seed in range(3):
        many, two = (
            e.draw(population(), torch.Generator().manual_seed(seed))
            for e in (ManyTimesMeanField(2), TwoTimesMeanField())
        )
        assert torch.equal(many[:, 0], two)
        assert torch.equal(
            score(ManyTimesMeanField(2), population(), many), score(TwoTimesMeanField(), population(), two)
        )


def test_boundaries_are_one_in_each_part_of_the_calls_and_stratified_over_the_batch() -> None:
    rows, calls = 24, 12
    steps = torch.arange(calls).expand(rows, calls)
    rollout = rollout_of(torch.full((rows, 1), 3), torch.zeros(rows, calls).long(), steps)
    for seed in range(5):
        draw = ManyTimesMeanField(4).draw(rollout, torch.Generator().manual_seed(seed))
        assert draw.shape == (rows, 3)
        for part in range(3):
            assert Counter(draw[:, part].tolist()) == dict.fromkeys(range(4 * part, 4 * part + 4), rows // 4)
        assert len({tuple(row) for row in draw.tolist()}) > 6  # the parts do not move together


def kl_by_step(
    estimator: Estimator, rollout: Rollout, probability: Tensor, draws: list[Tensor]
) -> tuple[list[float], list[float]]:
    """For every call: KL(true conditional || surrogate's), and the mean of behaviour minus surrogate; both expected."""
    steps = int(rollout.nfe.max())
    exact = read(Exact()(rollout, Exact().draw(rollout, torch.Generator()), MASK), rollout)
    divergence, gap = torch.zeros(steps), torch.zeros(steps)
    for draw in draws:
        found = read(estimator(rollout, draw, MASK), rollout)
        whole = (one.output.logits[one.index].flatten(0, 1) for one in (exact, found))
        kl = kl_full(*whole).view_as(exact.index)
        difference = rollout.behaviour_logp - found.logp(rollout.completion_ids, 1.0)
        for step in range(steps):
            weight = probability[:, None] * (rollout.unmask_step == step)
            divergence[step] += (weight * kl).sum() / len(draws)
            gap[step] += (weight * difference).sum() / len(draws)
    return divergence.tolist(), gap.tolist()


@pytest.mark.parametrize("bound", [0.0, 0.6])
def test_a_trajectory_estimators_bias_is_its_kl_to_the_true_conditionals_by_call(bound: float) -> None:
    rollout, probability = enumerated(bound)
    rows, nfe = len(rollout), rollout.nfe
    # Every boundary, as often as a uniform number would choose it.
    fractions = [(u + 0.5) / 12 for u in range(12)]
    draws: dict[Estimator, list[Tensor]] = {
        MeanField(prompt_mask_rate=0.0): [MeanField(prompt_mask_rate=0.0).draw(rollout, torch.Generator())],
        TwoTimesMeanField(): [(u * nfe).long() for u in fractions],
        ManyTimesMeanField(3): [
            torch.stack([(u / 2 * nfe).long(), ((v + 1) / 2 * nfe).long()], dim=1)
            for u, v in product(fractions, repeat=2)
        ],
        Exact(): [torch.zeros(rows, 0, dtype=torch.long)],
    }
    totals = []
    for estimator, drawn in draws.items():
        divergence, gap = kl_by_step(estimator, rollout, probability, drawn)
        assert gap == pytest.approx(divergence, abs=2e-4)
        assert divergence[0] == pytest.approx(0, abs=1e-6)  # the first call saw the fully masked canvas
        totals.append(sum(divergence))
    mean_field, two_times, three_times, exact = totals
    assert mean_field > 1.2 * two_times > 1.2 * 1.2 * three_times
    assert exact == pytest.approx(0, abs=1e-6)


# ------------------------------------------------------------------------------------------------------- random masks


def test_a_pair_is_a_mask_and_its_complement_and_reads_each_token_once() -> None:
    views = Coupled()(population(), draw := Coupled().draw(population(), torch.Generator().manual_seed(0)), MASK)
    visible = views.canvas[views.source][..., 1:]  # [B, L, L]: the completion that each token's canvas shows
    for row in range(len(population())):
        ids = population().completion_ids[row]
        for position in range(LENGTH):
            is_masked = draw[row] == draw[row, position]
            assert torch.equal(visible[row, position], torch.where(is_masked, MASK, ids))
    assert views.weight is None and views.source.shape == population().completion_ids.shape
    TABLE.asked.clear()
    read(views, population())
    ((canvas, at),) = TABLE.asked
    assert bool((canvas[at] == MASK).all())  # no token is asked for where it can be seen


def test_published_weights_by_hand() -> None:
    completion = [0, 2, 3, 0]
    ids = torch.tensor([completion])
    rollout = rollout_of(torch.tensor([PROMPT]), ids, torch.zeros_like(ids))
    draw = torch.tensor([[True, False, False, False]])
    found = score(Coupled(weighting="published"), rollout, draw)[0].tolist()
    visible = [frozenset({1, 2, 3}), frozenset({0}), frozenset({0}), frozenset({0})]
    expected = []
    for i, rate in enumerate((1 / 4, 3 / 4, 3 / 4, 3 / 4)):
        alone, paired = (conditional(TABLE, PROMPT, completion, places, i) for places in ((), visible[i]))
        expected.append((alone + paired / rate) / 2)
    assert found == pytest.approx(expected, abs=1e-5)


def every_mask(length: int) -> Tensor:
    """[K, L]: all masks, those of m tokens as often as makes every m and every set of m equally frequent."""
    common = math.lcm(*(math.comb(length, count) for count in range(1, length + 1)))
    return torch.tensor(
        [
            [i in masked for i in range(length)]
            for count in range(1, length + 1)
            for masked in combinations(range(length), count)
            for _ in range(common // math.comb(length, count))
        ]
    )


@cache
def every_completion(length: int) -> Rollout:
    ids = torch.tensor(list(product(TABLE.tokens, repeat=length)))
    return rollout_of(torch.full((len(ids), 1), PROMPT[0]), ids, torch.zeros_like(ids))


def all_completions() -> Rollout:
    return every_completion(LENGTH)


@cache
def all_masks() -> Tensor:
    """[B, K, L]: every mask, for each of all completions."""
    return every_mask(LENGTH).expand(len(all_completions()), -1, -1)


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_elbo_over_all_masks_is_the_mean_over_all_orders(antithetic: bool) -> None:
    draw = with_complements(all_masks(), all_masks().any(dim=1)) if antithetic else all_masks()
    found = score(Elbo(), all_completions(), draw)
    expected = [random_order_mean(TABLE, PROMPT, ids, lambda logp: logp) for ids in COMPLETIONS]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "estimator", [Elbo(1, False), Elbo(2, False), Elbo(2, True), Elbo(4, True), Elbo(5, False)], ids=str
)
def test_the_elbo_is_unbiased(estimator: Elbo) -> None:
    row, count = 50, 4000
    bound = sum(random_order_mean(TABLE, PROMPT, COMPLETIONS[row], lambda logp: logp))
    sums = drawn_score(estimator, copies(all_completions(), row, count), seed=3).double().sum(dim=1)
    error = float(sums.std()) / math.sqrt(count)
    assert error < 0.1
    assert float(sums.mean()) == pytest.approx(bound, abs=4 * error)


def test_the_elbos_variance_falls_with_the_draws() -> None:
    """Faster than 1 / K, as the draws are stratified. On a table without structure complements change nothing."""
    many = all_completions().rows(torch.arange(len(all_completions())).repeat(40))
    one, two, pair, eight = (
        float(drawn_score(estimator, many, 5).double().sum(dim=1).view(40, -1).var(dim=0).mean())
        for estimator in (Elbo(1, False), Elbo(2, False), Elbo(2, True), Elbo(8, False))
    )
    assert two < 0.5 * one and eight < 0.25 * two
    assert pair == pytest.approx(two, rel=0.2)


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_number_of_masked_tokens_is_uniform_and_stratified(antithetic: bool) -> None:
    rows, length = 40, 5
    ids = torch.zeros(rows, length).long()
    rollout = rollout_of(torch.full((rows, 1), 3), ids, ids)
    counts: Counter[int] = Counter()
    for seed in range(20):
        draw = Elbo(10, antithetic).draw(rollout, torch.Generator().manual_seed(seed))
        assert draw.shape == (rows, 10, length)
        masked = draw.sum(dim=2)
        counts.update(masked.flatten().tolist())
        if not antithetic:
            assert all(Counter(row) == dict.fromkeys(range(1, length + 1), 2) for row in masked.tolist())
    assert counts == dict.fromkeys(range(1, length + 1), 20 * rows * 10 // length)


def test_complements_leave_nothing_out_and_are_never_empty() -> None:
    masks = torch.tensor([[[True, False, False], [True, True, True]]])
    expected = [[True, False, False], [True, True, True], [False, True, True], [True, True, True]]
    assert with_complements(masks, masks.any(dim=1))[0].tolist() == expected
    with pytest.raises(ValueError, match="even"):
        Elbo(3).draw(all_completions(), torch.Generator())


# ------------------------------------------------------------------------------- a hidden tail, and masks of the prompt

STOP = 2


@cache
def ended_completions() -> Rollout:
    """All completions of four tokens, ended by token 2, behind a prompt with one token of padding."""
    ids = all_completions().completion_ids
    stops_before = (ids == STOP).cumsum(dim=1) - (ids == STOP).long()
    prompt_mask = torch.tensor([[False, True]]).expand(len(ids), -1)
    made = rollout_of(torch.tensor([[0, 3]]).expand(len(ids), -1), ids, torch.zeros_like(ids), prompt_mask)
    return replace(made, is_answer=stops_before == 0)


PADDED = TableDenoiser(width=2 + LENGTH, seed=3)


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_elbo_of_a_hidden_tail_is_the_mean_over_the_answers_orders(antithetic: bool) -> None:
    rollout, lengths = ended_completions(), ended_completions().is_answer.sum(dim=1)
    assert set(lengths.tolist()) == {1, 2, 3, 4}
    for row in (0, 13, 25, 26, 53, 80):
        length = int(lengths[row])
        draw = torch.nn.functional.pad(every_mask(length), (0, LENGTH - length))[None]
        one = rollout.rows(slice(row, row + 1))
        draw = with_complements(draw, one.is_answer) if antithetic else draw
        found = score(Elbo(tail="hidden"), one, draw, table=PADDED)[0]
        answer = one.completion_ids[0, :length].tolist()
        for i in range(LENGTH):
            orders = [order[: order.index(i)] for order in permutations(range(length)) if i < length]
            shown = [[answer[j] if j in visible else MASK for j in range(length)] for visible in orders]
            canvases = [[0, 3, *places, *[MASK] * (LENGTH - length)] for places in shown]
            expected = sum(PADDED.logp(canvas, 2 + i, hidden=1)[answer[i]] for canvas in canvases) / max(1, len(orders))
            assert float(found[i]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("antithetic", [False, True])
def test_masks_with_a_hidden_tail_are_of_the_answer_and_their_number_is_uniform(antithetic: bool) -> None:
    rollout, counts = ended_completions(), {length: Counter[int]() for length in range(1, 5)}
    for seed in range(60):
        draw = Elbo(4, antithetic, tail="hidden").draw(rollout, torch.Generator().manual_seed(seed))
        assert not bool((draw & ~rollout.is_answer[:, None]).any())
        for length, masked in zip(rollout.is_answer.sum(dim=1).tolist(), draw.sum(dim=2).tolist(), strict=True):
            counts[length].update(masked)
    for length, seen in counts.items():
        assert set(seen) == set(range(1, length + 1))
        expected = seen.total() / length
        assert all(abs(count - expected) < 5 * math.sqrt(expected) for count in seen.values())


def test_with_a_hidden_tail_nothing_behind_the_first_stop_token_is_shown_or_scored() -> None:
    rollout = ended_completions()
    estimator = Eubo(2, tail="hidden")
    plan = estimator(rollout, estimator.draw(rollout, torch.Generator().manual_seed(0)), MASK)
    assert plan.weight is not None
    assert not bool(plan.weight[:, ~rollout.is_answer].any())
    shown = plan.canvas[plan.source[:, :, 0]][:, :, 2:]
    assert bool((shown[:, ~rollout.is_answer] == MASK).all())
    assert bool((shown[:, rollout.is_answer] != MASK).any())


def test_prompt_tokens_are_masked_at_their_rate_and_padding_never() -> None:
    rollout = copies(ended_completions(), 0, 3000)
    for estimator in (Elbo(2, prompt_mask_rate=0.25), Eubo(2, prompt_mask_rate=0.25)):
        draw = estimator.draw(rollout, torch.Generator().manual_seed(0))
        assert draw.shape == (3000, 2, 2 + LENGTH)
        assert not bool(draw[:, :, 0].any())
        assert float(draw[:, :, 1].float().mean()) == pytest.approx(0.25, abs=0.025)
        plan = estimator(rollout, draw, MASK)
        prompts = plan.canvas[plan.source[:, :, 0]][:, :, :2].transpose(0, 1)
        assert torch.equal(prompts, torch.where(draw[:, :, :2], MASK, torch.tensor([0, 3])))
    plain = Elbo(2).draw(rollout, torch.Generator().manual_seed(0))
    masked = Elbo(2, prompt_mask_rate=0.25).draw(rollout, torch.Generator().manual_seed(0))
    assert torch.equal(masked[:, :, 2:], plain), "the masks of the completion are the same"


def test_complements_in_pairs_make_the_upper_bound_a_plain_log_probability() -> None:
    def surplus(antithetic: bool) -> list[Tensor]:
        """EUBO - log p of each token, in two models, on the same masks."""
        draw = Eubo(2, antithetic).draw(all_completions(), torch.Generator().manual_seed(0))
        found = []
        for table in (TABLE, TableDenoiser(width=1 + LENGTH, seed=1)):
            plan = Eubo(2, antithetic, beta=1.5, mix=1.0)(all_completions(), draw, MASK)
            logp = read(plan, all_completions(), table).logp(all_completions().completion_ids, 1.0)
            upper = score(Eubo(2, antithetic, 1.5, 1.0), all_completions(), draw, is_upper=True, table=table)
            is_full = draw.all(dim=2).any(dim=1)  # comes twice, as its own complement
            found.append((upper - logp.sum(dim=0))[~is_full])
        return found

    torch.testing.assert_close(*surplus(antithetic=True), atol=1e-4, rtol=1e-4)
    one, other = surplus(antithetic=False)
    assert float((one - other).abs().max()) > 0.1


# -------------------------------------------------------------------------------------------- likelihood and its bounds


@cache
def exact_logp() -> Tensor:
    """[B]: the log-likelihood of every completion where all orders are equally likely."""
    return torch.tensor([random_order_logp(TABLE, PROMPT, ids) for ids in COMPLETIONS])


def eubo(beta: float) -> Tensor:
    """Of every completion, over all masks: no Monte Carlo error."""
    return score(Eubo(beta=beta, mix=1.0), all_completions(), all_masks(), is_upper=True).sum(dim=1)


@pytest.mark.parametrize("beta", [1.0, 1.5, 4.0])
def test_the_eubo_over_all_masks_is_the_power_mean_over_all_orders(beta: float) -> None:
    expected = [
        sum(math.log(mean) / beta for mean in random_order_mean(TABLE, PROMPT, ids, lambda logp: math.exp(beta * logp)))
        for ids in COMPLETIONS
    ]
    torch.testing.assert_close(eubo(beta), torch.tensor(expected), atol=1e-3, rtol=1e-4)


def test_the_likelihood_lies_between_the_elbo_and_the_eubo_from_beta_l_on() -> None:
    assert float(exact_logp().exp().sum()) == pytest.approx(1, abs=1e-5)
    elbo = score(Elbo(), all_completions(), all_masks()).sum(dim=1)
    assert float((exact_logp() - elbo).min()) > 0
    for beta in (4.0, 8.0):
        assert float((eubo(beta) - exact_logp()).min()) > 0
    assert float((eubo(4.0) - eubo(1.0)).min()) > 0


@pytest.mark.parametrize("beta", [1.0, 1.5])
def test_a_published_beta_bounds_the_elbo_but_not_every_likelihood(beta: float) -> None:
    elbo = score(Elbo(), all_completions(), all_masks()).sum(dim=1)
    assert float((eubo(beta) - elbo).min()) > 0
    assert bool((eubo(beta) < exact_logp()).any())  # the constant that the formula drops is needed


def test_the_sandwich_reads_the_upper_bound_where_it_is_told_to() -> None:
    draw = Eubo(4).draw(all_completions(), torch.Generator().manual_seed(0))
    views = Eubo(4, beta=1.5, mix=0.25)(all_completions(), draw, MASK)
    found = read(views, all_completions())
    is_upper = torch.arange(len(all_completions())) % 2 == 0
    mixed = surrogate_logp(views, found.logp(all_completions().completion_ids, 1.0), found.is_needed, is_upper)
    lower, upper = (
        score(Elbo(4), all_completions(), draw),
        score(Eubo(4, beta=1.5, mix=1.0), all_completions(), draw, is_upper=True),
    )
    assert not torch.isclose(lower, upper).all()
    torch.testing.assert_close(mixed[~is_upper], lower[~is_upper])
    torch.testing.assert_close(mixed[is_upper], (0.25 * upper + 0.75 * lower)[is_upper])


def test_few_draws_put_the_eubo_too_low() -> None:
    row, count = 50, 4000
    whole = float(eubo(1.5)[row])
    few, many = (
        float(
            drawn_score(Eubo(draws, beta=1.5, mix=1.0), copies(all_completions(), row, count), 7, is_upper=True)
            .sum(dim=1)
            .mean()
        )
        for draws in (2, 32)
    )
    assert few < many < whole + 0.01
    assert whole - many < 0.3 * (whole - few)


def test_a_token_that_no_draw_masks_adds_nothing_and_has_a_gradient() -> None:
    draw = torch.tensor([True, False, False, True]).expand(len(all_completions()), 1, LENGTH)
    table = TableDenoiser(width=1 + LENGTH)
    table.table.requires_grad_(True)
    found = score(Eubo(1, antithetic=False, mix=1.0), all_completions(), draw, is_upper=True, table=table)
    assert bool((found[:, 1:3] == 0).all() and (found[:, ::3] != 0).all())
    (gradient,) = torch.autograd.grad(found.sum(), table.table)
    assert bool(gradient.isfinite().all() and gradient.any())


# -------------------------------------------------------------------------------------------------- the policy gradient


def reward_of(completion: tuple[int, ...], stop_ids: tuple[int, ...] = ()) -> float:
    """Any function of the completion up to its first stop token."""
    ends = [i for i, token in enumerate(completion) if token in stop_ids]
    completion = completion[: ends[0] + 1] if ends else completion
    return float(sum((i + 1) * token for i, token in enumerate(completion)) % 5)


def policy_gradient(
    table: TableDenoiser,
    estimator: Estimator,
    temperature: float,
    stop_ids: tuple[int, ...] = (),
    scored_tokens: ScoredTokens = "drawn",
    choose: Chooser | None = None,
) -> tuple[Tensor, Tensor]:
    """Of the objective with the estimator's log-probabilities, all trajectories weighed by what they are; and the true
    one, of the expected reward, by autograd through the enumerated probabilities.

    Where calls are drawn, the former is the mean over all draws."""
    length, choose = table.width - 1, choose or entropy_bound(0.6)
    known = trajectories(table, PROMPT, length, length, choose, temperature, stop_ids)
    ids, steps = (torch.tensor([key[part] for key in known]) for part in (0, 1))
    is_drawn = torch.tensor([trajectory.is_drawn for trajectory in known.values()])
    is_answer = torch.tensor([[not set(stop_ids) & set(key[0][:i]) for i in range(length)] for key in known])
    rollout = rollout_of(torch.full((len(known), 1), PROMPT[0]), ids, steps)
    logps = torch.tensor([trajectory.token_logp for trajectory in known.values()])
    rollout = replace(rollout, is_drawn=is_drawn, is_answer=is_answer, behaviour_logp=logps)
    is_scored = scored(rollout, scored_tokens)
    rewards = [reward_of(key[0], stop_ids) for key in known]
    weights = torch.tensor([trajectory.probability for trajectory in known.values()], dtype=torch.float64)
    table.table = table.table.double().requires_grad_(True)

    credit = weights * torch.tensor(rewards, dtype=torch.float64)
    draws = [(1.0, estimator.draw(rollout, torch.Generator()))]
    if isinstance(estimator, SampledExact):
        draws = every_draw(estimator, rollout)
    found = torch.zeros_like(table.table)
    for chance, draw in draws:
        plan = estimator(rollout, draw, MASK)
        logp = conditionals(table, plan, is_scored).logp(ids, temperature)
        terms = ClippedSurrogate(0.2)(logp, logp.detach(), logp.detach(), credit, is_scored)
        counts = is_scored if plan.loss_weight is None else is_scored * plan.loss_weight
        found += chance * torch.autograd.grad(-(counts * terms.loss).sum(), table.table)[0]

    expected_reward = torch.zeros((), dtype=torch.float64)
    for (completion, order), drawn, reward in zip(known, is_drawn.tolist(), rewards, strict=True):
        probability = torch.ones((), dtype=torch.float64)
        for position, token in enumerate(completion):
            if not drawn[position]:
                continue
            canvas = [*PROMPT, *(t if s < order[position] else MASK for t, s in zip(completion, order, strict=True))]
            index = sum(digit * (table.vocab + 1) ** place for place, digit in enumerate(canvas))
            logits = table.table[index, 1 + position] / temperature
            probability = probability * logits.softmax(dim=0)[token]
        expected_reward = expected_reward + probability * reward
    (true,) = torch.autograd.grad(expected_reward, table.table)
    return found, true


@pytest.mark.parametrize(
    "estimator",
    [SampledExact(1), SampledExact(2, "surprisal", "drawn"), SampledExact(1, "uniform", "drawn")],
    ids=str,
)
@pytest.mark.parametrize("stop_ids", [(), (2,)])
@pytest.mark.parametrize("bound", [0.0, 0.6])
def test_the_mean_gradient_of_sampled_calls_is_that_of_the_expected_reward(
    estimator: SampledExact, stop_ids: tuple[int, ...], bound: float
) -> None:
    found, true = policy_gradient(
        TableDenoiser(width=4, seed=2), estimator, 1.0, stop_ids, "drawn", entropy_bound(bound)
    )
    assert float(true.abs().max()) > 0.05
    torch.testing.assert_close(found, true, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_exact_estimators_gradient_is_that_of_the_expected_reward(temperature: float) -> None:
    found, true = policy_gradient(TableDenoiser(width=4, seed=2), Exact(), temperature)
    assert float(true.abs().max()) > 0.1
    torch.testing.assert_close(found, true, atol=1e-5, rtol=1e-5)
    mean_field, _ = policy_gradient(TableDenoiser(width=4, seed=2), MeanField(prompt_mask_rate=0.0), temperature)
    assert float((mean_field - true).abs().max()) > 0.05


@pytest.mark.parametrize("stop_ids", [(), (2,)])
@pytest.mark.parametrize("estimator", [Exact(), SampledExact(1)], ids=str)
def test_from_left_to_right_the_gradient_is_that_of_the_expected_reward(
    estimator: Estimator, stop_ids: tuple[int, ...]
) -> None:
    """JustGRPO. No token is drawn behind the first stop token, so that the answer's tokens are all that were drawn."""
    both: tuple[ScoredTokens, ...] = ("drawn", "to-stop")
    for scored_tokens in both:
        table = TableDenoiser(width=4, seed=2)
        found, true = policy_gradient(table, estimator, 0.7, stop_ids, scored_tokens, leftmost(1))
        assert float(true.abs().max()) > 0.02
        torch.testing.assert_close(found, true, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bound", [0.0, 0.6])
def test_tokens_drawn_behind_the_first_stop_token_belong_to_the_gradient(bound: float) -> None:
    def cosine(scored_tokens: ScoredTokens) -> float:
        table = TableDenoiser(width=4, seed=1)
        found, true = policy_gradient(table, Exact(), 1.0, (2,), scored_tokens, entropy_bound(bound))
        if scored_tokens == "drawn":
            torch.testing.assert_close(found, true, atol=1e-5, rtol=1e-5)
        return float(torch.nn.functional.cosine_similarity(found.flatten(), true.flatten(), dim=0))

    assert cosine("drawn") == pytest.approx(1, abs=1e-9)
    assert cosine("to-stop") < 0.91


# -------------------------------------------------------------------------------------------------------- what it costs


def shown_canvases(estimator: Estimator, prompts: int, group: int) -> int:
    """Canvases of one policy update on random rollouts of `prompts` x `group`, one token a call."""
    vocab, mask, length = 90, 1, 8
    rows, generator = prompts * group, torch.Generator().manual_seed(0)
    ids = torch.randint(2, vocab, (rows, length), generator=generator)
    steps = torch.rand(rows, length, generator=generator).argsort(dim=1)
    prompt_ids = (2 + torch.arange(prompts))[:, None].repeat_interleave(group, dim=0)
    rollout = rollout_of(prompt_ids, ids, steps)
    reward = torch.rand(prompts, group, generator=generator)
    batch = Batch(
        rollout=rollout,
        reward=reward,
        bound_reward=reward,
        is_solved=reward > 0.5,
        is_scored=torch.ones_like(ids, dtype=torch.bool),
        advantage=(reward - 0.5).flatten(),
        bound_advantage=torch.zeros(rows),
    )
    denoiser = tiny_llada(vocab, mask)
    update = PolicyUpdate(estimator, ClippedSurrogate(), "sequence-mean", 0.0, "full", 1.0, 1, False, None, 1.0)
    update_policy(denoiser, None, batch, update, torch.optim.SGD(denoiser.model.parameters(), 0.01), generator)
    return denoiser.usage.canvases


@pytest.mark.parametrize(("prompts", "group"), [(1, 8), (3, 4)])
def test_canvases_of_an_update(prompts: int, group: int) -> None:
    naive = prompts * group  # one pass over the batch that shares nothing
    cost = {
        estimator: shown_canvases(estimator, prompts, group) / naive
        for estimator in (
            MeanField(prompt_mask_rate=0.0), TwoTimesMeanField(), ManyTimesMeanField(4), Exact(), Coupled(),
            Elbo(2), Eubo(2, antithetic=True),
            Coupled(weighting="published"), SampledExact(2), SampledExact(2, first_call="drawn"),
        )
    }  # fmt: skip
    assert cost[MeanField(prompt_mask_rate=0.0)] == 1 / group
    assert 1 / group < cost[TwoTimesMeanField()] <= (1 + 1 / group) / 2 * 2
    assert 2 < cost[ManyTimesMeanField(4)] <= 3 + 1 / group
    assert cost[Exact()] == 7 + 1 / group
    assert cost[SampledExact(2)] == 2 + 1 / group
    assert cost[SampledExact(2, first_call="drawn")] <= 2
    assert cost[Coupled()] == 2
    assert cost[Coupled(weighting="published")] == 2 + 1 / group
    assert cost[Elbo(2)] == cost[Eubo(2, antithetic=True)] <= 2


# -------------------------------------------------------------------------------------------------------------- recipes


def recipe(tmp_path: Path, *overrides: str) -> RlRecipe:
    file = tmp_path / "run.toml"
    file.write_text('base = "somewhere"\n[budget]\nsteps = 1\n', encoding="utf-8")
    return load_recipe(RlRecipe, str(file), overrides)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (["kind=many-times-mean-field", "boundaries=3"], ManyTimesMeanField(3)),
        (["kind=exact"], Exact()),
        (["kind=coupled", "weighting=published", "max_rate=0.5"], Coupled(0.2, 0.5, "published")),
        (["kind=elbo", "draws=3", "antithetic=false"], Elbo(3, False)),
        (["kind=eubo", "draws=4", "beta=2.0", "mix=0.25"], Eubo(4, False, 2.0, 0.25, "hidden")),
    ],
)
def test_kinds_become_parts(settings: list[str], part: Estimator, tmp_path: Path) -> None:
    found = recipe(tmp_path, *(f"estimator.{setting}" for setting in settings))
    assert build_estimator(found.estimator) == part


@pytest.mark.parametrize("settings", [["kind=elbo"], ["kind=eubo"], ["kind=coupled", "weighting=published"]])
def test_importance_weights_need_one_reading_of_each_token(settings: list[str], tmp_path: Path) -> None:
    overrides = [f"estimator.{setting}" for setting in settings]
    recipe(tmp_path, *overrides)
    with pytest.raises(UserError, match=r"importance_cap compares each token.*leave importance_cap out"):
        recipe(tmp_path, *overrides, "objective.importance_cap=2.0")


@pytest.mark.parametrize("kind", ["mean-field", "two-times-mean-field", "many-times-mean-field", "exact", "coupled"])
def test_importance_weights_go_with_every_estimator_that_has_it(kind: str, tmp_path: Path) -> None:
    objective = recipe(tmp_path, f"estimator.kind={kind}", "objective.importance_cap=2.0").objective
    assert objective == ClippedSurrogateObjective(importance_cap=2.0)


def test_odd_antithetic_draws_and_swapped_rates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pairs"):
        recipe(tmp_path, "estimator.kind=elbo", "estimator.draws=3")
    with pytest.raises(UserError, match="swap"):
        recipe(tmp_path, "estimator.kind=coupled", "estimator.min_rate=0.9")


def test_a_hidden_tail_cannot_be_scored(tmp_path: Path) -> None:
    assert recipe(tmp_path, "estimator.kind=elbo", "objective.scored_tokens=drawn").estimator.kind == "elbo"
    with pytest.raises(UserError, match=r"scored_tokens = 'drawn'.*tail = 'hidden'.*use tail = 'shown'"):
        recipe(tmp_path, "estimator.kind=eubo", "objective.scored_tokens=drawn")
