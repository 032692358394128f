"""Fit a risk model to labelled states by cross-entropy."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from diffpo.core.errors import NonFiniteLossError
from diffpo.core.randomness import generator_for
from diffpo.sampling.risk import RiskModel, context_features
from diffpo.training.risk_data import RiskData

NUM_CHECKS = 15
"""Checks on the held-out states, spread evenly over the steps."""


@dataclass(frozen=True)
class FitSettings:
    """How a risk model is fitted."""

    steps: int
    batch: int
    lr: float
    weight_decay: float


def fit_risk(
    model: RiskModel, train: RiskData, held_out: RiskData, settings: FitSettings, seed: int
) -> dict[str, float]:
    """Fit the model, and leave it as it was at its best check on the held-out states; return metrics.

    States of one problem are alike, so those held out should be of other problems. Raises ValueError where either has
    no states, and NonFiniteLossError where no check gives a number.
    """
    if not len(train) or not len(held_out):
        raise ValueError(f"{len(train)} states to learn from and {len(held_out)} held out: both need at least one")
    is_candidate = train.is_candidate
    context = context_features(train.statistics, is_candidate)
    model.standardise_(train.hidden[is_candidate], context[is_candidate])
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    generator = generator_for(seed, "risk")
    best, best_state = math.inf, model.state_dict()
    check_every = max(1, settings.steps // NUM_CHECKS)
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * (1 + math.cos(math.pi * step / settings.steps)) / 2
        rows = torch.randint(len(train), (settings.batch,), generator=generator)
        optimizer.zero_grad()
        risk_loss(model, train.rows(rows)).backward()
        optimizer.step()
        if (step + 1) % check_every == 0 or step + 1 == settings.steps:
            loss = mean_loss(model, held_out)
            if loss < best:
                best, best_state = loss, {name: value.clone() for name, value in model.state_dict().items()}
    if best == math.inf:
        raise NonFiniteLossError("the loss of the risk model is no number; lower fit.lr")
    model.load_state_dict(best_state)
    harm_rate = float(train.is_harm[is_candidate].float().mean())
    return {"states": float(len(train)), "harm_rate": harm_rate, "held_out_loss": best}


def risk_loss(model: RiskModel, data: RiskData) -> Float[Tensor, ""]:
    """Return the mean binary cross-entropy of the candidates, in nats."""
    device = model.token.weight.device
    is_candidate = data.is_candidate.to(device)
    scores = model.token_scores(data.statistics.to(device), data.hidden.to(device))
    logit = model.logit(scores, is_candidate)[is_candidate]
    return F.binary_cross_entropy_with_logits(logit, data.is_harm.to(device)[is_candidate].float())


@torch.no_grad()
def mean_loss(model: RiskModel, data: RiskData, rows: int = 1024) -> float:
    """Return the loss on many states, some rows at a time."""
    total, count = 0.0, 0
    for start in range(0, len(data), rows):
        part = data.rows(slice(start, start + rows))
        candidates = int(part.is_candidate.sum())
        total += float(risk_loss(model, part)) * candidates
        count += candidates
    return total / count
