"""A commit policy's warm start: imitating a confidence threshold before rewards train it, as dUltra's planner does."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from diffpo.core.randomness import generator_for
from diffpo.models.encoding import encode_prompts
from diffpo.sampling.commit_policy import CommitPolicy
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import SampledCall, sample
from diffpo.sampling.policy import Policy
from diffpo.sampling.rules import ConfidenceThreshold, Positions, RowBound
from diffpo.tasks.base import Problem

CALLS_AT_A_TIME = 64


@dataclass(frozen=True)
class ImitatedThreshold:
    """`ConfidenceThreshold` with the hidden state beside the confidence: all that a commit policy may look at."""

    threshold: float
    is_exact: ClassVar[bool] = True

    def hidden_score(
        self, logits: Float[Tensor, "M V"], drawn: Int[Tensor, " M"], hidden: Float[Tensor, "M D"]
    ) -> Float[Tensor, "M S"]:
        confidence = ConfidenceThreshold(self.threshold).score(logits, drawn)
        return torch.cat([confidence[:, None], hidden.float()], dim=1)

    def select(
        self, score: Float[Tensor, "B L S"], is_candidate: Positions, row_bound: RowBound | None = None
    ) -> Positions:
        return ConfidenceThreshold(self.threshold).select(score[:, :, 0], is_candidate)


@dataclass(frozen=True)
class Demonstration:
    """N calls, and what the threshold committed in each; on the CPU."""

    inputs: Float[Tensor, "N L S"]
    is_candidate: Bool[Tensor, "N L"]
    is_commit: Bool[Tensor, "N L"]


def demonstrate(
    policy: Policy, kind: str, problems: list[Problem], decoding: Decoding, threshold: float
) -> Demonstration:
    """Decode the problems greedily by the threshold; return all calls, with what a commit policy of that kind sees.

    They are in the order of problems.
    """
    rule = ImitatedThreshold(threshold)
    found: list[tuple[Tensor, ...]] = []

    def keep(call: SampledCall) -> None:
        inputs = call.score[:, :, 1:] if kind == "planner" else call.score[:, :, :1]
        found.append((call.rows, inputs, call.is_candidate, rule.select(call.score, call.is_candidate)))

    encoded = encode_prompts(policy.tokenizer, [problem.conversation for problem in problems])
    prompt_ids, prompt_mask = (x.to(policy.device) for x in encoded)
    by_threshold = Decoding(rule, decoding.length, decoding.block_length, max_in_flight=decoding.max_in_flight)
    sample(policy.denoiser, prompt_ids, prompt_mask, by_threshold, observe=keep)
    row, *calls = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = row.argsort(stable=True)
    return Demonstration(*(values[order].cpu() for values in calls))


def imitate_(policy: CommitPolicy, shown: Demonstration, steps: int, lr: float, seed: int) -> float:
    """Fit the policy's probabilities to what was committed, by cross-entropy; return the last step's loss, in nats.

    dUltra's code weighs the rarer of the two classes up; without that the threshold's own rate is learned, too.
    """
    optimizer = torch.optim.Adam(policy.parameters(), lr=lr)
    generator = generator_for(seed, "warm start")
    device = next(policy.parameters()).device
    loss = torch.zeros(())
    for _ in range(steps):
        call = torch.randint(len(shown.inputs), (CALLS_AT_A_TIME,), generator=generator)
        is_candidate = shown.is_candidate[call].to(device)
        logit = policy(shown.inputs[call].to(device), is_candidate)[is_candidate]
        loss = binary_cross_entropy_with_logits(logit, shown.is_commit[call].to(device)[is_candidate].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())
