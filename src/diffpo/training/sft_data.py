"""What SFT learns: prompts in the model's frame, each followed by its answer and by end-of-text tokens."""

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

MOST_LOOKED_AT = 4096
"""Problems, before none is said to fit."""


@dataclass(frozen=True)
class Targets:
    """Rows to learn. A completion (answer, end of turn, end-of-text tokens) is the last `length` tokens of its row."""

    ids: Int[Tensor, "B N"]
    visible: Bool[Tensor, "B N"]
    """What is not padding."""
    length: Int[Tensor, " B"]

    def rows(self, index: Int[Tensor, " b"]) -> "Targets":
        return Targets(self.ids[index], self.visible[index], self.length[index])


def on_canvas(tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem], length: int) -> Targets:
    """Prompts padded on the left, and completions of `length` tokens each.

    Raises UserError for an answer that is longer.
    """
    prompt_ids, prompt_mask = encode_prompts(tokenizer, [problem.prompt for problem in problems])
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
    """The first `count` train problems that fit, each a prompt and a completion of `sequence_length` tokens together.

    Of an answer for which there is no room the end is cut off, its end of turn with it (d1), or it is skipped. A prompt
    is never cut: one that leaves no room at all is skipped. Also returns how many answers are `cut`, and how many
    problems were `skipped` on the way. Raises UserError where none of the data fits.
    """
    rows: list[list[int]] = []
    lengths: list[int] = []
    names: set[str] = set()
    num_cut = seen = 0
    while len(rows) < count and (problems := task.problems("train", seen + count, seed)[seen:]):
        for problem in problems:
            seen += 1
            names.add(problem.id)
            prompt = encode_prompt(tokenizer, problem.prompt)
            completion = encode_text(tokenizer, problem.answer) + turn_end_ids(tokenizer)
            room = sequence_length - len(prompt)
            is_long = len(completion) > room
            if room < 1 or (is_long and too_long == "skip"):
                continue
            num_cut += is_long
            lengths.append(room)
            rows.append(prompt + completion[:room] + [tokenizer.eos_token_id] * (room - len(completion)))
            if len(rows) == count:
                break
        if not rows and (seen > len(names) or seen >= MOST_LOOKED_AT):  # all of them have been seen, or enough
            break
    if not rows:
        advice = "raise it" if too_long == "cut" else "raise it, or use too_long = 'cut'"
        raise UserError(
            f"{task.name}: none of {len(names)} train problems fits into sequence_length {sequence_length}; {advice}"
        )
    ids = torch.tensor(rows)
    targets = Targets(ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor(lengths))
    return targets, {"cut": num_cut, "skipped": seen - len(rows)}
