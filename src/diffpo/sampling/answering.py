"""Problems become completions with grades."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffpo.core.canvas import full_attention_mask
from diffpo.core.rollout import Rollout
from diffpo.models.denoiser_output import DenoiserOutput, mean_hidden
from diffpo.models.encoding import encode_prompts
from diffpo.models.tokenizer import decode_text
from diffpo.sampling.decoding import BoundController, Decoding
from diffpo.sampling.loop import sample
from diffpo.sampling.policy import Policy
from diffpo.sampling.rules import entropy
from diffpo.tasks.base import Drawn, Grade, Problem, Task, grade_all

ALL = slice(None)


def answer_problems(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    decoding: Decoding,
    seeds: Int[Tensor, " B"] | None = None,
    rows: slice = ALL,
    row_bound: Float[Tensor, " B"] | None = None,
) -> tuple[Rollout, list[Grade]]:
    """Draw one completion for each problem, and grade it.

    `rows` chooses some of the problems; their canvases are as wide as those of all. `row_bound` as in `sample`.
    """
    prompt_ids, prompt_mask = encode_prompts(policy.tokenizer, [problem.conversation for problem in problems])
    rollout = sample(
        policy.denoiser,
        prompt_ids[rows].to(policy.device),
        prompt_mask[rows].to(policy.device),
        decoding,
        None if seeds is None else seeds[rows],
        None if row_bound is None else row_bound[rows],
    )
    return rollout, grade_rollout(policy, task, problems[rows], rollout)


def grade_rollout(policy: Policy, task: Task, problems: Sequence[Problem], rollout: Rollout) -> list[Grade]:
    """Grade the completion of each problem."""
    completions = [tuple(row) for row in rollout.completion_ids.tolist()]
    text_of = {row: decode_text(policy.tokenizer, row, policy.denoiser.stop_ids) for row in set(completions)}
    return grade_all(task, problems, [text_of[row] for row in completions], drawings(rollout))


def answer_bounds(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    decoding: Decoding,
    bounds: Sequence[float],
    seeds: Int[Tensor, " B"] | None = None,
) -> list[tuple[Rollout, list[Grade]]]:
    """Do for each of the rule's bounds what `answer_problems` does for one, in a single batch of all.

    `decoding` has the rule, of which its own bound is not used. Equal completions of a problem are graded once, by
    the calls of the first of them.
    """
    encoded = encode_prompts(policy.tokenizer, [problem.conversation for problem in problems])
    prompt_ids, prompt_mask = (x.to(policy.device).repeat_interleave(len(bounds), dim=0) for x in encoded)
    seeds = None if seeds is None else seeds.repeat_interleave(len(bounds))
    rollout = sample(
        policy.denoiser, prompt_ids, prompt_mask, decoding, seeds, torch.tensor(bounds).repeat(len(problems))
    )

    parts = [rollout.rows(slice(i, None, len(bounds))) for i in range(len(bounds))]
    answers = [[(row, tuple(ids)) for row, ids in enumerate(part.completion_ids.tolist())] for part in parts]
    drawn = [drawn for part in parts for drawn in drawings(part)]
    drawn_of = dict(reversed([*zip((answer for part in answers for answer in part), drawn, strict=True)]))
    distinct = list(dict.fromkeys(answer for part in answers for answer in part))
    texts = [decode_text(policy.tokenizer, ids, policy.denoiser.stop_ids) for _, ids in distinct]
    asked = [problems[row] for row, _ in distinct]
    grades = grade_all(task, asked, texts, [drawn_of[answer] for answer in distinct])
    grade_of = dict(zip(distinct, grades, strict=True))
    return [(part, [grade_of[answer] for answer in own]) for part, own in zip(parts, answers, strict=True)]


def drawings(rollout: Rollout) -> list[Drawn]:
    """Return how each completion was drawn, up to its first stop token."""
    columns = (rollout.completion_ids, rollout.unmask_step, rollout.is_answer.sum(dim=1), rollout.nfe)
    return [
        Drawn(tuple(ids[:length]), tuple(steps[:length]), nfe)
        for ids, steps, length, nfe in zip(*(column.tolist() for column in columns), strict=True)
    ]


@torch.no_grad()
def first_call_entropy(
    policy: Policy, problems: Sequence[Problem], length: int, rows: slice = ALL
) -> Float[Tensor, "B L"]:
    """Return the entropies, in nats, of a fully masked completion after each prompt: what a controller looks at.

    `rows` as in `answer_problems`.
    """
    return entropy(first_call(policy, problems, length, rows).logits).view(-1, length)


def first_call_features(
    policy: Policy, controller: BoundController, problems: Sequence[Problem], length: int, rows: slice = ALL
) -> Float[Tensor, "B F"]:
    """Return the controller's features of each prompt. `rows` as in `answer_problems`."""
    output = first_call(policy, problems, length, rows)
    index = torch.arange(len(output), device=policy.device).view(-1, length)
    hidden = mean_hidden(output, index) if controller.needs_hidden else None
    return controller.features(entropy(output.logits).view(-1, length), hidden)


@torch.no_grad()
def first_call(policy: Policy, problems: Sequence[Problem], length: int, rows: slice = ALL) -> DenoiserOutput:
    """Return the output at every position of a fully masked completion after each prompt.

    `rows` as in `answer_problems`.
    """
    encoded = encode_prompts(policy.tokenizer, [problem.conversation for problem in problems])
    prompt_ids, prompt_mask = (x[rows].to(policy.device) for x in encoded)
    canvas = torch.nn.functional.pad(prompt_ids, (0, length), value=policy.denoiser.mask_id)
    at = torch.nn.functional.pad(torch.zeros_like(prompt_mask), (0, length), value=True)
    return policy.denoiser.predict(canvas, full_attention_mask(prompt_mask, length), at)
