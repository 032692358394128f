"""Problems become one batch of graded, credited rollouts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from diffpo.core.canvas import completion_mask, full_attention_mask
from diffpo.core.errors import UserError
from diffpo.core.options import CacheKind
from diffpo.core.rollout import Rollout
from diffpo.distributed.collectives import all_gather_object, all_gather_rows, raise_on_all_ranks
from diffpo.distributed.process import rank_slice
from diffpo.models.chat import encode_prompt, turn_end_ids
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.tokenizer import decode_text, encode_text
from diffpo.sampling.loop import BoundController, sample
from diffpo.sampling.rules import Rule, entropy
from diffpo.tasks.base import Grade, Problem, Task

Advantage = Callable[[Float[Tensor, "Q G"]], Float[Tensor, "Q G"]]
ALL = slice(None)


@dataclass(frozen=True)
class Decoding:
    """How completions are drawn: everything of the sampler but the model and the prompts."""

    rule: Rule
    length: int
    block_length: int
    temperature: float = 0.0
    controller: BoundController | None = None
    explore: bool = False
    max_in_flight: int | None = None
    cache: CacheKind = "none"


@dataclass(frozen=True)
class Batch:
    """One round of experience. Rows are ordered by prompt: Q prompts x G completions = B."""

    rollout: Rollout
    reward: Float[Tensor, "Q G"]
    """What the tokens are credited with."""
    bound_reward: Float[Tensor, "Q G"]
    """What the drawn entropy bounds are credited with."""
    is_solved: Bool[Tensor, "Q G"]
    is_scored: Bool[Tensor, "B L"]
    """Tokens that count: up to and including the first stop token."""
    advantage: Float[Tensor, " B"]
    bound_advantage: Float[Tensor, " B"]
    """Credit of the drawn entropy bound."""
    grader_failed: int = 0
    """Completions that earned nothing because the grader failed, which is no fault of the model's."""
    prompts_too_long: int = 0
    """Prompts that were left out before these were found."""

    @property
    def has_spread(self) -> Bool[Tensor, " B"]:
        """Whether the completions of the row's prompt earned different rewards, so that there is something to learn."""
        spread: Bool[Tensor, " B"] = (self.reward.amax(dim=1) > self.reward.amin(dim=1)).repeat_interleave(
            self.reward.shape[1]
        )
        return spread

    def rows(self, index: slice | Tensor) -> "Batch":
        """Some rows, for micro-batches: what is per prompt is kept whole."""
        return replace(
            self,
            rollout=self.rollout.rows(index),
            is_scored=self.is_scored[index],
            advantage=self.advantage[index],
            bound_advantage=self.bound_advantage[index],
        )


def encode(
    tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]
) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"]]:
    """Prompts as ids in the model's frame, padded on the left, and the mask of what is not padding."""
    ids_of = {prompt: encode_prompt(tokenizer, prompt) for prompt in set(prompts)}
    rows = [ids_of[prompt] for prompt in prompts]
    width = max(map(len, rows))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    visible = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return ids, visible


def encode_answers(tokenizer: PreTrainedTokenizerFast, answers: Sequence[str], length: int) -> Int[Tensor, "B L"]:
    """Answers as canvases of `length` ids: the end of the turn, where the model has one, then end-of-text tokens.

    They are tokens like the others, to be predicted and scored: it is by them that a model learns to end (LLaDA,
    arXiv 2502.09992). Raises UserError for an answer that the canvas cannot hold.
    """
    rows = [encode_text(tokenizer, answer) + turn_end_ids(tokenizer) for answer in answers]
    if (longest := max(map(len, rows))) > length:
        raise UserError(f"an answer has {longest} tokens, and the canvas {length}; raise task.completion_length")
    return torch.tensor([row + [tokenizer.eos_token_id] * (length - len(row)) for row in rows])


def answer(
    denoiser: ModelDenoiser,
    tokenizer: PreTrainedTokenizerFast,
    task: Task,
    problems: Sequence[Problem],
    decoding: Decoding,
    seeds: Int[Tensor, " B"] | None = None,
    rows: slice = ALL,
) -> tuple[Rollout, list[Grade]]:
    """One completion for each problem, and its grade; for some of them, on canvases as wide as all need."""
    prompt_ids, prompt_mask = encode(tokenizer, [problem.prompt for problem in problems])
    device = denoiser.model.device
    rollout = sample(
        denoiser,
        prompt_ids[rows].to(device),
        prompt_mask[rows].to(device),
        length=decoding.length,
        block_length=decoding.block_length,
        rule=decoding.rule,
        temperature=decoding.temperature,
        seeds=None if seeds is None else seeds[rows],
        controller=decoding.controller,
        explore=decoding.explore,
        stop_ids=denoiser.stop_ids,
        max_in_flight=decoding.max_in_flight,
        cache=decoding.cache,
    )
    completions = [tuple(row) for row in rollout.completion_ids.tolist()]
    text_of = {row: decode_text(tokenizer, row, denoiser.stop_ids) for row in set(completions)}
    texts = (text_of[row] for row in completions)
    return rollout, [task.grade(problem, text) for problem, text in zip(problems[rows], texts, strict=True)]


def answer_in_batches(
    denoiser: ModelDenoiser,
    tokenizer: PreTrainedTokenizerFast,
    task: Task,
    problems: Sequence[Problem],
    decoding: Decoding,
    batch: int,
    seeds: Int[Tensor, " B"] | None = None,
) -> tuple[list[Rollout], list[Grade]]:
    """`answer` for at most `batch` problems at a time: a rollout for each batch, a grade for each problem."""
    rollouts: list[Rollout] = []
    grades: list[Grade] = []
    for start in range(0, len(problems), batch):
        rows = slice(start, start + batch)
        found = answer(denoiser, tokenizer, task, problems[rows], decoding, None if seeds is None else seeds[rows])
        rollouts.append(found[0])
        grades += found[1]
    return rollouts, grades


@torch.no_grad()
def first_call_entropy(
    denoiser: ModelDenoiser,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
    length: int,
    rows: slice = ALL,
) -> Float[Tensor, "B L"]:
    """Entropies, in nats, of a fully masked completion after each prompt: what a controller reads. `rows`: as above."""
    encoded = encode(tokenizer, [problem.prompt for problem in problems])
    prompt_ids, prompt_mask = (x[rows].to(denoiser.model.device) for x in encoded)
    canvas = torch.nn.functional.pad(prompt_ids, (0, length), value=denoiser.mask_id)
    at = torch.nn.functional.pad(torch.zeros_like(prompt_mask), (0, length), value=True)
    logits = denoiser(canvas, full_attention_mask(prompt_mask, length), at)
    return entropy(logits).view(len(canvas), length)


def collect(
    denoiser: ModelDenoiser,
    tokenizer: PreTrainedTokenizerFast,
    task: Task,
    problems: Sequence[Problem],
    decoding: Decoding,
    *,
    group: int,
    nfe_penalty: float,
    bound_nfe_penalty: float,
    advantage: Advantage,
    bound_advantage: Advantage,
    generator: torch.Generator,
) -> Batch:
    """`group` completions of every problem, rewarded and credited against each other.

    Of several processes each draws and grades the completions of its share of the problems, then all have all of them.

    `nfe_penalty` in [0, 1] is what a solved problem loses of its reward when it takes one call per token:
    reward = grade - speed * solved * nfe / length. The factor `solved` is the gate: a wrong answer, or one that earns
    only partial credit, gains nothing by being quick. Tokens are credited with `nfe_penalty`, the drawn bounds with
    `bound_nfe_penalty`.
    """
    repeated = [problem for problem in problems for _ in range(group)]
    seeds = torch.randint(2**62, (len(repeated),), generator=generator)
    with raise_on_all_ranks():
        rollout, grades = answer(denoiser, tokenizer, task, repeated, decoding, seeds, rank_slice(len(repeated), group))
    rollout = Rollout(**{field.name: all_gather_rows(getattr(rollout, field.name)) for field in fields(rollout)})
    device = rollout.nfe.device
    grade = all_gather_rows(torch.tensor([g.reward for g in grades], device=device))
    is_solved = all_gather_rows(torch.tensor([g.is_solved for g in grades], device=device))
    calls = (is_solved * rollout.nfe / decoding.length).view(-1, group)
    grade = grade.view(-1, group)
    reward, bound_reward = grade - nfe_penalty * calls, grade - bound_nfe_penalty * calls
    return Batch(
        rollout=rollout,
        reward=reward,
        bound_reward=bound_reward,
        is_solved=is_solved.view(-1, group),
        is_scored=completion_mask(rollout.completion_ids, denoiser.stop_ids),
        advantage=advantage(reward).flatten(),
        bound_advantage=bound_advantage(bound_reward).flatten(),
        grader_failed=sum(all_gather_object(sum(g.status == "grader_failed" for g in grades))),
    )
