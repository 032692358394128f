"""What a risk model learns from: states of decodings, and which tokens would have spoilt their answers.

A completion is decoded quickly up to a random call, at a random bound, then patiently, one token per call, to its end.
From that call on every state is labelled at once: committing a token is harm where patience ends in a solved problem
and another token. So one patient decoding labels its whole path, and states of every speed come up. Where patience
fails, too, haste does no harm: a hopeless problem is not worth a call.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffpo.core.canvas import canvas_at, completion_mask
from diffpo.core.randomness import stratified_uniform, uniform_to_index
from diffpo.models.encoding import encode_prompts
from diffpo.models.tokenizer import decode_text
from diffpo.sampling.answering import drawings
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import SampledCall, sample
from diffpo.sampling.policy import Policy
from diffpo.sampling.risk import NUM_STATISTICS
from diffpo.sampling.risk_rules import Patient
from diffpo.sampling.rules import EntropyBound
from diffpo.tasks.base import Problem, Task, grade_all


@dataclass(frozen=True)
class RiskData:
    """S states of completions with L tokens, on the CPU."""

    statistics: Float[Tensor, "S L 3"]
    hidden: Float[Tensor, "S L D"]
    """In half precision, as they take most of the room."""
    is_candidate: Bool[Tensor, "S L"]
    is_harm: Bool[Tensor, "S L"]
    """Whether committing the candidate's likeliest token would spoil an answer that patience gets right."""
    row: Int[Tensor, " S"]
    """The decoding that each state is of."""

    def __len__(self) -> int:
        return len(self.row)

    def rows(self, index: Int[Tensor, " s"] | Bool[Tensor, " S"] | slice) -> "RiskData":
        """Return some of the states."""
        return RiskData(*(getattr(self, field.name)[index] for field in fields(self)))


def concatenate(parts: Sequence[RiskData]) -> RiskData:
    """Return the states of all parts, whose rows keep their numbers."""
    return RiskData(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(RiskData)))


@dataclass(frozen=True)
class Haste:
    """How completions are decoded before patience takes over."""

    low: float
    """Bounds on the plain sum of entropies, in nats, are drawn log-uniformly between `low` and `high`."""
    high: float
    fresh: float
    """Share of completions that are patient from their first call on."""

    def bounds(self, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
        uniform = stratified_uniform(count, 1, generator)[:, 0]
        low, high = torch.tensor([self.low, self.high]).log()
        bounds: Tensor = (low + (high - low) * uniform).exp()
        return bounds


def collect_states(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    block_length: int,
    max_in_flight: int | None,
    haste: Haste,
    states_per_completion: int,
    generator: torch.Generator,
) -> tuple[RiskData, float]:
    """Decode each problem once, greedily; return some labelled states, and the share solved.

    Of a decoding each call is kept with probability `states_per_completion` / L, so that there are at most that many on
    average. The states' `row` is the problem's number. Nothing depends on `max_in_flight`.
    """
    prompt_ids, prompt_mask = (
        x.to(policy.device) for x in encode_prompts(policy.tokenizer, [problem.conversation for problem in problems])
    )
    quick = Decoding(
        EntropyBound(subtract_max=False), task.completion_length, block_length, max_in_flight=max_in_flight
    )
    start = hasty_starts(policy, prompt_ids, prompt_mask, quick, haste, generator)
    patient = Decoding(Patient(), task.completion_length, block_length, max_in_flight=max_in_flight)
    uniform = torch.rand(len(problems), task.completion_length, generator=generator)
    kept = KeptStates(uniform < states_per_completion / task.completion_length)
    rollout = sample(policy.denoiser, prompt_ids, prompt_mask, patient, start=start, observe=kept)
    texts = [decode_text(policy.tokenizer, row, policy.denoiser.stop_ids) for row in rollout.completion_ids.tolist()]
    is_solved = torch.tensor([grade.is_solved for grade in grade_all(task, problems, texts, drawings(rollout))])
    states = kept.labelled(rollout.completion_ids.cpu(), is_solved, policy.denoiser.stop_ids)
    return states, float(is_solved.float().mean())


def hasty_starts(
    policy: Policy,
    prompt_ids: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    quick: Decoding,
    haste: Haste,
    generator: torch.Generator,
) -> Int[Tensor, "B L"]:
    """Return each completion as it stands before one of the calls of a quick decoding, or fully masked."""
    bounds = haste.bounds(len(prompt_ids), generator)
    rollout = sample(policy.denoiser, prompt_ids, prompt_mask, quick, row_bound=bounds)
    calls = rollout.nfe.cpu()
    early = torch.rand(len(calls), generator=generator).square()  # as all that follows is labelled, too
    step = 1 + uniform_to_index(early, (calls - 1).clamp(min=1))
    is_fresh = (torch.rand(len(calls), generator=generator) < haste.fresh) | (calls == 1)
    step = step.masked_fill(is_fresh, 0).to(rollout.nfe.device)
    return canvas_at(rollout, step, policy.denoiser.mask_id)[:, -quick.length :]


class KeptStates:
    """An observer of `sample` that keeps some of the states, until their labels are known."""

    def __init__(self, is_kept: Bool[Tensor, "B L"]) -> None:
        """`is_kept`: whether to keep the state of each row's first, second, ... call."""
        self.is_kept = is_kept
        self.calls = torch.zeros(len(is_kept), dtype=torch.long)
        self.parts: list[tuple[Tensor, ...]] = []

    def __call__(self, call: SampledCall) -> None:
        rows = call.rows.cpu()
        number = self.calls[rows]
        self.calls[rows] += 1
        kept = self.is_kept[rows, number]
        found = (call.token, call.is_candidate, call.score[:, :, :NUM_STATISTICS])
        hidden = call.score[:, :, NUM_STATISTICS:].half()
        on_cpu = (value[kept.to(value.device)].cpu() for value in (*found, hidden))
        self.parts.append((rows[kept], number[kept], *on_cpu))

    def labelled(self, final: Int[Tensor, "B L"], is_solved: Bool[Tensor, " B"], stop_ids: tuple[int, ...]) -> RiskData:
        """Return the states with their labels, row by row. What is behind an answer's first stop token does no harm."""
        row, number, token, is_candidate, statistics, hidden = map(torch.cat, zip(*self.parts, strict=True))
        counts = completion_mask(final, stop_ids)[row] & is_solved[row, None]
        is_harm = is_candidate & counts & (token != final[row])
        order = (row * self.is_kept.shape[1] + number).argsort()  # whichever rows were in flight together
        return RiskData(statistics, hidden, is_candidate, is_harm, row).rows(order)
