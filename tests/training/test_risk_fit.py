"""A risk model learns what can be learnt, says how likely the rest is, and is left at its best check."""

import itertools
import math

import pytest
import torch
from tests.helpers.risk import risk_model
from torch import Tensor

from diffpo.core.errors import NonFiniteLossError
from diffpo.sampling.risk import RiskModel, token_statistics
from diffpo.training import risk_fit
from diffpo.training.risk_data import RiskData
from diffpo.training.risk_fit import FitSettings, fit_risk, mean_loss, risk_loss

LENGTH, WIDTH = 6, 5
SETTINGS = FitSettings(steps=300, batch=32, lr=5e-3, weight_decay=0.0)


def states(count: int, seed: int, harm: float | None = None) -> RiskData:
    """Random states; the harm is told by the hidden state and by who stands to the left, or is a matter of chance."""
    generator = torch.Generator().manual_seed(seed)
    statistics = token_statistics(3 * torch.randn(count, LENGTH, 8, generator=generator))
    hidden = torch.randn(count, LENGTH, WIDTH, generator=generator)
    is_candidate = torch.rand(count, LENGTH, generator=generator) < 0.7
    is_candidate[:, 0] = True
    left = is_candidate.cumsum(dim=1) - 1
    is_harm = (4 * hidden[..., 2] + left > 2) & is_candidate
    if harm is not None:
        is_harm = (torch.rand(count, LENGTH, generator=generator) < harm) & is_candidate
    return RiskData(statistics, hidden.half(), is_candidate, is_harm, torch.arange(count))


def fresh(seed: int = 0) -> RiskModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RiskModel(WIDTH, 16)


@torch.no_grad()
def risks(model: RiskModel, data: RiskData) -> Tensor:
    return model.risk(model.token_scores(data.statistics, data.hidden), data.is_candidate)[data.is_candidate]


def test_a_planted_rule_is_learnt() -> None:
    model, test = fresh(), states(300, seed=2)
    metrics = fit_risk(model, states(1000, seed=0), states(200, seed=1), SETTINGS, seed=0)
    is_harm = test.is_harm[test.is_candidate]
    assert 0.3 < float(is_harm.float().mean()) < 0.7
    assert float(((risks(model, test) > 0.5) == is_harm).float().mean()) > 0.95
    assert metrics["held_out_loss"] == pytest.approx(mean_loss(model, states(200, seed=1)))
    assert metrics["held_out_loss"] < 0.2 and metrics["states"] == 1000
    train = states(1000, seed=0)
    assert metrics["harm_rate"] == pytest.approx(float(train.is_harm.sum() / train.is_candidate.sum()))


def test_a_matter_of_chance_is_given_its_probability() -> None:
    model, test = fresh(), states(300, seed=2, harm=0.1)
    fit_risk(model, states(1500, seed=0, harm=0.1), states(400, seed=1, harm=0.1), SETTINGS, seed=0)
    risk = risks(model, test)
    assert float(risk.mean()) == pytest.approx(0.1, abs=0.02) and float(risk.std()) < 0.05


def test_the_loss_is_the_cross_entropy_of_the_candidates() -> None:
    model, data = risk_model(WIDTH), states(7, seed=3)
    risk, is_harm = risks(model, data).double(), data.is_harm[data.is_candidate]
    expected = -torch.where(is_harm, risk, 1 - risk).log().mean()
    assert float(risk_loss(model, data)) == pytest.approx(float(expected), rel=1e-4)
    # States have different numbers of candidates, each of which counts once.
    assert mean_loss(model, data, rows=2) == pytest.approx(float(expected), rel=1e-4)


def test_the_best_check_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Tensor]] = []
    losses = iter([0.5, 0.3, 0.4, math.nan, 0.35])

    def check(model: RiskModel, data: RiskData) -> float:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(losses)

    monkeypatch.setattr(risk_fit, "mean_loss", check)
    monkeypatch.setattr(risk_fit, "NUM_CHECKS", 5)
    model = fresh()
    settings = FitSettings(steps=10, batch=8, lr=1e-2, weight_decay=0.0)
    metrics = fit_risk(model, states(50, seed=0), states(10, seed=1), settings, seed=0)
    assert metrics["held_out_loss"] == 0.3 and len(seen) == 5
    assert all(torch.equal(value, seen[1][name]) for name, value in model.state_dict().items())
    assert not torch.equal(seen[1]["token.weight"], seen[4]["token.weight"])


@pytest.mark.parametrize(("steps", "checks"), [(1, 1), (4, 4), (31, 16), (30, 15)])
def test_the_last_step_is_checked_too(steps: int, checks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = itertools.count(1.0)
    monkeypatch.setattr(risk_fit, "mean_loss", lambda model, data: next(losses))
    settings = FitSettings(steps=steps, batch=2, lr=1e-3, weight_decay=0.0)
    fit_risk(fresh(), states(5, seed=0), states(5, seed=1), settings, seed=0)
    assert next(losses) == checks + 1


def test_seeds_give_the_same_model() -> None:
    settings = FitSettings(steps=20, batch=8, lr=1e-2, weight_decay=1e-2)
    models = [fresh(), fresh(), fresh()]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        fit_risk(model, states(50, seed=0), states(10, seed=1), settings, seed)
    one, again, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["token.weight"], other["token.weight"])
    assert one["hidden_mean"].any() and not torch.equal(one["context_std"], torch.ones(14))


def test_what_cannot_be_fitted_is_refused() -> None:
    empty = states(5, seed=0).rows(slice(0, 0))
    for train, held_out in ((empty, states(5, seed=0)), (states(5, seed=0), empty)):
        with pytest.raises(ValueError, match="both need at least one"):
            fit_risk(fresh(), train, held_out, SETTINGS, seed=0)
    broken = states(5, seed=0)
    broken.hidden.fill_(math.nan)
    with pytest.raises(NonFiniteLossError, match=r"lower fit\.lr"):
        fit_risk(fresh(), broken, broken, FitSettings(3, 2, 1e-3, 0.0), seed=0)
