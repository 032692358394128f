"""Unmasking rules against their definitions in the papers, applied row by row and subset by subset."""

import math
from collections.abc import Sequence
from itertools import chain, combinations

import pytest
import torch
from tests.helpers.oracle import (
    TableDenoiser,
    capped_sum,
    confidence_threshold,
    entropy_bound,
    entropy_bound_count,
    entropy_of,
    leftmost,
    log_softmax,
    margin,
    top_k,
)
from tests.helpers.sampling import sample_with
from torch import Tensor

from diffpo.core.canvas import completion_mask, open_block
from diffpo.sampling.rules import (
    CappedSum,
    ConfidenceThreshold,
    EntropyBound,
    Leftmost,
    LowConfidence,
    Margin,
    Rule,
    TopK,
    entropy,
)

BOUNDS = [0.0, 0.01, 0.1, 0.5, 2.0, math.inf]
LENGTH, VOCAB = 7, 5


def ragged(seed: int, rows: int = 40, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of every position, candidates (row 0 has none, row 1 has all), and drawn tokens."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, LENGTH, VOCAB, generator=generator)
    is_candidate = torch.rand(rows, LENGTH, generator=generator) < torch.rand(rows, 1, generator=generator)
    is_candidate[0], is_candidate[1] = False, True
    return logits, is_candidate, torch.randint(VOCAB, (rows, LENGTH), generator=generator)


def selected(
    rule: Rule, logits: Tensor, is_candidate: Tensor, drawn: Tensor, row_bound: Tensor | None = None
) -> list[set[int]]:
    chosen = rule.select(rule.score(logits, drawn), is_candidate, row_bound)
    return [set(row.nonzero().flatten().tolist()) for row in chosen]


def probabilities(logits: Tensor, is_candidate: Tensor) -> list[dict[int, list[float]]]:
    return [
        {i: [math.exp(value) for value in log_softmax(row[i].tolist())] for i in range(LENGTH) if bool(candidates[i])}
        for row, candidates in zip(logits, is_candidate, strict=True)
    ]


def entropies(logits: Tensor, is_candidate: Tensor) -> list[dict[int, float]]:
    rows = probabilities(logits, is_candidate)
    return [{position: entropy_of(p) for position, p in row.items()} for row in rows]


@pytest.mark.parametrize("subtract_max", [True, False])
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("seed", range(3))
def test_entropy_bound_is_its_definition(bound: float, subtract_max: bool, seed: int) -> None:
    logits, is_candidate, drawn = ragged(seed)
    choose = entropy_bound(bound, subtract_max)
    expected = [choose(row) if row else set() for row in probabilities(logits, is_candidate)]
    assert selected(EntropyBound(bound, subtract_max), logits, is_candidate, drawn) == expected


@pytest.mark.parametrize("bound", BOUNDS)
def test_entropy_bound_is_the_longest_prefix_within_the_bound(bound: float) -> None:
    logits, is_candidate, drawn = ragged(seed=3)
    chosen = selected(EntropyBound(bound), logits, is_candidate, drawn)
    for found, row in zip(chosen, entropies(logits, is_candidate), strict=True):
        order = sorted(row, key=lambda position: row[position])
        prefixes = [order[:k] for k in range(1, len(order) + 1)]
        within = [prefix for prefix in prefixes if sum(row[i] for i in prefix[:-1]) <= bound]
        assert found == set(within[-1] if within else [])


@pytest.mark.parametrize("bound", [0.1, 0.5, 2.0])
def test_no_larger_set_keeps_within_the_bound(bound: float) -> None:
    logits, is_candidate, drawn = ragged(seed=4)
    chosen = selected(EntropyBound(bound), logits, is_candidate, drawn)
    for found, row in zip(chosen, entropies(logits, is_candidate), strict=True):
        subsets = chain.from_iterable(combinations(row.values(), size) for size in range(1, len(row) + 1))
        largest = max((len(s) for s in subsets if sum(s) - max(s) <= bound + 1e-6), default=0)
        assert len(found) == largest


@pytest.mark.parametrize(
    ("bound", "subtract_max", "expected"),
    [
        # H in rising order 0.25 (position 1), 0.25 (2), 0.5 (0): sum - max is 0, 0.25, 0.5; the plain sum .25, .5, 1.
        (0.0, True, {1}),
        (0.249, True, {1}),
        (0.25, True, {1, 2}),
        (0.5, True, {0, 1, 2}),
        (0.25, False, {1}),
        (0.5, False, {1, 2}),
        (0.999, False, {1, 2}),
        (1.0, False, {0, 1, 2}),
    ],
)
def test_entropy_bound_by_hand_includes_equality(bound: float, subtract_max: bool, expected: set[int]) -> None:
    score = torch.tensor([[0.5, 0.25, 0.25]])
    chosen = EntropyBound(bound, subtract_max).select(score, torch.ones(1, 3, dtype=torch.bool))
    assert set(chosen[0].nonzero().flatten().tolist()) == expected


def test_every_row_has_its_own_bound() -> None:
    logits, is_candidate, drawn = ragged(seed=5)
    bounds = torch.tensor([BOUNDS[row % len(BOUNDS)] for row in range(len(logits))])
    together = selected(EntropyBound(123.0), logits, is_candidate, drawn, bounds)
    for row, bound in enumerate(bounds.tolist()):
        one = slice(row, row + 1)
        assert together[row] == selected(EntropyBound(bound), logits[one], is_candidate[one], drawn[one])[0]


@pytest.mark.parametrize("scale", [2.0, 1e4], ids=["smooth", "entropy-rounds-to-zero"])
@pytest.mark.parametrize("block_length", [4, 2])
@pytest.mark.parametrize("subtract_max", [True, False])
def test_bound_zero_takes_a_call_per_token_and_infinity_one_per_block(
    scale: float, block_length: int, subtract_max: bool
) -> None:
    denoiser = TableDenoiser(width=5, scale=scale)
    prompt = torch.tensor([[0], [2], [3]])

    def nfe(bound: float) -> list[int]:
        rule = EntropyBound(bound, subtract_max)
        seen = torch.ones_like(prompt, dtype=torch.bool)
        calls: list[int] = sample_with(
            denoiser, prompt, seen, length=4, block_length=block_length, rule=rule
        ).nfe.tolist()
        return calls

    assert nfe(0.0) == [4, 4, 4]
    assert nfe(math.inf) == [4 // block_length] * 3


def test_entropy_is_shannons_and_never_zero() -> None:
    logits, is_candidate, _ = ragged(seed=6)
    expected = [list(row.values()) for row in entropies(logits, torch.ones_like(is_candidate))]
    torch.testing.assert_close(entropy(logits), torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert float(entropy(torch.tensor([0.0, 1e4]))) > 0
    assert float(entropy(torch.zeros(4))) == pytest.approx(math.log(4))


RULES: Sequence[Rule] = [
    EntropyBound(0.0),
    EntropyBound(0.5),
    EntropyBound(0.5, subtract_max=False),
    EntropyBound(math.inf),
    CappedSum(0.5, 0.2),
    CappedSum(math.inf, 0.0),
    CappedSum(0.0, math.inf),
    ConfidenceThreshold(0.0),
    ConfidenceThreshold(0.8),
    ConfidenceThreshold(1.1),
    Margin(0.0),
    Margin(0.8),
    Margin(1.1),
    Leftmost(1),
    Leftmost(LENGTH + 5),
    TopK(1),
    TopK(3),
    TopK(LENGTH + 5),
    LowConfidence(2),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("scale", [0.0, 3.0, 1e4])
def test_commits_only_candidates_and_at_least_one_where_there_is_one(rule: Rule, scale: float) -> None:
    logits, is_candidate, drawn = ragged(seed=7, scale=scale)
    chosen = rule.select(rule.score(logits, drawn), is_candidate)
    assert not (chosen & ~is_candidate).any()
    assert torch.equal(chosen.any(dim=1), is_candidate.any(dim=1))


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9, 1.1])
def test_confidence_threshold_is_its_definition(threshold: float) -> None:
    logits, is_candidate, drawn = ragged(seed=8)
    choose = confidence_threshold(threshold)
    expected = [choose(row) if row else set() for row in probabilities(logits, is_candidate)]
    assert selected(ConfidenceThreshold(threshold), logits, is_candidate, drawn) == expected


def test_confidence_equal_to_the_threshold_is_enough() -> None:
    chosen = ConfidenceThreshold(0.5).select(torch.tensor([[0.5, 0.75, 0.25]]), torch.ones(1, 3, dtype=torch.bool))
    assert chosen.tolist() == [[True, True, False]]


@pytest.mark.parametrize("cap", [0.0, 0.05, 0.2, 0.6, math.inf])
@pytest.mark.parametrize("bound", BOUNDS)
def test_capped_sum_is_its_definition(bound: float, cap: float) -> None:
    logits, is_candidate, drawn = ragged(seed=12)
    choose = capped_sum(bound, cap)
    expected = [choose(row) if row else set() for row in probabilities(logits, is_candidate)]
    assert selected(CappedSum(bound, cap), logits, is_candidate, drawn) == expected


@pytest.mark.parametrize(
    ("bound", "cap", "expected"),
    [
        # H in rising order 0.125 (position 1), 0.25 (2), 0.5 (0).
        (0.375, 0.25, {1, 2}),
        (0.374, 0.25, {1}),
        (9.0, 0.25, {1, 2}),
        (9.0, 0.249, {1}),
        (9.0, 0.1, {1}),
        (0.0, 9.0, {1}),
        (0.875, 0.5, {0, 1, 2}),
    ],
)
def test_capped_sum_by_hand_includes_equality(bound: float, cap: float, expected: set[int]) -> None:
    score = torch.tensor([[0.5, 0.125, 0.25]])
    chosen = CappedSum(bound, cap).select(score, torch.ones(1, 3, dtype=torch.bool))
    assert set(chosen[0].nonzero().flatten().tolist()) == expected


def test_capped_sum_without_a_cap_is_the_plain_sum() -> None:
    logits, is_candidate, drawn = ragged(seed=13)
    plain_sum = selected(EntropyBound(0.5, subtract_max=False), logits, is_candidate, drawn)
    assert selected(CappedSum(0.5, math.inf), logits, is_candidate, drawn) == plain_sum
    assert selected(CappedSum(0.5, 0.2), logits, is_candidate, drawn) != plain_sum


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.8, 1.1])
def test_margin_is_its_definition(threshold: float) -> None:
    logits, is_candidate, drawn = ragged(seed=14)
    choose = margin(threshold)
    expected = [choose(row) if row else set() for row in probabilities(logits, is_candidate)]
    assert selected(Margin(threshold), logits, is_candidate, drawn) == expected


def test_margin_by_hand() -> None:
    # .5 - .25 and .75 - .125: two sure tokens, or the surer one.
    logits = torch.tensor([[[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]]]).log()
    score = Margin().score(logits, torch.zeros(1, 2, dtype=torch.long))
    torch.testing.assert_close(score, torch.tensor([[0.25, 0.625]]))
    both = torch.ones(1, 2, dtype=torch.bool)
    exact = torch.tensor([[0.25, 0.625]])
    assert [Margin(t).select(exact, both).tolist() for t in (0.25, 0.626)] == [[[True, True]], [[False, True]]]


@pytest.mark.parametrize("k", [1, 2, LENGTH, LENGTH + 3])
def test_leftmost_is_its_definition(k: int) -> None:
    logits, is_candidate, drawn = ragged(seed=15)
    expected = [leftmost(k)(row) for row in probabilities(logits, is_candidate)]
    assert selected(Leftmost(k), logits, is_candidate, drawn) == expected
    assert [len(row) for row in expected] == is_candidate.sum(dim=1).clamp(max=k).tolist()


@pytest.mark.parametrize("k", [1, 2, LENGTH, LENGTH + 3])
def test_top_k_is_its_definition(k: int) -> None:
    logits, is_candidate, drawn = ragged(seed=9)
    expected = [top_k(k)(row) for row in probabilities(logits, is_candidate)]
    assert selected(TopK(k), logits, is_candidate, drawn) == expected
    assert [len(row) for row in expected] == is_candidate.sum(dim=1).clamp(max=k).tolist()


def test_low_confidence_is_top_k_at_temperature_zero_only() -> None:
    logits, is_candidate, drawn = ragged(seed=10)
    greedy = logits.argmax(dim=-1)
    assert selected(LowConfidence(2), logits, is_candidate, greedy) == selected(TopK(2), logits, is_candidate, greedy)
    assert selected(LowConfidence(2), logits, is_candidate, drawn) != selected(TopK(2), logits, is_candidate, drawn)


def test_only_the_rule_that_looks_at_drawn_tokens_says_that_it_is_not_exact() -> None:
    logits, _, drawn = ragged(seed=11)
    other = (drawn + 1) % VOCAB
    for rule in RULES:
        looks_at_drawn = not torch.equal(rule.score(logits, drawn), rule.score(logits, other))
        assert rule.is_exact is not looks_at_drawn


def test_entropy_bound_count_by_hand() -> None:
    # The oracle itself: H = .1 .2 .4; sum - max = 0, .1, .3; plain sum .1, .3, .7 (the first is committed regardless).
    assert [entropy_bound_count([0.1, 0.2, 0.4], bound) for bound in (0.0, 0.15, 0.31)] == [1, 2, 3]
    assert [entropy_bound_count([0.1, 0.2, 0.4], bound, False) for bound in (0.0, 0.15, 0.31)] == [1, 1, 2]


def test_the_open_block_is_the_first_with_a_mask() -> None:
    is_masked = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]]).bool()
    expected = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]]).bool()
    assert torch.equal(open_block(is_masked, 2), expected)
    assert torch.equal(open_block(is_masked, 4), is_masked)


def test_the_completion_ends_with_its_first_stop_token() -> None:
    ids = torch.tensor([[5, 9, 5, 9], [5, 5, 5, 5], [8, 9, 5, 5], [5, 5, 5, 9]])
    expected = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    assert torch.equal(completion_mask(ids, (9, 8)), expected)
    assert bool(completion_mask(ids, ()).all())
