"""Commit policies for tests, and every trajectory of one with all sets that its calls may draw, by the definitions."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import torch
from torch import Tensor

from diffpo.core.options import CommitPolicyKind
from diffpo.core.rollout import Rollout
from diffpo.sampling.commit_policy import CommitPolicy
from tests.helpers.oracle import TableDenoiser, keys_of
from tests.helpers.risk import hidden_of

SetKey = tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...]]
"""(completion_ids, unmask_step, is_drawn) of one row: the last call may draw a stop token behind the first one, or be
filled with it."""
Logits = Callable[[Mapping[int, Sequence[float]]], dict[int, float]]
"""From the probabilities of every candidate position to the logits of a commit policy."""


@dataclass(frozen=True)
class DrawnTrajectory:
    token_logp: tuple[float, ...]
    set_logp: tuple[float, ...]
    """Of the set of each call."""

    @property
    def probability(self) -> float:
        return math.exp(sum(self.token_logp) + sum(self.set_logp))


def set_keys(rollout: Rollout) -> list[SetKey]:
    rows = zip(keys_of(rollout), rollout.is_drawn.tolist(), strict=True)
    return [(*key, tuple(is_drawn)) for key, is_drawn in rows]


def commit_policy(kind: CommitPolicyKind, num_inputs: int, seed: int = 0, spread: float = 1.5) -> CommitPolicy:
    """A random policy whose probabilities are far from equal, and depend on everything that it looks at."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = CommitPolicy(kind, num_inputs, width=8, initial_probability=0.4)
        torch.nn.init.normal_(policy.condition.weight, std=0.3)
        torch.nn.init.normal_(policy.last.weight, std=spread)
    return policy.requires_grad_(False)


def logits_of(policy: CommitPolicy, length: int) -> Logits:
    """The policy's logits on one canvas, as the oracle asks for them."""

    def of(candidates: Mapping[int, Sequence[float]]) -> dict[int, float]:
        inputs = torch.zeros(1, length, policy.num_inputs)
        is_candidate = torch.zeros(1, length, dtype=torch.bool)
        for i, p in candidates.items():
            inputs[0, i] = inputs_of(policy, p)
            is_candidate[0, i] = True
        with torch.no_grad():
            logit = policy(inputs, is_candidate)[0].tolist()
        return {i: logit[i] for i in candidates}

    return of


def sets_of(logits: Mapping[int, float]) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every set that a call may commit, with its probability: its draw's; the best one has the empty draw's, too."""
    probability = {i: 1 / (1 + math.exp(-logit)) for i, logit in logits.items()}

    def of_draw(drawn: Sequence[int]) -> float:
        return math.prod(p if i in drawn else 1 - p for i, p in probability.items())

    best = max(logits, key=lambda i: (logits[i], -i))
    for size in range(1, len(logits) + 1):
        for drawn in combinations(sorted(logits), size):
            yield drawn, of_draw(drawn) + (of_draw(()) if drawn == (best,) else 0.0)


def drawn_trajectories(
    denoiser: TableDenoiser,
    prompt: Sequence[int],
    length: int,
    block_length: int,
    logits: Logits,
    temperature: float = 1.0,
    stop_ids: Sequence[int] = (),
) -> dict[SetKey, DrawnTrajectory]:
    """Everything that can happen: at each call all sets, and for each all combinations of tokens."""
    mask, start = denoiser.mask_id, len(prompt)
    found: dict[SetKey, DrawnTrajectory] = {}

    def visit(completion: list[int], steps: list[int], logps: list[float], sets: list[float]) -> None:
        masked = [i for i in range(length) if completion[i] == mask]
        block = [i for i in masked if i // block_length == masked[0] // block_length]
        canvas = [*prompt, *completion]
        candidates = {i: [math.exp(value) for value in denoiser.logp(canvas, start + i)] for i in block}
        for chosen, probability in sets_of(logits(candidates)):
            after_sets = [*sets, math.log(probability)]
            for tokens in product(denoiser.tokens, repeat=len(chosen)):
                after, after_steps, after_logps = completion.copy(), steps.copy(), logps.copy()
                for i, token in zip(chosen, tokens, strict=True):
                    after[i], after_steps[i] = token, len(sets)
                    after_logps[i] = denoiser.logp(canvas, start + i, temperature)[token]
                left = [i for i in range(length) if after[i] == mask]
                stops = [i for i in range(length) if after[i] in stop_ids]
                if left and not (stops and stops[0] < left[0]):
                    visit(after, after_steps, after_logps, after_sets)
                    continue
                for i in left:
                    after[i], after_steps[i] = after[stops[0]], len(sets)
                key = tuple(after), tuple(after_steps), tuple(i not in left for i in range(length))
                assert key not in found, "the key is the whole trajectory"
                found[key] = DrawnTrajectory(tuple(after_logps), tuple(after_sets))

    visit([mask] * length, [0] * length, [0.0] * length, [])
    return found


def set_inputs(
    denoiser: TableDenoiser, policy: CommitPolicy, prompt: Sequence[int], key: SetKey, block_length: int
) -> Tensor:
    """What the policy looks at in each call of a trajectory, [C, L, S], from the definitions; zeros after the last."""
    ids, steps, _ = key
    found = torch.zeros(len(ids), len(ids), policy.num_inputs)
    for call in range(max(steps) + 1):
        masked = [i for i, step in enumerate(steps) if step >= call]
        canvas = [*prompt, *(denoiser.mask_id if i in masked else token for i, token in enumerate(ids))]
        for i in masked:
            if i // block_length == masked[0] // block_length:
                p = [math.exp(value) for value in denoiser.logp(canvas, len(prompt) + i)]
                found[call, i] = inputs_of(policy, p)
    return found


def inputs_of(policy: CommitPolicy, probabilities: Sequence[float]) -> Tensor:
    return torch.tensor(hidden_of(probabilities) if policy.kind == "planner" else [max(probabilities)])
