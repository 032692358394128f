"""Exact oracles: a denoiser that is a table, and every trajectory of a rule on it, written from the definitions.

Nothing here calls the rules, the sampler or the likelihoods under test.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from diffpo.core.rollout import Rollout
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.denoiser_output import Logits
from diffpo.models.llada import LLaDAConfig, LLaDAModelLM

FORBIDDEN_LOGIT = torch.finfo(torch.float32).min / 2


class TableDenoiser:
    """Independent random logits for every (canvas, attention mask, position): nothing is independent by accident."""

    stop_ids: tuple[int, ...] = ()

    def __init__(self, width: int, vocab: int = 4, mask_id: int = 1, scale: float = 2.0, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.vocab, self.mask_id, self.width = vocab, mask_id, width
        self.table = scale * torch.randn((vocab + 1) ** width, width, vocab, generator=generator)
        self.table[..., mask_id] = FORBIDDEN_LOGIT
        self.asked: list[tuple[Tensor, Tensor]] = []
        """The canvases of every call, and where logits were wanted."""

    @property
    def tokens(self) -> list[int]:
        return [token for token in range(self.vocab) if token != self.mask_id]

    def predict(self, canvas: Tensor, attention_mask: Tensor, at: Tensor) -> Logits:
        self.asked.append((canvas, at))
        digits = canvas.masked_fill(~attention_mask, self.vocab)
        cut = self.width - canvas.shape[1]  # padding on the left may be left out
        index = (pad(digits, (cut, 0), value=self.vocab) * (self.vocab + 1) ** torch.arange(self.width)).sum(dim=1)
        return Logits(self.table[index][:, cut:][at])

    def logp(self, canvas: Sequence[int], position: int, temperature: float = 1.0, hidden: int = 0) -> list[float]:
        """Log-probabilities of one position of one canvas whose first `hidden` tokens are padding, in float64."""
        digits = [self.vocab if place < hidden else token for place, token in enumerate(canvas)]
        index = sum(digit * (self.vocab + 1) ** place for place, digit in enumerate(digits))
        return log_softmax(self.table[index, position].tolist(), temperature)


def log_softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    scaled = [logit / temperature for logit in logits]
    top = max(scaled)
    log_sum = top + math.log(sum(math.exp(value - top) for value in scaled))
    return [value - log_sum for value in scaled]


def tiny_llada(vocab: int, mask_id: int, stop_ids: tuple[int, ...] = (), seed: int = 0, **config: Any) -> ModelDenoiser:
    """A random LLaDA whose conditionals are far from flat and depend on the canvas."""
    shape = {"d_model": 32, "n_layers": 2, "n_heads": 4, "mlp_hidden_size": 48, "initializer_range": 0.3} | config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LLaDAModelLM(LLaDAConfig(vocab_size=vocab, mask_token_id=mask_id, **shape))
    return ModelDenoiser(model.eval(), mask_id, stop_ids)


# ----------------------------------------------------------------------------------- rules, as the papers define them

Chooser = Callable[[Mapping[int, Sequence[float]]], set[int]]
"""From the probabilities of every candidate position to the positions that are committed."""


def entropy_of(probabilities: Sequence[float]) -> float:
    return -sum(p * math.log(p) for p in probabilities if p > 0)


def entropy_bound_count(entropies: Sequence[float], bound: float, subtract_max: bool = True) -> int:
    """#{j : cumsum(H)_j - cummax(H)_j <= bound} of entropies in rising order, at least 1."""
    spent = [sum(entropies[:j]) - (max(entropies[:j]) if subtract_max else 0) for j in range(1, len(entropies) + 1)]
    return max(1, sum(value <= bound for value in spent))


def entropy_bound(bound: float, subtract_max: bool = True) -> Chooser:
    def choose(candidates: Mapping[int, Sequence[float]]) -> set[int]:
        entropies = {position: entropy_of(p) for position, p in candidates.items()}
        order = sorted(candidates, key=lambda position: (entropies[position], position))
        count = entropy_bound_count([entropies[position] for position in order], bound, subtract_max)
        return set(order[:count])

    return choose


def confidence_threshold(threshold: float) -> Chooser:
    def choose(candidates: Mapping[int, Sequence[float]]) -> set[int]:
        sure = {position for position, p in candidates.items() if max(p) >= threshold}
        return sure or {max(candidates, key=lambda position: max(candidates[position]))}

    return choose


def capped_sum(bound: float, cap: float) -> Chooser:
    def choose(candidates: Mapping[int, Sequence[float]]) -> set[int]:
        entropies = {position: entropy_of(p) for position, p in candidates.items()}
        order = sorted(candidates, key=lambda position: (entropies[position], position))
        prefixes = [order[:k] for k in range(2, len(order) + 1)]
        within = [p for p in prefixes if sum(entropies[i] for i in p) <= bound and all(entropies[i] <= cap for i in p)]
        return set(within[-1] if within else order[:1])

    return choose


def margin(threshold: float) -> Chooser:
    def choose(candidates: Mapping[int, Sequence[float]]) -> set[int]:
        margins = {position: sorted(p)[-1] - sorted(p)[-2] for position, p in candidates.items()}
        sure = {position for position in margins if margins[position] >= threshold}
        return sure or {max(margins, key=lambda position: margins[position])}

    return choose


def leftmost(k: int) -> Chooser:
    def choose(candidates: Mapping[int, Sequence[float]]) -> set[int]:
        return set(sorted(candidates)[:k])

    return choose


def top_k(k: int) -> Chooser:
    def choose(candidates: Mapping[int, Sequence[float]]) -> set[int]:
        return set(sorted(candidates, key=lambda position: -max(candidates[position]))[:k])

    return choose


# -------------------------------------------------------------------------------------------------------- enumeration

K = TypeVar("K")
Key = tuple[tuple[int, ...], tuple[int, ...]]
"""(completion_ids, unmask_step) of one row: the whole trajectory."""


@dataclass(frozen=True)
class Trajectory:
    token_logp: tuple[float, ...]
    is_drawn: tuple[bool, ...]
    """False where the mask that was left behind the first stop token was filled with it."""

    @property
    def probability(self) -> float:
        return math.exp(sum(self.token_logp))


def trajectories(
    denoiser: TableDenoiser,
    prompt: Sequence[int],
    length: int,
    block_length: int,
    choose: Chooser,
    temperature: float = 1.0,
    stop_ids: Sequence[int] = (),
) -> dict[Key, Trajectory]:
    """Everything that can happen: at each call, all combinations of tokens for the positions that the rule commits."""
    mask, start = denoiser.mask_id, len(prompt)
    found: dict[Key, Trajectory] = {}

    def visit(completion: list[int], steps: list[int], logps: list[float], step: int) -> None:
        masked = [i for i in range(length) if completion[i] == mask]
        block = [i for i in masked if i // block_length == masked[0] // block_length]
        canvas = [*prompt, *completion]
        candidates = {i: [math.exp(value) for value in denoiser.logp(canvas, start + i)] for i in block}
        chosen = sorted(choose(candidates))
        for tokens in product(denoiser.tokens, repeat=len(chosen)):
            after, after_steps, after_logps = completion.copy(), steps.copy(), logps.copy()
            for i, token in zip(chosen, tokens, strict=True):
                after[i], after_steps[i] = token, step
                after_logps[i] = denoiser.logp(canvas, start + i, temperature)[token]
            left = [i for i in range(length) if after[i] == mask]
            stops = [i for i in range(length) if after[i] in stop_ids]
            if left and not (stops and stops[0] < left[0]):
                visit(after, after_steps, after_logps, step + 1)
                continue
            for i in left:
                after[i], after_steps[i] = after[stops[0]], step
            is_drawn = tuple(i not in left for i in range(length))
            found[tuple(after), tuple(after_steps)] = Trajectory(tuple(after_logps), is_drawn)

    visit([mask] * length, [0] * length, [0.0] * length, 0)
    return found


def keys_of(rollout: Rollout) -> list[Key]:
    rows = zip(rollout.completion_ids.tolist(), rollout.unmask_step.tolist(), strict=True)
    return [(tuple(ids), tuple(steps)) for ids, steps in rows]


def chi_square_p(observed: Counter[K], probability: Mapping[K, float]) -> float:
    """p-value of Pearson's test that the counts follow the probabilities; cells that expect under 5 are pooled."""
    count = observed.total()
    rare = [key for key, p in probability.items() if count * p < 5]
    cells = [(observed[key], count * p) for key, p in probability.items() if count * p >= 5]
    if rare:
        cells.append((sum(observed[key] for key in rare), count * sum(probability[key] for key in rare)))
    statistic = sum((seen - expected) ** 2 / expected for seen, expected in cells)
    freedom = len(cells) - 1
    return float(torch.special.gammaincc(torch.tensor(freedom / 2.0).double(), torch.tensor(statistic / 2).double()))


# ------------------------------------------------------------------------------------------------ random-order decoding


def conditional(
    denoiser: TableDenoiser, prompt: Sequence[int], completion: Sequence[int], visible: Collection[int], position: int
) -> float:
    """log p of one completion token where only the `visible` completion positions are not masked."""
    canvas = [*prompt, *(token if i in visible else denoiser.mask_id for i, token in enumerate(completion))]
    return denoiser.logp(canvas, len(prompt) + position)[completion[position]]


def order_logps(
    denoiser: TableDenoiser, prompt: Sequence[int], completion: Sequence[int]
) -> list[tuple[tuple[int, ...], list[float]]]:
    """Every order of decoding one token a call, and each token's log-probability in it."""
    length = len(completion)
    found = []
    for order in permutations(range(length)):
        visible = {position: order[: order.index(position)] for position in order}
        found.append((order, [conditional(denoiser, prompt, completion, visible[i], i) for i in range(length)]))
    return found


def random_order_logp(denoiser: TableDenoiser, prompt: Sequence[int], completion: Sequence[int]) -> float:
    """log-likelihood of the completion where every order is equally likely: what the ELBO bounds."""
    orders = order_logps(denoiser, prompt, completion)
    return math.log(sum(math.exp(sum(logps)) for _, logps in orders) / len(orders))


def random_order_mean(
    denoiser: TableDenoiser, prompt: Sequence[int], completion: Sequence[int], of: Callable[[float], float]
) -> list[float]:
    """Mean over the orders of a function of each token's log-probability."""
    orders = order_logps(denoiser, prompt, completion)
    return [sum(of(logps[i]) for _, logps in orders) / len(orders) for i in range(len(completion))]


# ------------------------------------------------------------------------------------------------------------- records


def rollout_of(
    prompt_ids: Tensor, completion_ids: Tensor, unmask_step: Tensor, prompt_mask: Tensor | None = None
) -> Rollout:
    """A rollout made by hand, without stop tokens; the behaviour's log-probabilities are zeros, to be replaced."""
    rows = len(prompt_ids)
    return Rollout(
        prompt_ids=prompt_ids,
        prompt_mask=torch.ones_like(prompt_ids, dtype=torch.bool) if prompt_mask is None else prompt_mask,
        completion_ids=completion_ids,
        unmask_step=unmask_step,
        is_answer=torch.ones_like(completion_ids, dtype=torch.bool),
        is_drawn=torch.ones_like(completion_ids, dtype=torch.bool),
        behaviour_logp=torch.zeros(completion_ids.shape),
        nfe=unmask_step.amax(dim=1) + 1,
        entropy_bound=torch.full((rows,), math.nan),
        entropy_bound_logp=torch.zeros(rows),
        prompt_features=torch.zeros(rows, 0),
        commit_logp=torch.zeros(rows, 0),
        commit_inputs=torch.zeros(rows, 0, completion_ids.shape[1], 0),
    )


def all_scored(logp: Tensor) -> Tensor:
    """The mask that scores every token."""
    return torch.ones_like(logp, dtype=torch.bool)
