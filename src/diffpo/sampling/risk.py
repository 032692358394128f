"""The risk model, a learned sampler: how likely committing a token now spoils an answer that patience would get right.

The entropy-bound rule adds up entropies, which do not say which tokens depend on each other, and which the policy is
wrong about. This puts a learned number in their place, from what the call has computed anyway: the position's hidden
state and the shape of its distribution and of its neighbours'. No gradient reaches the denoiser.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diffpo.sampling.rules import entropy

NUM_STATISTICS = 3
NUM_CONTEXT = 14
MAX_DEVIATION = 8.0
"""Standard deviations at which inputs are cut off, so that no unseen state drives the network out of its range."""


def token_statistics(logits: Float[Tensor, "... V"]) -> Float[Tensor, "... 3"]:
    """Return what the model looks at of each distribution: its entropy in nats, and its two largest probabilities."""
    first, second = logits.softmax(dim=-1).topk(2, dim=-1).values.unbind(dim=-1)
    return torch.stack([entropy(logits), first, second], dim=-1)


def context_features(statistics: Float[Tensor, "B L 3"], is_candidate: Bool[Tensor, "B L"]) -> Float[Tensor, "B L C"]:
    """Describe each candidate's distribution, and where it stands among the candidates of its row, by C numbers.

    Of its own: the entropy and its log, the two largest probabilities, their margin, the log of what the largest lacks.
    Among the others: its rank by entropy, the entropy spent up to it in that order and its log, the entropy and the
    number of the candidates to its left. Of all: their number, and their mean and largest entropy. Zeros elsewhere.
    """
    length = is_candidate.shape[1]
    nats, first, second = statistics.unbind(dim=-1)
    own = nats.masked_fill(~is_candidate, 0.0)
    order = nats.masked_fill(~is_candidate, torch.inf).argsort(dim=1, stable=True)
    rank = order.argsort(dim=1)
    spent = own.gather(1, order).cumsum(dim=1).gather(1, rank)
    count = is_candidate.sum(dim=1, keepdim=True)
    left = own.cumsum(dim=1) - own
    num_left = is_candidate.cumsum(dim=1) - is_candidate.long()
    found = (
        *(nats, (nats + 1e-3).log(), first, second, first - second, (1 - first + 1e-4).log()),
        *(rank / length, spent, (spent + 1e-3).log(), left, num_left / length),
        *((count / length).expand_as(nats), (own.sum(dim=1, keepdim=True) / count.clamp(min=1)).expand_as(nats)),
        own.amax(dim=1, keepdim=True).expand_as(nats),
    )
    return torch.stack(found, dim=-1).masked_fill(~is_candidate[:, :, None], 0.0)


class RiskModel(nn.Module):
    """One hidden layer over a position's hidden state and its context, one more, and a logit.

    The first layer's part that reads the hidden state is a function of the position alone: `token_scores` applies it
    where the logits are made, so that no hidden state of a whole completion has to be kept. Inputs are standardised.
    """

    hidden_mean: Tensor
    hidden_std: Tensor
    context_mean: Tensor
    context_std: Tensor

    def __init__(self, hidden_size: int, width: int = 128) -> None:
        super().__init__()
        self.hidden_size, self.width = hidden_size, width
        self.token = nn.Linear(hidden_size, width)
        self.context = nn.Linear(NUM_CONTEXT, width, bias=False)
        self.body = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self.register_buffer("hidden_mean", torch.zeros(hidden_size))
        self.register_buffer("hidden_std", torch.ones(hidden_size))
        self.register_buffer("context_mean", torch.zeros(NUM_CONTEXT))
        self.register_buffer("context_std", torch.ones(NUM_CONTEXT))

    def token_scores(
        self, statistics: Float[Tensor, "... 3"], hidden: Float[Tensor, "... D"]
    ) -> Float[Tensor, "... S"]:
        """Return the statistics beside what the first layer makes of the hidden states: S = 3 + width numbers."""
        return torch.cat([statistics, self.token(standard(hidden.float(), self.hidden_mean, self.hidden_std))], dim=-1)

    def logit(self, scores: Float[Tensor, "B L S"], is_candidate: Bool[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """Return the logit of each candidate's risk, from its `token_scores`."""
        statistics, token = scores.split([NUM_STATISTICS, self.width], dim=-1)
        context = standard(context_features(statistics, is_candidate), self.context_mean, self.context_std)
        logit: Tensor = self.body(token + self.context(context)).squeeze(-1)
        return logit

    def risk(self, scores: Float[Tensor, "B L S"], is_candidate: Bool[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """Return each candidate's risk, above 0 and at most 1: at bound 0 one token is committed per call."""
        risk = self.logit(scores, is_candidate).sigmoid()
        return risk.clamp(min=torch.finfo(risk.dtype).tiny)

    @torch.no_grad()
    def standardise_(self, hidden: Float[Tensor, "M D"], context: Float[Tensor, "M C"]) -> None:
        """Take the means and standard deviations of these inputs for those of all."""
        for values, mean, std in (
            (hidden.float(), self.hidden_mean, self.hidden_std),
            (context, self.context_mean, self.context_std),
        ):
            mean.copy_(values.mean(dim=0))
            std.copy_(values.std(dim=0, correction=0).clamp(min=1e-3))


def standard(values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return values in standard deviations from the mean, cut off at MAX_DEVIATION."""
    return ((values - mean) / std).clamp(-MAX_DEVIATION, MAX_DEVIATION)
