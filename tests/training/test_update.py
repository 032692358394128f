"""Updates against slow sums and enumeration: the gradient is the right one, however the batch is cut."""

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from typing import Any, ClassVar

import pytest
import torch
from tests.helpers.marks import computes_in_bfloat16
from tests.helpers.oracle import TableDenoiser, entropy_bound, rollout_of, tiny_llada, trajectories
from tests.helpers.sampled import every_draw
from torch import Tensor

from diffpo.core.canvas import canvas_at, completion_mask, full_attention_mask
from diffpo.core.errors import NonFiniteLossError, UserError
from diffpo.core.rollout import Rollout
from diffpo.likelihood import (
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
)
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.encoding import encode_prompts
from diffpo.models.tokenizer import char_tokenizer, encode_text
from diffpo.objective.base import Credit, Groups, Objective, PolicyLoss, token_loss, token_weights
from diffpo.objective.clipped import ClippedSurrogate
from diffpo.objective.dmpo import DistributionMatching, Target, Wddo
from diffpo.objective.policy_gradient import Reinforce, WeightedLikelihood
from diffpo.sampling.controller import Controller, entropy_features
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import Policy
from diffpo.sampling.rules import EntropyBound
from diffpo.tasks.base import Grade, Problem, Split
from diffpo.training.controller_update import update_controller
from diffpo.training.policy_update import rows_in_update, update_policy
from diffpo.training.rollouts import Batch, Incentive, collect_batch
from diffpo.training.update_settings import PolicyUpdate


@dataclass(frozen=True)
class EvenFirst:
    """Prompts of different lengths; solved where the first digit is even, half a point where it is 1."""

    name: str = "even-first"
    alphabet: str = "1234.="
    completion_length: int = 16

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        prompts = ["12.4=", "3=", "4..1="][:count]
        return [Problem(prompt, prompt, answer="2", cluster=prompt) for prompt in prompts]

    def grade(self, problem: Problem, completion: str) -> Grade:
        is_solved = completion[:1] in ("2", "4")
        return Grade(1.0 if is_solved else 0.5 * (completion[:1] == "1"), {"solved": float(is_solved)})


TASK = EvenFirst()
TOKENIZER = char_tokenizer(TASK.alphabet)
MASK, STOP = TOKENIZER.mask_token_id, TOKENIZER.eos_token_id
PROMPTS, GROUP, LENGTH = 3, 4, 16
ROWS = PROMPTS * GROUP
DRAW_SEED = 5


def new_denoiser(seed: int = 0) -> ModelDenoiser:
    return tiny_llada(len(TOKENIZER), MASK, (STOP,), seed)


def noise(reward: Tensor) -> Tensor:
    return torch.randn(reward.shape, generator=torch.Generator().manual_seed(1))


def new_batch(temperature: float = 1.0, **options: Any) -> Batch:
    """Rollouts of a random model, three prompts by four completions; unless told, the credit is noise."""
    settings: dict[str, Any] = {
        "group_size": GROUP,
        "nfe_penalty": 0.5,
        "bound_nfe_penalty": 0.5,
        "advantage": noise,
        "bound_advantage": noise,
        "seed": 2,
        "scored_tokens": "to-stop",
        "decoding": Decoding(EntropyBound(2.0), LENGTH, 8, temperature),
    } | options
    return collect_batch(
        Policy(new_denoiser(), TOKENIZER),
        TASK,
        TASK.problems("train", PROMPTS, seed=0),
        settings["decoding"],
        settings["group_size"],
        Incentive(settings["nfe_penalty"], settings["advantage"]),
        Incentive(settings["bound_nfe_penalty"], settings["bound_advantage"]),
        torch.Generator().manual_seed(settings["seed"]),
        settings["scored_tokens"],
    )


@cache
def warm_batch() -> Batch:
    """The batch that most tests share, at temperature 1."""
    return new_batch()


@cache
def cool_batch() -> Batch:
    return new_batch(temperature=0.7)


def as_one_group(rows: Tensor) -> Batch:
    """Some rows, as if they were completions of one prompt."""
    some = warm_batch().rows(rows)
    per_prompt = {
        name: getattr(warm_batch(), name).flatten()[rows][None] for name in ("reward", "bound_reward", "is_solved")
    }
    return replace(some, **per_prompt)


def settings_of(estimator: Estimator, **changes: Any) -> PolicyUpdate:
    plain = PolicyUpdate(
        estimator=estimator,
        objective=ClippedSurrogate(clip=0.2, importance_cap=2.0),
        loss_aggregation="sequence-mean",
        kl_coef=0.0,
        kl_estimator="full",
        temperature=1.0,
        num_iterations=1,
        redraw=False,
        micro_batch_size=None,
        grad_clip=1e9,
    )
    return replace(plain, **changes)


def weights_of(denoiser: ModelDenoiser) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in denoiser.model.parameters()])


def step(
    batch: Batch, update: PolicyUpdate, base: ModelDenoiser | None = None, lr: float = 0.01
) -> tuple[Tensor, dict[str, float]]:
    """What SGD adds to the weights, over the learning rate (minus the gradient if there is one step); and metrics."""
    denoiser = new_denoiser()
    before = weights_of(denoiser)
    optimizer = torch.optim.SGD(denoiser.model.parameters(), lr=lr)
    metrics = update_policy(denoiser, base, batch, update, optimizer, torch.Generator().manual_seed(DRAW_SEED))
    return (weights_of(denoiser) - before) / lr, metrics


@dataclass(frozen=True)
class FixedBoundary:
    """2-MF whose draw is given."""

    steps: Tensor

    def draw(self, rollout: Rollout, generator: torch.Generator) -> Tensor:
        return self.steps

    def __call__(self, rollout: Rollout, draw: Tensor, mask_id: int) -> ScoringPlan:
        return TwoTimesMeanField()(rollout, draw, mask_id)


@dataclass(frozen=True)
class Spy(ClippedSurrogate):
    """The objective, with everything that passed through it."""

    seen: list[tuple[Tensor, Tensor, PolicyLoss]] = field(default_factory=list)

    def __call__(
        self, logp: Tensor, old_logp: Tensor, behaviour_logp: Tensor, advantage: Tensor, is_scored: Tensor
    ) -> PolicyLoss:
        found = super().__call__(logp, old_logp, behaviour_logp, advantage, is_scored)
        self.seen.append((logp.detach(), old_logp, found))
        return found


ESTIMATORS: list[Estimator] = [
    MeanField(0.0),
    MeanField(0.3),
    TwoTimesMeanField(),
    ManyTimesMeanField(3),
    Exact(),
    SampledExact(2),
    SampledExact(1, "surprisal", "drawn"),
    Coupled(),
    Coupled(weighting="published"),
    Elbo(2),
    Eubo(2, antithetic=False),
]


def test_the_batch_is_worth_testing_on() -> None:
    lengths = warm_batch().is_scored.sum(dim=1)
    assert len(set(lengths.tolist())) > 3 and int(lengths.max()) > 8
    assert len(set(warm_batch().rollout.nfe.tolist())) > 3
    assert not warm_batch().rollout.prompt_mask.all()


# ------------------------------------------------------------------------------------------- ratios, and the gradient


@pytest.mark.parametrize("micro_batch_size", [None, 5])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_every_policy_ratio_is_one_at_the_first_inner_step(estimator: Estimator, micro_batch_size: int | None) -> None:
    spy = Spy(0.2, 2.0)
    _, metrics = step(
        warm_batch(), settings_of(estimator, objective=spy, num_iterations=2, micro_batch_size=micro_batch_size), lr=0.1
    )
    parts = len(spy.seen) // 2
    assert parts == (1 if micro_batch_size is None else 3)
    for (_, old, first), (_, later_old, later) in zip(spy.seen[:parts], spy.seen[parts:], strict=True):
        torch.testing.assert_close(first.policy_ratio, torch.ones_like(old), atol=1e-5, rtol=0)
        assert torch.equal(old, later_old)
        assert not torch.allclose(later.policy_ratio, torch.ones_like(old), atol=1e-3)
    assert metrics["policy_ratio"] != pytest.approx(1, abs=1e-5)  # the mean of both inner steps


def test_tokens_committed_at_the_boundary_have_importance_weight_one() -> None:
    steps = cool_batch().rollout.nfe // 2
    spy = Spy(0.2, 1e6)
    step(cool_batch(), settings_of(FixedBoundary(steps), objective=spy, temperature=0.7))
    is_at = (cool_batch().rollout.unmask_step == steps[:, None]) & cool_batch().is_scored
    ((_, _, found),) = spy.seen
    assert int(is_at.sum()) > 10
    torch.testing.assert_close(found.importance_weight[is_at], torch.ones(int(is_at.sum())), atol=1e-4, rtol=0)


@pytest.mark.parametrize("loss_aggregation", ["sequence-mean", "token-mean"])
@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_the_first_step_is_weighted_reinforce_token_by_token(kl: float, loss_aggregation: Any) -> None:
    temperature, cap = 0.7, 1.5
    steps = cool_batch().rollout.nfe // 2
    objective = ClippedSurrogate(0.2, cap)
    update = settings_of(
        FixedBoundary(steps),
        objective=objective,
        loss_aggregation=loss_aggregation,
        kl_coef=kl,
        temperature=temperature,
        micro_batch_size=5,
    )
    base = new_denoiser(seed=7) if kl else None
    found, metrics = step(cool_batch(), update, base)

    denoiser, rollout = new_denoiser(), cool_batch().rollout
    counts = cool_batch().is_scored.sum(dim=1).tolist()
    loss, divergence = torch.zeros(()), 0.0
    attention_mask = full_attention_mask(rollout.prompt_mask, LENGTH)
    views = [canvas_at(rollout, boundary, MASK) for boundary in (torch.zeros_like(steps), steps)]
    policy = [denoiser.model(canvas, attention_mask).logits[:, -LENGTH:] for canvas in views]
    base_policy = [base.model(canvas, attention_mask).logits[:, -LENGTH:].detach() for canvas in views] if base else []
    is_token = torch.arange(len(TOKENIZER)) != MASK
    for row, position in cool_batch().is_scored.nonzero().tolist():
        late = int(rollout.unmask_step[row, position] >= steps[row])
        # Without the mask's place: ids above it move down by one.
        logits = policy[late][row, position][is_token]
        token = int(rollout.completion_ids[row, position])
        logp = (logits / temperature).log_softmax(-1)[token - (token > MASK)]
        importance = min(cap, math.exp(float(logp.detach()) - float(rollout.behaviour_logp[row, position])))
        term = -importance * float(cool_batch().advantage[row]) * logp
        weight = 1 / counts[row] / ROWS if loss_aggregation == "sequence-mean" else 1 / sum(counts)
        if base:
            held = base_policy[late][row, position][is_token].log_softmax(-1)
            gap = (logits.softmax(-1) * (logits.log_softmax(-1) - held)).sum()
            term = term + kl * gap
            divergence += weight * float(gap.detach())
        loss = loss + weight * term
    loss.backward()
    expected = -torch.cat([p.grad.flatten() for p in denoiser.model.parameters() if p.grad is not None])
    assert float(expected.abs().max()) > 0.05
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=1e-3)
    assert metrics["grad_norm"] == pytest.approx(float(expected.norm()), rel=1e-3)
    if base:
        assert metrics["kl"] == pytest.approx(divergence, rel=1e-4)


BOUNDS = [Elbo(3, False), Eubo(3, beta=1.5, mix=0.25, tail="shown"), Eubo(3, beta=1.5, mix=0.25)]


@pytest.mark.parametrize("kl_estimator", ["full", "k2", "k3"])
@pytest.mark.parametrize("estimator", BOUNDS, ids=str)
def test_the_first_step_on_a_bound_is_its_gradient_token_by_token(estimator: Elbo | Eubo, kl_estimator: Any) -> None:
    temperature, kl, base = 0.7, 0.3, new_denoiser(seed=7)
    update = settings_of(
        estimator,
        objective=ClippedSurrogate(0.2),
        kl_coef=kl,
        kl_estimator=kl_estimator,
        temperature=temperature,
        micro_batch_size=5,
    )
    found, metrics = step(cool_batch(), update, base)

    denoiser, rollout = new_denoiser(), cool_batch().rollout
    masks = estimator.draw(rollout, torch.Generator().manual_seed(DRAW_SEED))
    attention_mask = full_attention_mask(rollout.prompt_mask, LENGTH)
    policy, base_policy = [], []
    is_bounded = rollout.is_answer if estimator.tail == "hidden" else torch.ones_like(rollout.is_answer)
    for k in range(3):
        canvas = torch.cat(
            [rollout.prompt_ids, rollout.completion_ids.masked_fill(masks[:, k] | ~is_bounded, MASK)], dim=1
        )
        policy.append(denoiser.model(canvas, attention_mask).logits[:, -LENGTH:])
        base_policy.append(base.model(canvas, attention_mask).logits[:, -LENGTH:].detach())
    is_token = torch.arange(len(TOKENIZER)) != MASK
    loss, divergence = torch.zeros(()), 0.0
    for row, position in cool_batch().is_scored.nonzero().tolist():
        token = int(rollout.completion_ids[row, position])
        token -= token > MASK
        advantage = float(cool_batch().advantage[row])
        lower, power, gap = torch.zeros(()), torch.zeros(()), torch.zeros(())
        for k in range(3):
            if not masks[row, k, position]:
                continue
            weight = int(is_bounded[row].sum()) / int(masks[row, k].sum()) / 3
            logits, held = (x[k][row, position][is_token] for x in (policy, base_policy))
            logp, base_logp = ((x / temperature).log_softmax(-1)[token] for x in (logits, held))
            lower = lower + weight * logp
            power = power + weight * logp.exp() ** 1.5
            if kl_estimator == "full":
                gap = gap + weight * (logits.softmax(-1) * (logits.log_softmax(-1) - held.log_softmax(-1))).sum()
            elif kl_estimator == "k2":
                gap = gap + weight * (logp - base_logp) ** 2 / 2
            else:
                gap = gap + weight * ((base_logp - logp).exp() - (base_logp - logp) - 1)
        value = lower
        if isinstance(estimator, Eubo) and advantage < 0 and float(power.detach()):
            value = 0.25 * power.log() / 1.5 + 0.75 * lower
        share = 1 / int(cool_batch().is_scored[row].sum()) / ROWS
        loss = loss + share * (-advantage * value + kl * gap)
        divergence += share * float(gap.detach())
    loss.backward()
    expected = -torch.cat([p.grad.flatten() for p in denoiser.model.parameters() if p.grad is not None])
    assert float(expected.abs().max()) > 0.05
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=1e-3)
    assert metrics["kl"] == pytest.approx(divergence, rel=1e-4)


@pytest.mark.parametrize("kl_estimator", ["full", "k3"])
def test_a_micro_batch_that_masks_no_scored_token_adds_nothing(kl_estimator: Any) -> None:
    batch = as_one_group((~warm_batch().is_scored).any(dim=1).nonzero().flatten())
    assert len(batch.rollout) > 1

    @dataclass(frozen=True)
    class TailOnly(Elbo):
        def draw(self, rollout: Rollout, generator: torch.Generator) -> Tensor:
            return ~batch.is_scored[:, None]

    update = settings_of(
        TailOnly(1, False), objective=ClippedSurrogate(), kl_coef=0.1, kl_estimator=kl_estimator, micro_batch_size=1
    )
    moved, metrics = step(batch, update, new_denoiser(seed=7))
    assert not moved.any() and metrics["kl"] == 0 and metrics["grad_norm"] == 0


def test_the_kl_to_itself_pulls_nowhere() -> None:
    quiet = replace(warm_batch(), advantage=torch.zeros(ROWS))
    for kind in ("full", "k1", "k2", "k3"):
        moved, metrics = step(
            quiet, settings_of(TwoTimesMeanField(), kl_coef=1.0, kl_estimator=kind), base=new_denoiser()
        )
        assert moved.abs().max() < 1e-4
        assert abs(metrics["kl"]) < 1e-5


def test_k3_is_read_on_the_drawn_tokens() -> None:
    base, temperature = new_denoiser(seed=7), 0.7
    update = settings_of(
        MeanField(prompt_mask_rate=0.0),
        kl_coef=1.0,
        kl_estimator="k3",
        temperature=temperature,
        loss_aggregation="token-mean",
    )
    _, metrics = step(cool_batch(), update, base)
    views = MeanField(prompt_mask_rate=0.0)(cool_batch().rollout, cool_batch().rollout.prompt_mask & False, MASK)
    with torch.no_grad():
        logp, base_logp = (
            conditionals(d, views, cool_batch().is_scored).logp(cool_batch().rollout.completion_ids, temperature)[
                cool_batch().is_scored
            ]
            for d in (new_denoiser(), base)
        )
    expected = ((base_logp - logp).exp() - (base_logp - logp) - 1).mean()
    assert metrics["kl"] == pytest.approx(float(expected), rel=1e-4)


def test_unscored_tokens_change_nothing() -> None:
    is_tail = ~warm_batch().is_scored
    ids = torch.where(is_tail, 0, warm_batch().rollout.completion_ids)
    logp = torch.where(is_tail, -3.0, warm_batch().rollout.behaviour_logp)
    other = replace(warm_batch(), rollout=replace(warm_batch().rollout, completion_ids=ids, behaviour_logp=logp))
    found, expected = (step(batch, settings_of(MeanField(prompt_mask_rate=0.0)))[0] for batch in (other, warm_batch()))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_unscored_tokens_cannot_poison_the_loss() -> None:
    """What k3 would say of a tail token, had it been drawn at the first scored place, is beyond float32."""

    def shifted(denoiser: ModelDenoiser, shift: float) -> ModelDenoiser:
        def add(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
            output.logits = output.logits.index_put((torch.tensor(0), torch.tensor(STOP)), torch.tensor(shift), True)
            return output

        denoiser.model.register_forward_hook(add, with_kwargs=True)
        return denoiser

    rows = (warm_batch().rollout.completion_ids[:, 0] != STOP).nonzero().flatten()
    assert not warm_batch().is_scored[rows].all()
    batch = as_one_group(rows)
    denoiser, base = shifted(new_denoiser(), -200.0), new_denoiser(seed=7)
    optimizer = torch.optim.SGD(denoiser.model.parameters(), lr=0.01)
    update = settings_of(MeanField(prompt_mask_rate=0.0), kl_coef=0.1, kl_estimator="k3")
    assert math.isfinite(update_policy(denoiser, base, batch, update, optimizer, torch.Generator())["loss"])


def test_every_inner_step_has_its_own_gradient() -> None:
    _, once = step(warm_batch(), settings_of(MeanField(prompt_mask_rate=0.0)), lr=1e-9)
    _, often = step(
        warm_batch(), settings_of(MeanField(prompt_mask_rate=0.0), num_iterations=3), lr=1e-9
    )  # the weights stay where they are
    assert often["grad_norm"] == pytest.approx(once["grad_norm"], rel=1e-3)


def test_the_gradients_norm_is_clipped() -> None:
    free, metrics = step(warm_batch(), settings_of(MeanField(prompt_mask_rate=0.0)))
    assert float(free.norm()) == pytest.approx(metrics["grad_norm"], rel=1e-3)
    held, metrics = step(warm_batch(), settings_of(MeanField(prompt_mask_rate=0.0), grad_clip=0.25))
    assert float(held.norm()) == pytest.approx(0.25, rel=1e-3)
    assert metrics["grad_norm"] == pytest.approx(float(free.norm()), rel=1e-3)  # said before clipping
    torch.testing.assert_close(held / held.norm(), free / free.norm(), atol=1e-3, rtol=1e-2)


# ------------------------------------------------------------------------------------------------------- sampled calls


@dataclass(frozen=True)
class FixedDraw(SampledExact):
    """Sampled calls whose draw is given."""

    weights: Tensor = field(default_factory=lambda: torch.zeros(0))

    def draw(self, rollout: Rollout, generator: torch.Generator) -> Tensor:
        return self.weights


@pytest.mark.parametrize(("loss_aggregation", "kl"), [("sequence-mean", 0.3), ("token-mean", 0.0)])
@pytest.mark.parametrize("scored_tokens", ["to-stop", "drawn"])
def test_the_mean_update_from_sampled_calls_is_the_exact_one(
    scored_tokens: Any, loss_aggregation: Any, kl: float
) -> None:
    batch = new_batch(temperature=0.7, scored_tokens=scored_tokens)
    assert bool((batch.rollout.is_drawn & ~batch.rollout.is_answer).any())
    base = new_denoiser(seed=7) if kl else None
    batch = replace(batch, is_solved=torch.arange(ROWS).view(PROMPTS, GROUP) % 3 == 0)
    update = settings_of(Exact(), temperature=0.7, loss_aggregation=loss_aggregation, kl_coef=kl, right_nll_coef=0.2)
    expected, exact = step(batch, update, base)
    estimator = SampledExact(2, "gradient", "always" if kl else "drawn")
    found, total = torch.zeros_like(expected), 0.0
    for probability, draw in every_draw(estimator, batch.rollout):
        moved, metrics = step(batch, replace(update, estimator=FixedDraw(weights=draw)), base)
        found += probability * moved
        total += probability * metrics["loss"]
    assert float((moved - expected).norm() / expected.norm()) > 0.1, "a single draw is not the exact gradient"
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert total == pytest.approx(exact["loss"], rel=1e-3, abs=1e-5)


class Replacing(torch.optim.SGD):
    """An optimiser whose step gives the model other weights, whatever the gradient."""

    def __init__(self, denoiser: ModelDenoiser, other: ModelDenoiser) -> None:
        super().__init__(denoiser.model.parameters(), lr=1.0)
        self.model, self.other = denoiser.model, other.model

    def step(self, closure: Any = None) -> Any:
        self.model.load_state_dict(self.other.state_dict())


def test_what_a_sampled_call_counts_is_outside_of_the_ratio() -> None:
    """Once the policy has moved, a token that is read has the exact likelihood's ratio, clipped where that is."""
    read = SampledExact(2).draw(warm_batch().rollout, torch.Generator().manual_seed(0))
    seen = {}
    for estimator in (Exact(), FixedDraw(weights=read)):
        spy, denoiser = Spy(0.2, 2.0), new_denoiser()
        update = settings_of(estimator, num_iterations=2, objective=spy)
        optimizer = Replacing(denoiser, new_denoiser(seed=3))
        update_policy(denoiser, None, warm_batch(), update, optimizer, torch.Generator())
        seen[type(estimator)] = spy.seen[1][2]
    exact, sampled = seen[Exact], seen[FixedDraw]
    is_read = (read.gather(1, warm_batch().rollout.unmask_step) > 0) & warm_batch().is_scored
    assert 20 < int(is_read.sum()) < int(warm_batch().is_scored.sum())
    assert bool(exact.is_clipped[is_read].any()) and float(read.max()) > 1.5
    for found, expected in (
        (sampled.policy_ratio, exact.policy_ratio),
        (sampled.is_clipped, exact.is_clipped),
        (sampled.importance_weight, exact.importance_weight),
        (sampled.loss, exact.loss),
    ):
        torch.testing.assert_close(found[is_read], expected[is_read], atol=1e-4, rtol=1e-4)


def test_a_token_that_is_not_read_has_no_importance_weight() -> None:
    """Tokens that are read have weight 1, since they were drawn on the same canvas; the others are in no metric."""
    spy = Spy(0.2, 2.0)
    _, metrics = step(warm_batch(), settings_of(SampledExact(1), objective=spy))
    names = ("importance_weight_mean", "importance_weight_ess", "importance_weight_right", "importance_weight_wrong")
    assert {name: metrics[name] for name in names if name in metrics} == pytest.approx(
        {name: 1.0 for name in names if name in metrics}, abs=1e-4
    )
    assert "importance_weight_ess" in metrics and metrics["importance_weight_capped"] == 0
    ((_, _, found),) = spy.seen
    assert float(found.importance_weight.max()) > 1.5, "what an unread token would have had"


# ------------------------------------------------------------------------------------------------ how the batch is cut


@pytest.mark.parametrize("micro_batch_size", [3, 8, 100])
@pytest.mark.parametrize("loss_aggregation", ["sequence-mean", "token-mean"])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_micro_batches_change_neither_step_nor_metrics(
    estimator: Estimator, loss_aggregation: Any, micro_batch_size: int
) -> None:
    base = new_denoiser(seed=7)
    update = settings_of(estimator, kl_coef=0.1, loss_aggregation=loss_aggregation, num_iterations=2)
    expected, whole = step(warm_batch(), update, base)
    found, cut = step(warm_batch(), replace(update, micro_batch_size=micro_batch_size), base)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert cut == pytest.approx(whole, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("micro_batch_size", [None, 5])
@pytest.mark.parametrize("two_times", [False, True], ids=["mean-field", "2-mf"])
def test_the_order_of_rows_changes_nothing(two_times: bool, micro_batch_size: int | None) -> None:
    steps = TwoTimesMeanField().draw(warm_batch().rollout, torch.Generator().manual_seed(3))
    steps = steps if two_times else torch.zeros_like(steps)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(4))
    shuffled = replace(
        warm_batch(),
        rollout=warm_batch().rollout.rows(order),
        is_scored=warm_batch().is_scored[order],
        advantage=warm_batch().advantage[order],
        bound_advantage=warm_batch().bound_advantage[order],
    )
    found, _ = step(shuffled, settings_of(FixedBoundary(steps[order]), micro_batch_size=micro_batch_size))
    expected, _ = step(warm_batch(), settings_of(FixedBoundary(steps)))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_tied_prompts_are_left_out_when_they_are_skipped(micro_batch_size: int | None) -> None:
    """With no credit and no KL they add nothing but canvases: the step stays. With KL it loses their pull."""
    reward = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.3, 0.3, 0.3, 0.3]])
    credit = torch.cat([warm_batch().advantage[:GROUP], torch.zeros(2 * GROUP)])
    batch = replace(warm_batch(), reward=reward, advantage=credit)
    assert batch.has_spread.tolist() == [True] * GROUP + [False] * 2 * GROUP
    everything = settings_of(TwoTimesMeanField(), num_iterations=2, micro_batch_size=micro_batch_size)
    some = replace(everything, drop_zero_std_groups=True)
    torch.testing.assert_close(step(batch, some)[0], step(batch, everything)[0], atol=1e-4, rtol=1e-3)
    first = step(batch, replace(some, num_iterations=1))[1]
    assert first["policy_ratio"] == pytest.approx(1, abs=1e-5), "an average over the tokens that were in it"

    base = new_denoiser(seed=7)
    held = step(batch, replace(some, kl_coef=0.1), base)[0]
    assert not torch.allclose(held, step(batch, replace(everything, kl_coef=0.1), base)[0], rtol=1e-2)


@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_unsolved_prompts_and_those_of_one_speed_are_left_out_when_dropped(
    micro_batch_size: int | None,
) -> None:
    batch = warm_batch()
    is_answer = torch.zeros_like(batch.rollout.is_answer)
    is_answer[:, 0] = True  # one token an answer: a prompt's speeds are 1 / calls
    calls = torch.tensor([[2, 2, 2, 2], [4, 8, 8, 8], [100, 200, 100, 200]]).flatten()  # the last differ by 0.005
    is_solved = torch.tensor([[True] * 4, [False, True, False, False], [False] * 4])
    changed = replace(batch, rollout=replace(batch.rollout, is_answer=is_answer, nfe=calls), is_solved=is_solved)
    everything = settings_of(MeanField(0.0), micro_batch_size=micro_batch_size)

    def rows(**dropped: Any) -> list[int]:
        return sorted({row // GROUP for row in rows_in_update(changed, replace(everything, **dropped)).tolist()})

    assert rows() == [0, 1, 2]
    assert rows(drop_unsolved_groups=True) == [0, 1]
    assert rows(drop_same_speed_groups=True) == [1]
    none_right = replace(changed, is_solved=torch.zeros_like(is_solved))
    assert step(none_right, replace(everything, drop_unsolved_groups=True))[1] == {}


@pytest.mark.parametrize("micro_batch_size", [None, 3])
@pytest.mark.parametrize("loss_aggregation", ["sequence-mean", "token-mean"])
def test_the_likelihood_of_right_completions_is_added_token_by_token(
    loss_aggregation: Any, micro_batch_size: int | None
) -> None:
    is_right = torch.tensor([[True, False, False, True], [False] * 4, [False, True, False, False]])
    batch = replace(warm_batch(), is_solved=is_right)
    plain = settings_of(Exact(), loss_aggregation=loss_aggregation, micro_batch_size=micro_batch_size)
    without, _ = step(batch, plain)
    found, metrics = step(batch, replace(plain, right_nll_coef=0.5))

    denoiser, rollout = new_denoiser(), batch.rollout
    attention_mask = full_attention_mask(rollout.prompt_mask, LENGTH)
    is_token = torch.arange(len(TOKENIZER)) != MASK
    counts, right_rows = batch.is_scored.sum(dim=1), is_right.flatten().nonzero().flatten().tolist()
    total = torch.zeros(())
    for row in right_rows:
        own = rollout.rows(slice(row, row + 1))
        for position in batch.is_scored[row].nonzero().flatten().tolist():
            canvas = canvas_at(own, int(own.unmask_step[0, position]), MASK)
            logits = denoiser.model(canvas, attention_mask[row : row + 1]).logits[0, position - LENGTH][is_token]
            token = int(own.completion_ids[0, position])
            logp = logits.log_softmax(-1)[token - (token > MASK)]
            is_mean_of_means = loss_aggregation == "sequence-mean"
            share = 1 / int(counts[row]) / 3 if is_mean_of_means else 1 / int(counts[right_rows].sum())
            total = total + share * logp
    total.backward()
    expected = 0.5 * torch.cat([p.grad.flatten() for p in denoiser.model.parameters() if p.grad is not None])
    assert metrics["right_nll"] == pytest.approx(-float(total.detach()), rel=1e-4)
    assert float(expected.abs().max()) > 0.05
    torch.testing.assert_close(found - without, expected, atol=1e-4, rtol=1e-3)


def test_where_nothing_is_right_no_likelihood_is_added() -> None:
    batch = replace(warm_batch(), is_solved=torch.zeros(PROMPTS, GROUP, dtype=torch.bool))
    found, metrics = step(batch, settings_of(Exact(), right_nll_coef=0.5))
    assert metrics["right_nll"] == 0
    torch.testing.assert_close(found, step(batch, settings_of(Exact()))[0])


def test_where_all_prompts_are_tied_nothing_is_done() -> None:
    batch = replace(warm_batch(), reward=torch.ones(PROMPTS, GROUP))
    change, metrics = step(
        batch,
        settings_of(MeanField(prompt_mask_rate=0.0), drop_zero_std_groups=True, kl_coef=0.1),
        new_denoiser(seed=7),
    )
    assert (change == 0).all() and metrics == {}


def test_the_draw_is_made_once_for_all_inner_steps_and_policies() -> None:
    draws: list[Tensor] = []

    @dataclass(frozen=True)
    class Counting(TwoTimesMeanField):
        def draw(self, rollout: Rollout, generator: torch.Generator) -> Tensor:
            draws.append(super().draw(rollout, generator))
            return draws[-1]

    step(warm_batch(), settings_of(Counting(), kl_coef=0.1, num_iterations=3, micro_batch_size=4), new_denoiser(seed=7))
    assert [len(one) for one in draws] == [ROWS]


def three_draws() -> list[Tensor]:
    """What three draws in a row of an update's generator give 2-MF."""
    generator = torch.Generator().manual_seed(DRAW_SEED)
    return [TwoTimesMeanField().draw(warm_batch().rollout, generator) for _ in range(3)]


def test_draws_of_their_own_give_every_iteration_its_own_gradient_and_kl() -> None:
    base = new_denoiser(seed=7)

    def settings(estimator: Estimator, **changes: Any) -> PolicyUpdate:
        return settings_of(estimator, objective=ClippedSurrogate(0.2, 2.0), kl_coef=0.1, **changes)

    update = settings(TwoTimesMeanField(), num_iterations=3, redraw=True)
    found, metrics = step(warm_batch(), update, base, lr=1e-4)  # the weights stay about where they are
    alone = [step(warm_batch(), settings(FixedBoundary(steps)), base, lr=1e-4) for steps in three_draws()]
    assert len({float(change.norm()) for change, _ in alone}) == 3
    torch.testing.assert_close(found, sum(change for change, _ in alone), atol=2e-2, rtol=2e-2)
    assert metrics["kl"] == pytest.approx(sum(one["kl"] for _, one in alone) / 3, rel=1e-3)


@pytest.mark.parametrize("micro_batch_size", [None, 5])
def test_the_old_policy_is_scored_on_every_draw_before_the_first_step(micro_batch_size: int | None) -> None:
    spy = Spy(0.2, 2.0)
    update = settings_of(
        TwoTimesMeanField(), objective=spy, num_iterations=3, redraw=True, micro_batch_size=micro_batch_size
    )
    step(warm_batch(), update, lr=0.1)
    parts = len(spy.seen) // 3
    for iteration, steps in enumerate(three_draws()):
        plan = TwoTimesMeanField()(warm_batch().rollout, steps, MASK)
        with torch.no_grad():
            scored = conditionals(new_denoiser(), plan, warm_batch().is_scored)
            expected = scored.logp(warm_batch().rollout.completion_ids, 1.0)
        seen = spy.seen[iteration * parts : (iteration + 1) * parts]
        torch.testing.assert_close(torch.cat([old for _, old, _ in seen]), expected, atol=1e-4, rtol=1e-4)
        ratio = torch.cat([found.policy_ratio for _, _, found in seen])
        assert torch.allclose(ratio, torch.ones_like(ratio), atol=1e-3) == (iteration == 0)


@pytest.mark.parametrize(("baseline", "times"), [("neg", 1), ("unbias", 2)])
def test_credit_from_likelihoods_is_of_the_first_draw_or_of_each(baseline: Any, times: int) -> None:
    seen: list[Groups] = []

    @dataclass(frozen=True)
    class SeenMatching(DistributionMatching):
        def credit(self, groups: Groups) -> Credit:
            seen.append(groups)
            return super().credit(groups)

    update = settings_of(Elbo(2), objective=SeenMatching(baseline=baseline), num_iterations=2, redraw=True)
    step(graded(warm_batch()), update, new_denoiser(seed=7), lr=0.1)
    assert len(seen) == times
    if times == 2:
        first, second = ((groups.old_logp, groups.reference_logp) for groups in seen)
        for one, other in zip(first, second, strict=True):
            assert one is not None and other is not None and not torch.allclose(one, other)


@pytest.mark.parametrize(
    ("objective", "passes"),
    [
        (ClippedSurrogate(0.2), 5),
        (Wddo(Target(0.5)), 5),
        (Reinforce(), 3),
        (WeightedLikelihood(), 3),
        (DistributionMatching(Target(0.5), "neg"), 3),
        (DistributionMatching(Target(0.5), "unbias"), 5),
    ],
)
def test_the_old_policy_is_scored_on_later_draws_only_where_it_is_compared_with(
    objective: Objective, passes: int
) -> None:
    denoiser, base = new_denoiser(), new_denoiser(seed=7)
    update = settings_of(MeanField(prompt_mask_rate=0.0), objective=objective, num_iterations=3, redraw=True)
    optimizer = torch.optim.SGD(denoiser.model.parameters(), lr=0.01)
    update_policy(denoiser, base, graded(warm_batch()), update, optimizer, torch.Generator())
    assert denoiser.usage.canvases == PROMPTS * passes


# ---------------------------------------------------------------------------------------- credit of whole groups

OBJECTIVES: list[Objective] = [
    ClippedSurrogate(0.2, 2.0, 0.5, "positive"),
    Reinforce(),
    WeightedLikelihood(2.0),
    *(DistributionMatching(Target(0.5), baseline) for baseline in ("none", "mean", "unbias", "neg")),
    DistributionMatching(Target(0.04, min_ess=0.7), "neg"),
    Wddo(Target(0.5)),
]


def graded(batch: Batch) -> Batch:
    """The batch with rewards of every size, tied for no prompt, and right and wrong answers for each."""
    reward = torch.rand(PROMPTS, GROUP, generator=torch.Generator().manual_seed(8))
    return replace(batch, reward=reward, is_solved=reward > reward.median(dim=1, keepdim=True).values)


# ------------------------------------------------------------------------------------- large vocabularies, and bfloat16


@pytest.mark.parametrize("kl_estimator", ["full", "k1", "k3"])
@pytest.mark.parametrize(
    "estimator", [MeanField(0.3), TwoTimesMeanField(), Elbo(2), Eubo(2, antithetic=False)], ids=str
)
def test_a_step_without_logits_is_the_same_step(
    estimator: Estimator, kl_estimator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = settings_of(
        estimator, kl_coef=0.3, kl_estimator=kl_estimator, temperature=0.7, num_iterations=2, micro_batch_size=5
    )
    found, base = [], new_denoiser(seed=7)
    for whole in (10**9, 0):
        monkeypatch.setattr("diffpo.models.denoiser.FULL_LOGITS_MAX_VOCAB", whole)
        assert (new_denoiser().lm_head is None) == (whole > 0)
        found.append(step(cool_batch(), update, base))
    (expected, expected_metrics), (change, metrics) = found
    assert float(expected.abs().max()) > 0.05
    torch.testing.assert_close(change, expected, atol=1e-4, rtol=1e-3)
    assert metrics == pytest.approx(expected_metrics, rel=1e-3, abs=1e-5)


def test_credit_made_of_likelihoods_is_the_same_without_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    update = settings_of(TwoTimesMeanField(), objective=DistributionMatching(Target(0.5)), micro_batch_size=4)
    found = []
    for whole in (10**9, 0):
        monkeypatch.setattr("diffpo.models.denoiser.FULL_LOGITS_MAX_VOCAB", whole)
        found.append(step(graded(warm_batch()), update, new_denoiser(seed=7)))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-4, rtol=1e-3)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-3, abs=1e-5)


@computes_in_bfloat16
@pytest.mark.parametrize("whole", [0, 10**9], ids=["states", "logits"])
def test_a_bfloat16_policys_loss_is_summed_in_float32(whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against float64 sums of what its own logits, in bfloat16, say."""
    monkeypatch.setattr("diffpo.models.denoiser.FULL_LOGITS_MAX_VOCAB", whole)
    temperature = 0.7
    denoiser, spy = new_denoiser(), Spy(0.2, 2.0)
    denoiser.model.to(torch.bfloat16)
    update = settings_of(MeanField(prompt_mask_rate=0.0), objective=spy, temperature=temperature)
    optimizer = torch.optim.SGD(denoiser.model.parameters(), lr=0.0)
    metrics = update_policy(denoiser, None, cool_batch(), update, optimizer, torch.Generator())
    ((logp, old, found),) = spy.seen
    assert {logp.dtype, old.dtype, found.loss.dtype, found.importance_weight.dtype} == {torch.float32}
    rollout = cool_batch().rollout
    views = MeanField(prompt_mask_rate=0.0)(rollout, rollout.prompt_mask & False, MASK)
    with torch.no_grad():
        logits = conditionals(denoiser, views, cool_batch().is_scored).output.logits.double()
    read = conditionals(denoiser, views, cool_batch().is_scored)
    expected = (logits / temperature).log_softmax(-1)[read.index, rollout.completion_ids][cool_batch().is_scored]
    torch.testing.assert_close(logp[cool_batch().is_scored].double(), expected, atol=1e-5, rtol=1e-5)
    weight = (expected - rollout.behaviour_logp.double()[cool_batch().is_scored]).exp().clamp(max=2.0)
    row = cool_batch().is_scored.nonzero()[:, 0]
    share = 1 / cool_batch().is_scored.sum(dim=1).double()[row] / ROWS
    loss = -(share * weight * cool_batch().advantage.double()[row]).sum()
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("micro_batch_size", [3, 5, 8])
@pytest.mark.parametrize("estimator", [MeanField(prompt_mask_rate=0.0), Elbo(2)], ids=str)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_a_group_may_be_split_over_micro_batches(
    objective: Objective, estimator: Estimator, micro_batch_size: int
) -> None:
    batch, base = graded(warm_batch()), new_denoiser(seed=7)
    update = settings_of(estimator, objective=objective, kl_coef=0.1, kl_estimator="k2", num_iterations=3)
    expected, whole = step(batch, update, base)
    found, cut = step(batch, replace(update, micro_batch_size=micro_batch_size), base)
    assert float(expected.abs().max()) > 0.01
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-3)
    assert cut == pytest.approx(whole, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_neither_the_order_of_prompts_nor_that_of_completions_matters(objective: Objective) -> None:
    batch, base = graded(warm_batch()), new_denoiser(seed=7)
    prompts, members = (torch.randperm(n, generator=torch.Generator().manual_seed(n)) for n in (PROMPTS, GROUP))
    rows = torch.arange(ROWS).view(PROMPTS, GROUP)[prompts][:, members].flatten()
    per_prompt = {name: getattr(batch, name)[prompts][:, members] for name in ("reward", "bound_reward", "is_solved")}
    shuffled = replace(batch.rows(rows), **per_prompt)
    update = settings_of(MeanField(prompt_mask_rate=0.0), objective=objective, num_iterations=2)
    found, shuffled_metrics = step(shuffled, replace(update, micro_batch_size=5), base)
    expected, metrics = step(batch, update, base)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-3)
    assert shuffled_metrics == pytest.approx(metrics, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_ties_are_skipped_by_whole_groups(objective: Objective) -> None:
    """What is left is updated as if the tied prompt had never been asked, but for its share of the tokens."""
    whole, base = graded(warm_batch()), new_denoiser(seed=7)
    tied = replace(whole, reward=whole.reward.index_fill(0, torch.tensor([1]), 0.5))
    left = [0, 2]
    rows = torch.arange(ROWS).view(PROMPTS, GROUP)[left].flatten()
    per_prompt = {name: getattr(tied, name)[left] for name in ("reward", "bound_reward", "is_solved")}
    alone = replace(tied.rows(rows), **per_prompt)
    update = settings_of(
        MeanField(prompt_mask_rate=0.0), objective=objective, micro_batch_size=3, drop_zero_std_groups=True
    )
    found, expected = step(tied, update, base)[0], step(alone, update, base)[0]
    torch.testing.assert_close(1.5 * found, expected, atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_step_of_dmpo_is_its_weighted_likelihood_token_by_token(temperature: float) -> None:
    batch, base, alpha, coef = graded(cool_batch()), new_denoiser(seed=7), 0.05, 0.1
    steps = batch.rollout.nfe // 2
    objective = DistributionMatching(Target(alpha, coef), "neg")
    update = settings_of(
        FixedBoundary(steps),
        objective=objective,
        loss_aggregation="token-mean",
        temperature=temperature,
        micro_batch_size=5,
    )
    found, metrics = step(batch, update, base)

    denoiser, rollout = new_denoiser(), batch.rollout
    attention_mask = full_attention_mask(rollout.prompt_mask, LENGTH)
    views = [canvas_at(rollout, boundary, MASK) for boundary in (torch.zeros_like(steps), steps)]
    is_token = torch.arange(len(TOKENIZER)) != MASK

    def likelihoods(of: ModelDenoiser) -> list[Tensor]:
        logits = [of.model(canvas, attention_mask).logits[:, -LENGTH:] for canvas in views]
        totals = [torch.zeros(()) for _ in range(ROWS)]
        for row, position in batch.is_scored.nonzero().tolist():
            late = int(rollout.unmask_step[row, position] >= steps[row])
            token = int(rollout.completion_ids[row, position])
            law = (logits[late][row, position][is_token] / temperature).log_softmax(-1)
            totals[row] = totals[row] + law[token - (token > MASK)]
        return totals

    policy, held = likelihoods(denoiser), [float(total.detach()) for total in likelihoods(base)]
    loss = torch.zeros(())
    for prompt in range(PROMPTS):
        members = range(prompt * GROUP, (prompt + 1) * GROUP)
        gaps = [held[i] - float(policy[i].detach()) for i in members]
        rewards = batch.reward[prompt].tolist()
        good = [math.exp(coef * (gap + reward / alpha)) for gap, reward in zip(gaps, rewards, strict=True)]
        bad = [math.exp(coef * (gap - reward / alpha)) for gap, reward in zip(gaps, rewards, strict=True)]
        for i, w, b in zip(members, good, bad, strict=True):
            loss = loss - GROUP * (w / sum(good) - b / sum(bad)) * policy[i] / int(batch.is_scored.sum())
    loss.backward()
    expected = -torch.cat([p.grad.flatten() for p in denoiser.model.parameters() if p.grad is not None])
    assert float(expected.abs().max()) > 0.05
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-3)
    assert metrics["proximal"] == pytest.approx(coef)
    assert 0 < metrics["group_weight_ess"] < 1


@pytest.mark.parametrize("micro_batch_size", [None, 4])
def test_a_target_costs_one_more_pass_only_where_the_batch_is_cut(micro_batch_size: int | None) -> None:
    batch, inner = graded(warm_batch()), 3
    for baseline, passes in (("neg", inner + 1), ("unbias", 2 * inner)):
        denoiser, base = new_denoiser(), new_denoiser(seed=7)
        objective = DistributionMatching(Target(0.5), baseline)  # type: ignore[arg-type]
        update = settings_of(
            MeanField(prompt_mask_rate=0.0),
            objective=objective,
            num_iterations=inner,
            micro_batch_size=micro_batch_size,
        )
        optimizer = torch.optim.SGD(denoiser.model.parameters(), lr=0.01)
        update_policy(denoiser, base, batch, update, optimizer, torch.Generator())
        assert denoiser.usage.canvases == PROMPTS * (passes if micro_batch_size else inner)
        assert base.usage.canvases == PROMPTS


@pytest.mark.parametrize("micro_batch_size", [None, 5])
@pytest.mark.parametrize(("baseline", "times"), [("neg", 1), ("unbias", 3)])
def test_credit_sees_the_old_policy_and_where_it_asks_the_one_that_stands(
    baseline: Any, times: int, micro_batch_size: int | None
) -> None:
    seen: list[Groups] = []

    @dataclass(frozen=True)
    class SeenMatching(DistributionMatching):
        def credit(self, groups: Groups) -> Credit:
            seen.append(groups)
            return super().credit(groups)

    update = settings_of(
        MeanField(prompt_mask_rate=0.0),
        objective=SeenMatching(baseline=baseline),
        num_iterations=3,
        micro_batch_size=micro_batch_size,
    )
    step(graded(warm_batch()), update, new_denoiser(seed=7), lr=0.1)
    assert len(seen) == times
    old = seen[0].old_logp
    assert old is not None
    for index, groups in enumerate(seen):
        assert groups.old_logp is not None and groups.current_logp is not None
        assert torch.equal(groups.old_logp, old)
        assert torch.equal(groups.current_logp, old) == (index == 0)
    if times > 1:
        assert seen[1].current_logp is not None and seen[2].current_logp is not None
        assert not torch.equal(seen[1].current_logp, seen[2].current_logp)


def test_a_target_without_its_base_is_refused() -> None:
    with pytest.raises(ValueError, match="give the update its reference"):
        step(graded(warm_batch()), settings_of(MeanField(prompt_mask_rate=0.0), objective=DistributionMatching()))


# --------------------------------------------------------------------------------------------------------- bookkeeping


@pytest.mark.parametrize("micro_batch_size", [None, 5])
@pytest.mark.parametrize("has_base", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_a_denoiser_tallies_the_canvases_that_it_was_shown(
    estimator: Estimator, has_base: bool, micro_batch_size: int | None
) -> None:
    asked: list[int] = []

    def counted(denoiser: ModelDenoiser) -> ModelDenoiser:
        def count(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            asked.append(len(kwargs["input_ids"]))

        denoiser.model.register_forward_pre_hook(count, with_kwargs=True)
        return denoiser

    denoiser, base = counted(new_denoiser()), counted(new_denoiser(seed=7)) if has_base else None
    update = settings_of(estimator, kl_coef=0.1, num_iterations=2, micro_batch_size=micro_batch_size)
    optimizer = torch.optim.SGD(denoiser.model.parameters(), lr=0.01)
    update_policy(denoiser, base, warm_batch(), update, optimizer, torch.Generator().manual_seed(0))
    assert denoiser.usage.canvases + (base.usage.canvases if base else 0) == sum(asked)
    if estimator == MeanField(0.0) and micro_batch_size is None:
        assert sum(asked) == PROMPTS * (3 if has_base else 2)


def test_metrics_of_the_importance_weight() -> None:
    spy = Spy(0.2, 1.2)
    _, metrics = step(
        warm_batch(), settings_of(MeanField(prompt_mask_rate=0.0), objective=spy, loss_aggregation="token-mean")
    )
    ((_, _, found),) = spy.seen
    weights = found.importance_weight[warm_batch().is_scored].double()
    assert metrics["importance_weight_mean"] == pytest.approx(float(weights.mean()), rel=1e-5)
    assert metrics["importance_weight_capped"] == pytest.approx(float((weights > 1.199).double().mean()), rel=1e-5)
    assert 0 < metrics["importance_weight_capped"] < 1
    share = weights.sum() ** 2 / (weights**2).sum() / len(weights)
    assert metrics["importance_weight_ess"] == pytest.approx(float(share), rel=1e-5)


def test_metrics_of_the_weight_by_answer_and_by_quarter() -> None:
    batch = graded(warm_batch())
    spy = Spy(0.2, 1.2)
    _, metrics = step(batch, settings_of(MeanField(prompt_mask_rate=0.0), objective=spy))
    ((_, _, found),) = spy.seen
    weight, is_right = found.importance_weight, batch.is_solved.flatten()
    right = weight[is_right][batch.is_scored[is_right]]
    wrong = weight[~is_right][batch.is_scored[~is_right]]
    assert metrics["importance_weight_right"] == pytest.approx(float(right.mean()), rel=1e-5)
    assert metrics["importance_weight_wrong"] == pytest.approx(float(wrong.mean()), rel=1e-5)
    assert metrics["importance_weight_right"] != pytest.approx(metrics["importance_weight_wrong"], rel=1e-3)
    quarter = 4 * batch.rollout.unmask_step // batch.rollout.nfe[:, None]
    for index in range(4):
        there = weight[batch.is_scored & (quarter == index)]
        assert metrics[f"importance_weight_capped_{index + 1}"] == pytest.approx(
            float((there >= 1.2).float().mean()), rel=1e-5
        )
        share = float(there.sum() ** 2 / (there**2).sum()) / len(there)
        assert metrics[f"importance_weight_ess_{index + 1}"] == pytest.approx(share, rel=1e-4)


def scored(value: float) -> Batch:
    logp = warm_batch().rollout.behaviour_logp.clone()
    logp[ROWS - 1, 0] = value
    return replace(warm_batch(), rollout=replace(warm_batch().rollout, behaviour_logp=logp))


def credited(value: float) -> Batch:
    return replace(warm_batch(), advantage=warm_batch().advantage.index_fill(0, torch.tensor([ROWS - 1]), value))


@pytest.mark.parametrize("micro_batch_size", [None, 5])
@pytest.mark.parametrize(
    ("spoilt", "value"), [(scored, math.nan), (credited, math.nan), (credited, math.inf), (credited, -math.inf)]
)
def test_a_loss_that_is_no_number_leaves_the_weights_untouched(
    spoilt: Callable[[float], Batch], value: float, micro_batch_size: int | None
) -> None:
    denoiser, batch = new_denoiser(), spoilt(value)
    before = weights_of(denoiser)
    optimizer = torch.optim.Adam(denoiser.model.parameters(), lr=0.1)
    update = settings_of(TwoTimesMeanField(), micro_batch_size=micro_batch_size)
    with pytest.raises(NonFiniteLossError):
        update_policy(denoiser, None, batch, update, optimizer, torch.Generator())
    assert torch.equal(weights_of(denoiser), before)
    assert not optimizer.state


# -------------------------------------------------------------------------------------- the policy gradient, enumerated


def reward_of(completion: tuple[int, ...]) -> float:
    return float(sum((i + 1) * token for i, token in enumerate(completion)) % 5)


def test_one_call_rollouts_follow_the_gradient_of_the_expected_reward() -> None:
    """With an infinite bound the two tokens are drawn independently in one call, so mean-field is exact."""
    vocab, mask, length = 4, 1, 2
    prompt = torch.tensor([[3]])
    completions = list(product([0, 2, 3], repeat=length))
    ids, rows = torch.tensor(completions), len(completions)
    denoiser = tiny_llada(vocab, mask)
    canvas = torch.tensor([[3, mask, mask]])
    logits = denoiser.model(canvas).logits[0, 1:, [0, 2, 3]]
    logp = logits.log_softmax(dim=-1)
    column = torch.tensor([0, 0, 1, 2])[ids]
    token_logp = torch.stack([logp[i][column[:, i]] for i in range(length)], dim=1)
    probability = token_logp.sum(dim=1).exp()
    reward = torch.tensor([reward_of(completion) for completion in completions])
    expected_reward = (probability * reward).sum()
    expected = torch.autograd.grad(expected_reward, list(denoiser.model.parameters()))

    rollout = rollout_of(prompt.expand(rows, 1), ids, torch.zeros_like(ids))
    rollout = replace(rollout, behaviour_logp=token_logp.detach())
    batch = Batch(
        rollout=rollout,
        reward=reward[None],
        bound_reward=reward[None],
        is_solved=reward[None] > 0,
        is_scored=torch.ones_like(ids, dtype=torch.bool),
        advantage=rows * probability.detach() * reward,  # the mean over rows becomes the expectation
        bound_advantage=torch.zeros(rows),
    )
    before = weights_of(denoiser)
    optimizer = torch.optim.SGD(denoiser.model.parameters(), lr=0.1)
    update_policy(denoiser, None, batch, settings_of(MeanField(prompt_mask_rate=0.0)), optimizer, torch.Generator())
    moved = (weights_of(denoiser) - before) / 0.1 * length  # the loss is per token
    whole = torch.cat([gradient.flatten() for gradient in expected])
    assert float(whole.abs().max()) > 0.1
    torch.testing.assert_close(moved, whole, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_reading_every_call_gives_the_gradient_of_the_enumerated_expected_reward(temperature: float) -> None:
    """Rollouts of several calls: 2-MF at each call in turn, its own tokens only, is the exact policy gradient."""
    denoiser, length, choose = TableDenoiser(width=4), 3, entropy_bound(0.2)
    known = trajectories(denoiser, [3], length, length, choose, temperature)
    assert len({max(steps) for _, steps in known}) > 1
    rows = len(known)
    ids, steps = (torch.tensor([key[part] for key in known]) for part in (0, 1))
    probability = torch.tensor([trajectory.probability for trajectory in known.values()])
    advantage = probability * torch.tensor([reward_of(key[0]) for key in known]) * rows
    rollout = rollout_of(torch.full((rows, 1), 3), ids, steps)
    denoiser.table.requires_grad_(True)

    def gradient(boundary_of_token: Callable[[int], tuple[Tensor, Tensor]]) -> Tensor:
        total = torch.zeros(())
        for call in range(length):
            boundary, is_scored = boundary_of_token(call)
            read = conditionals(denoiser, TwoTimesMeanField()(rollout, boundary, denoiser.mask_id), is_scored)
            logp = read.logp(ids, temperature)
            terms = ClippedSurrogate(0.2, 2.0)(logp, logp.detach(), logp.detach(), advantage, is_scored)
            total = total - (terms.loss * is_scored).sum() / rows
        (found,) = torch.autograd.grad(total, denoiser.table)
        return found

    exact = gradient(lambda call: (torch.full((rows,), call).minimum(rollout.nfe - 1), steps == call))
    mean_field = gradient(lambda call: (torch.zeros(rows, dtype=torch.long), steps == call))

    def expected_reward() -> float:
        found = trajectories(denoiser, [3], length, length, choose, temperature)
        return sum(trajectory.probability * reward_of(key[0]) for key, trajectory in found.items())

    denoiser.table.requires_grad_(False)
    places = exact.abs().flatten().argsort(descending=True)[:24].tolist()
    flat = denoiser.table.view(-1)
    errors, mean_field_errors = [], []
    for place in places:
        middle, values = float(flat[place]), []
        for shifted in (middle + 0.01, middle - 0.01):
            flat[place] = shifted
            values.append(expected_reward())
        flat[place] = middle
        slope = (values[0] - values[1]) / 0.02
        errors.append(abs(slope - float(exact.flatten()[place])))
        mean_field_errors.append(abs(slope - float(mean_field.flatten()[place])))
    assert max(errors) < 1e-4
    assert max(mean_field_errors) > 0.05


# ----------------------------------------------------------------------------------------------------------- controller


def bound_batch(bound: Tensor, advantage: Tensor, features: Tensor, controller: Controller) -> Batch:
    with torch.no_grad():
        logp = controller.logp(features, bound)
    rollout = replace(warm_batch().rollout, entropy_bound=bound, entropy_bound_logp=logp, prompt_features=features)
    return replace(warm_batch(), rollout=rollout, bound_advantage=advantage)


def new_controller() -> Controller:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Controller(initial_bound=0.3, initial_spread=0.5, hidden=8)


def some_features() -> Tensor:
    return entropy_features(2 * torch.rand(ROWS, LENGTH, generator=torch.Generator().manual_seed(0)))


NO_LIMIT = 1e9
"""Of a gradient's norm."""


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_mean_bound_moves_towards_bounds_that_paid(sign: float) -> None:
    controller, features = new_controller(), some_features()
    log_bound = math.log(0.3) + torch.linspace(-0.6, 0.6, ROWS)
    batch = bound_batch(log_bound.exp(), sign * (log_bound - log_bound.mean()), features, controller)
    optimizer = torch.optim.SGD(controller.parameters(), lr=0.1)
    update_controller(controller, batch, optimizer, NO_LIMIT)
    metrics = update_controller(controller, batch, optimizer, NO_LIMIT)
    assert sign * math.log(metrics["bound_median"] / 0.3) > 0.01
    with torch.no_grad():
        assert float(controller.log_bound(features).loc.median().exp()) == pytest.approx(metrics["bound_median"])


def test_the_controllers_first_step_is_reinforce() -> None:
    controller, features = new_controller(), some_features()
    advantage = noise(torch.zeros(ROWS))
    bound = (math.log(0.3) + torch.linspace(-0.6, 0.6, ROWS)).exp()
    batch = bound_batch(bound, advantage, features, controller)
    expected = torch.autograd.grad((advantage * controller.logp(features, bound)).mean(), list(controller.parameters()))
    before = [parameter.detach().clone() for parameter in controller.parameters()]
    optimizer = torch.optim.SGD(controller.parameters(), lr=0.1)
    update_controller(controller, batch, optimizer, NO_LIMIT)
    for start, gradient, parameter in zip(before, expected, controller.parameters(), strict=True):
        torch.testing.assert_close((parameter - start) / 0.1, gradient, atol=1e-4, rtol=1e-3)


def test_the_controller_learns_a_bound_for_each_kind_of_prompt() -> None:
    controller = new_controller()
    is_easy = torch.arange(ROWS) % 2 == 0
    spread = torch.rand(ROWS, LENGTH, generator=torch.Generator().manual_seed(0))
    features = entropy_features(torch.where(is_easy[:, None], 0.2 * spread, 2 * spread))
    controller.observe(features, 1.0)
    log_bound = math.log(0.3) + torch.linspace(-0.6, 0.6, ROWS)
    wanted = torch.where(is_easy, 1.0, -1.0) * (log_bound - math.log(0.3))
    optimizer = torch.optim.Adam(controller.parameters(), lr=0.003)
    for _ in range(20):
        update_controller(controller, bound_batch(log_bound.exp(), wanted, features, controller), optimizer, NO_LIMIT)
    with torch.no_grad():
        loc = controller.log_bound(features).loc
    assert float(loc[is_easy].min()) > math.log(0.3) + 0.1
    assert float(loc[~is_easy].max()) < math.log(0.3) - 0.1


def test_the_controllers_own_reward_is_logged() -> None:
    controller = new_controller()
    batch = bound_batch(torch.full((ROWS,), 0.3), torch.ones(ROWS), some_features(), controller)
    reward = torch.linspace(0, 1, ROWS).view(batch.reward.shape) ** 2
    optimizer = torch.optim.SGD(controller.parameters(), lr=0.1)
    metrics = update_controller(controller, replace(batch, bound_reward=reward), optimizer, NO_LIMIT)
    assert metrics["bound_reward"] == pytest.approx(float(reward.mean()))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_controller_loss_that_is_no_number_leaves_it_untouched(value: float) -> None:
    controller, features = new_controller(), some_features()
    batch = bound_batch(torch.full((ROWS,), 0.2), torch.full((ROWS,), value), features, controller)
    before = [parameter.detach().clone() for parameter in controller.parameters()]
    with pytest.raises(NonFiniteLossError):
        update_controller(controller, batch, torch.optim.Adam(controller.parameters()), NO_LIMIT)
    assert all(torch.equal(*pair) for pair in zip(before, controller.parameters(), strict=True))


# ------------------------------------------------------------------------------------- the bound as one more token


def shared_step(update: PolicyUpdate, batch: Batch, lr: float = 0.01) -> tuple[tuple[Tensor, Tensor], dict[str, float]]:
    """What SGD adds to the weights of denoiser and controller, over the learning rate; and metrics."""
    denoiser, controller = new_denoiser(), new_controller()
    both = [*denoiser.model.parameters()], [*controller.parameters()]
    before = [torch.cat([p.detach().flatten().clone() for p in some]) for some in both]
    optimizer = torch.optim.SGD([*both[0], *both[1]], lr=lr)
    generator = torch.Generator().manual_seed(DRAW_SEED)
    metrics = update_policy(denoiser, new_denoiser(seed=7), batch, update, optimizer, generator, controller)
    after = [torch.cat([p.detach().flatten() for p in some]) for some in both]
    model, bounds = ((now - then) / lr for now, then in zip(after, before, strict=True))
    return (model, bounds), metrics


def drawn_bounds() -> Batch:
    """The batch that most tests share, as if its bounds were drawn by a new controller."""
    bound = (math.log(0.3) + torch.linspace(-0.6, 0.6, ROWS)).exp()
    return bound_batch(bound, torch.zeros(ROWS), some_features(), new_controller())


@pytest.mark.parametrize("micro_batch_size", [None, 5])
@pytest.mark.parametrize("loss_aggregation", ["sequence-mean", "token-mean"])
@pytest.mark.parametrize("objective", [ClippedSurrogate(0.2, 2.0), Reinforce()], ids=["clipped", "reinforce"])
def test_a_bound_that_is_one_more_token_has_its_weight_and_its_completions_credit(
    objective: Objective, loss_aggregation: Any, micro_batch_size: int | None
) -> None:
    batch = drawn_bounds()
    update = settings_of(
        MeanField(prompt_mask_rate=0.0),
        objective=objective,
        kl_coef=0.3,
        loss_aggregation=loss_aggregation,
        micro_batch_size=micro_batch_size,
    )
    (model, bounds), metrics = shared_step(update, batch)
    tokens = batch.is_scored.sum(dim=1)
    is_by_completion = loss_aggregation == "sequence-mean"
    weight = 1 / (tokens + 1) / ROWS if is_by_completion else torch.full((ROWS,), 1 / float(tokens.sum() + ROWS))
    controller = new_controller()
    logp = controller.logp(batch.rollout.prompt_features, batch.rollout.entropy_bound)
    expected = torch.autograd.grad((weight * batch.advantage * logp).sum(), [*controller.parameters()])
    torch.testing.assert_close(bounds, torch.cat([g.flatten() for g in expected]), atol=1e-5, rtol=1e-3)
    # The completion's own tokens share what is left; nothing else about them changes.
    alone, plain = step(batch, replace(update, loss_aggregation="token-mean"), new_denoiser(seed=7))
    if not is_by_completion:
        share = float(tokens.sum() / (tokens.sum() + ROWS))
        torch.testing.assert_close(model, share * alone, atol=1e-4, rtol=1e-3)
        assert metrics["kl"] == pytest.approx(share * plain["kl"], rel=1e-3), "the bound has no KL"
    for name in ("importance_weight_ess", "importance_weight_right"):
        assert metrics.get(name) == plain.get(name)


def test_the_ratio_of_a_bound_that_is_one_more_token_is_clipped() -> None:
    batch = drawn_bounds()
    stale = replace(batch.rollout, entropy_bound_logp=batch.rollout.entropy_bound_logp - 1)  # ratio e
    push = replace(batch, rollout=stale, advantage=torch.ones(ROWS))
    (_, held), metrics = shared_step(settings_of(MeanField(prompt_mask_rate=0.0)), push)
    assert not held.any()
    assert metrics["clip_fraction"] == pytest.approx(float((1 / (batch.is_scored.sum(dim=1) + 1)).mean()))
    (_, free), _ = shared_step(settings_of(MeanField(prompt_mask_rate=0.0)), replace(push, advantage=-torch.ones(ROWS)))
    assert free.any()


def test_the_gradient_of_a_shared_loss_is_clipped_as_one() -> None:
    free, metrics = shared_step(settings_of(MeanField(prompt_mask_rate=0.0)), drawn_bounds())
    norm = float(torch.cat(free).norm())
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-3) and float(free[1].norm()) > 0.01 * norm
    held, _ = shared_step(settings_of(MeanField(prompt_mask_rate=0.0), grad_clip=norm / 4), drawn_bounds())
    torch.testing.assert_close(torch.cat(held), torch.cat(free) / 4, atol=1e-4, rtol=1e-2)


def test_bounds_of_their_own_token_learn_over_iterations() -> None:
    update = settings_of(TwoTimesMeanField(), num_iterations=3, redraw=True)
    (_, once), _ = shared_step(replace(update, num_iterations=1), drawn_bounds(), lr=1e-3)
    (_, thrice), _ = shared_step(update, drawn_bounds(), lr=1e-3)
    torch.testing.assert_close(thrice, 3 * once, atol=1e-3, rtol=5e-2)


# ----------------------------------------------------------------------------------------------------------- collecting


def test_tokens_drawn_behind_the_first_stop_token_count_where_that_is_asked_for() -> None:
    to_stop, drawn = warm_batch(), new_batch(scored_tokens="drawn")
    rollout = drawn.rollout
    assert torch.equal(rollout.completion_ids, to_stop.rollout.completion_ids)
    assert torch.equal(to_stop.is_scored, completion_mask(rollout.completion_ids, (STOP,)))
    assert torch.equal(drawn.is_scored, rollout.behaviour_logp != 0)
    assert bool((drawn.is_scored & ~to_stop.is_scored).any()), "some were drawn behind a stop token"
    assert not bool(drawn.is_scored.all()), "some were filled in"


def test_a_batch_is_graded_and_credited_by_prompt() -> None:
    batch = new_batch(
        group_size=64,
        advantage=lambda reward: reward - reward.mean(dim=1, keepdim=True),
        bound_advantage=lambda reward: 2 * reward,
    )
    rollout = batch.rollout
    for row, problem in enumerate(p for p in TASK.problems("train", PROMPTS, seed=0) for _ in range(64)):
        visible = rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist()
        assert visible == encode_text(TOKENIZER, problem.prompt)
    first = rollout.completion_ids[:, 0]
    is_solved = (first == TASK.alphabet.index("2")) | (first == TASK.alphabet.index("4"))
    # Half the speed share is lost at half the calls; partial credit neither gains nor loses by speed.
    reward = torch.where(is_solved, 1 - 0.5 * rollout.nfe / LENGTH, 0.5 * (first == TASK.alphabet.index("1")))
    assert len(set(reward.tolist())) > 4
    torch.testing.assert_close(batch.reward, reward.view(PROMPTS, 64))
    assert torch.equal(batch.is_solved, is_solved.view(PROMPTS, 64))
    expected = batch.reward - batch.reward.mean(dim=1, keepdim=True)
    torch.testing.assert_close(batch.advantage, expected.flatten())
    torch.testing.assert_close(batch.bound_advantage, 2 * reward)
    assert torch.equal(batch.is_scored, completion_mask(rollout.completion_ids, (STOP,)))
    assert float(token_weights(batch.is_scored, "sequence-mean").sum()) == pytest.approx(1)


def test_prompts_are_padded_on_the_left() -> None:
    ids, visible = encode_prompts(TOKENIZER, ["12=", "1234=", "="])
    pad, one, two, three, four, equals = TOKENIZER.pad_token_id, *encode_text(TOKENIZER, "1234=")
    assert ids.tolist() == [[pad, pad, one, two, equals], [one, two, three, four, equals], [pad] * 4 + [equals]]
    assert visible.tolist() == [[False, False, True, True, True], [True] * 5, [False] * 4 + [True]]


def test_a_batch_is_a_function_of_its_generator() -> None:
    again, other = new_batch(), new_batch(seed=3)
    assert torch.equal(again.rollout.completion_ids, warm_batch().rollout.completion_ids)
    assert not torch.equal(other.rollout.completion_ids, warm_batch().rollout.completion_ids)
    rows = {tuple(row) for row in warm_batch().rollout.completion_ids.tolist()}
    assert len(rows) == ROWS  # completions of a prompt differ


def test_rows_of_a_batch_keep_what_is_per_prompt() -> None:
    part = warm_batch().rows(slice(4, 7))
    assert len(part.rollout) == 3
    assert torch.equal(part.advantage, warm_batch().advantage[4:7])
    assert torch.equal(part.is_scored, warm_batch().is_scored[4:7])
    assert torch.equal(part.reward, warm_batch().reward)


def test_an_advantage_of_the_wrong_shape_is_refused_by_name() -> None:
    def per_prompt(reward: Tensor) -> Tensor:
        return reward.mean(dim=1)

    with pytest.raises(UserError, match=r"the advantage per_prompt returns \[3\] for rewards \[3, 4\]"):
        new_batch(advantage=per_prompt)


class Constant(ClippedSurrogate):
    """An objective whose loss is the given number, whatever the policy: its gradient is zero."""

    number: ClassVar[float] = math.nan

    def __call__(
        self, logp: Tensor, old_logp: Tensor, behaviour_logp: Tensor, advantage: Tensor, is_scored: Tensor
    ) -> PolicyLoss:
        return token_loss(0 * logp + self.number, (logp - old_logp).exp())


class PerCompletion(ClippedSurrogate):
    """An objective that gives one loss for each completion."""

    def __call__(
        self, logp: Tensor, old_logp: Tensor, behaviour_logp: Tensor, advantage: Tensor, is_scored: Tensor
    ) -> PolicyLoss:
        terms = super().__call__(logp, old_logp, behaviour_logp, advantage, is_scored)
        with_other_shape = copy(terms)
        object.__setattr__(with_other_shape, "loss", terms.loss.sum(dim=1))
        return with_other_shape


@pytest.mark.parametrize("micro_batch_size", [None, 5])
def test_a_loss_that_is_no_number_stops_without_a_step(micro_batch_size: int | None) -> None:
    with pytest.raises(NonFiniteLossError, match="the loss is nan"):
        step(warm_batch(), settings_of(MeanField(0.0), objective=Constant(), micro_batch_size=micro_batch_size))


def test_an_objective_with_one_loss_for_each_completion_is_refused() -> None:
    with pytest.raises(UserError, match=r"returns losses \[12\] for tokens \[12, 16\]; return one loss for each token"):
        step(warm_batch(), settings_of(MeanField(0.0), objective=PerCompletion()))
