"""Rows for SFT: prompts in the model's chat template, each followed by its answer and by end-of-text tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from diffpo.core.canvas import full_attention_mask
from diffpo.core.errors import UserError
from diffpo.models.chat import encode_prompt, turn_end_ids
from diffpo.models.encoding import encode_answers, encode_prompts
from diffpo.models.tokenizer import encode_text
from diffpo.tasks.base import Problem, Task

MAX_PROBLEMS_TRIED = 4096
"""Number of problems after which none is expected to fit."""


@dataclass(frozen=True)
class Targets:
    """Rows to learn. A completion (answer, end of turn, end-of-text tokens) is the last `length` tokens of its row."""

    ids: Int[Tensor, "B N"]
    visible: Bool[Tensor, "B N"]
    """False on padding."""
    length: Int[Tensor, " B"]

    def rows(self, index: Int[Tensor, " b"]) -> "Targets":
        return Targets(self.ids[index], self.visible[index], self.length[index])


def on_canvas(tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem], length: int) -> Targets:
    """Return prompts padded on the left, with completions of `length` tokens each.

    Raises UserError for an answer that is longer.
    """
    prompt_ids, prompt_mask = encode_prompts(tokenizer, [problem.conversation for problem in problems])
    answer_ids = encode_answers(tokenizer, [problem.answer for problem in problems], length)
    return Targets(
        torch.cat([prompt_ids, answer_ids], dim=1),
        full_attention_mask(prompt_mask, length),
        torch.full((len(problems),), length),
    )


def draw_sequences(
    tokenizer: PreTrainedTokenizerFast,
    task: Task,
    count: int,
    seed: int,
    sequence_length: int,
    too_long: Literal["cut", "skip"],
) -> tuple[Targets, dict[str, int]]:
    """Return the first `count` train problems that fit, prompt and completion together of `sequence_length` tokens.

    The end of an answer that is too long is cut off, its end of turn with it (d1), or the problem is skipped. A prompt
    is never cut: one that leaves no space for an answer is skipped. Also returns how many answers are `cut`, and how
    many problems were `skipped` on the way. Raises UserError where none of the data fits.
    """
    rows: list[list[int]] = []
    lengths: list[int] = []
    names: set[str] = set()
    num_cut = seen = 0
    while len(rows) < count and (problems := task.problems("train", seen + count, seed)[seen:]):
        for problem in problems:
            seen += 1
            names.add(problem.id)
            prompt = encode_prompt(tokenizer, problem.conversation)
            completion = encode_text(tokenizer, problem.answer) + turn_end_ids(tokenizer)
            space = sequence_length - len(prompt)
            is_long = len(completion) > space
            if space < 1 or (is_long and too_long == "skip"):
                continue
            num_cut += is_long
            lengths.append(space)
            rows.append(prompt + completion[:space] + [tokenizer.eos_token_id] * (space - len(completion)))
            if len(rows) == count:
                break
        if not rows and (seen > len(names) or seen >= MAX_PROBLEMS_TRIED):  # all of them have been seen, or enough
            break
    if not rows:
        advice = "raise it" if too_long == "cut" else "raise it, or use too_long = 'cut'"
        raise UserError(
            f"{task.name}: none of {len(names)} train problems fits into sequence_length {sequence_length}; {advice}"
        )
    ids = torch.tensor(rows)
    targets = Targets(ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor(lengths))
    return targets, {"cut": num_cut, "skipped": seen - len(rows)}
