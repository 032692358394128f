"""Risk models for tests, a table that has hidden states, and the risk computed one position at a time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from diffpo.models.denoiser_output import Logits
from diffpo.sampling.prices import Candidate, PricedSampler
from diffpo.sampling.risk import NUM_CONTEXT, RiskModel
from tests.helpers.oracle import Chooser, TableDenoiser, entropy_of


class HiddenTable(TableDenoiser):
    """A table whose hidden states are the log-probabilities, in reverse, with a 0 for the mask token."""

    def predict(self, canvas: Tensor, attention_mask: Tensor, at: Tensor) -> Logits:
        output = super().predict(canvas, attention_mask, at)
        logp = output.logits.log_softmax(dim=-1)
        logp[:, self.mask_id] = 0
        return replace(output, hidden=logp.flip(-1))


def hidden_of(probabilities: Sequence[float]) -> list[float]:
    """The hidden state of `HiddenTable` that goes with these probabilities."""
    return [math.log(p) if p > 0 else 0.0 for p in reversed(probabilities)]


def risk_model(hidden_size: int, width: int = 8, seed: int = 0, spread: float = 6.0) -> RiskModel:
    """A random model whose risks are far from equal, and whose inputs are standardised by odd numbers."""
    generator = torch.Generator().manual_seed(seed)
    model = RiskModel(hidden_size, width)
    model.eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    list(model.body.parameters())[-2].mul_(spread)
    model.hidden_mean.copy_(torch.randn(hidden_size, generator=generator))
    model.context_mean.copy_(torch.rand(NUM_CONTEXT, generator=generator))
    model.context_std.copy_(0.5 + torch.rand(NUM_CONTEXT, generator=generator))
    return model


def features_of(candidates: Mapping[int, Sequence[float]], length: int) -> dict[int, list[float]]:
    """What a risk model is told of each candidate beside its hidden state, from the definitions."""
    nats = {i: entropy_of(p) for i, p in candidates.items()}
    found = {}
    for i, p in candidates.items():
        first, second = sorted(p)[:-3:-1]
        # In the order in which tokens are committed; of equal entropies the left one comes first.
        before = [j for j in candidates if (nats[j], j) < (nats[i], i)]
        spent = sum(nats[j] for j in before) + nats[i]
        to_the_left = [nats[j] for j in candidates if j < i]
        found[i] = [
            *(nats[i], math.log(nats[i] + 1e-3), first, second, first - second, math.log(1 - first + 1e-4)),
            *(len(before) / length, spent, math.log(spent + 1e-3), sum(to_the_left), len(to_the_left) / length),
            *(len(candidates) / length, sum(nats.values()) / len(candidates), max(nats.values())),
        ]
    return found


def risk_of(model: RiskModel, context: Sequence[float], hidden: Sequence[float]) -> float:
    """The risk of one candidate: two hidden layers, of inputs in standard deviations that are cut off at 8."""
    given = [
        ((torch.tensor(x).double() - mean) / std).clamp(-8, 8)
        for x, mean, std in (
            (hidden, model.hidden_mean, model.hidden_std),
            (context, model.context_mean, model.context_std),
        )
    ]
    weight = {name: value.double() for name, value in model.named_parameters()}
    first = weight["token.weight"] @ given[0] + weight["token.bias"] + weight["context.weight"] @ given[1]
    second = weight["body.1.weight"] @ torch.nn.functional.gelu(first) + weight["body.1.bias"]
    logit = weight["body.3.weight"] @ torch.nn.functional.gelu(second) + weight["body.3.bias"]
    return float(logit.sigmoid())


def commit_risk(model: RiskModel, bound: float, length: int) -> Chooser:
    """The rule of a risk model on a `HiddenTable`, as the oracle asks for it."""

    def choose(candidates: Mapping[int, Sequence[float]]) -> set[int]:
        features = features_of(candidates, length)
        risk = {i: risk_of(model, features[i], hidden_of(candidates[i])) for i in candidates}
        order = sorted(candidates, key=lambda i: (risk[i], i))
        prefixes = [order[:k] for k in range(1, len(order) + 1)]
        within = [prefix for prefix in prefixes if sum(risk[i] for i in prefix) <= bound]
        return set(within[-1] if within else order[:1])

    return choose


def priced_sampler(model: RiskModel, length: int = 16) -> PricedSampler:
    """A sampler whose learned rule is best but at prices near 0, where the slowest fixed one is."""
    candidates = (
        Candidate("entropy-bound", 0.0, 0.9, float(length)),
        Candidate("plain-sum", 1.0, 0.5, 4.0),
        Candidate("commit-risk", 0.5, 0.8, 5.0),
        Candidate("commit-risk", 2.0, 0.6, 2.0),
        Candidate("commit-risk", 10.0, 0.1, 1.0),
    )
    return PricedSampler(model, candidates, length)
