"""A file of prompts, one JSON object in each line, whose mistakes are named by line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from diffpo.core.conversation import PROMPTS, Prompt, as_prompt, wrong_message
from diffpo.core.errors import UserError
from diffpo.models.chat import encode_prompt
from diffpo.models.positions import require_room
from diffpo.tasks.datasets import Row, read_rows

WRITTEN = ("completion", "nfe", "seed")
"""The fields that are added to a line."""


@dataclass(frozen=True)
class PromptLine:
    """One line of the file."""

    location: str
    """The file and the line, for messages: `prompts.jsonl:3`."""
    columns: Mapping[str, Any]
    prompt: Prompt


def read_prompts(path: Path) -> list[PromptLine]:
    """Return the lines of a JSONL file of prompts, at least one; blank lines are left out.

    Raises UserError, naming the line, for what is no object with a prompt, and for one that has a field of `WRITTEN`.
    """
    if path.suffix != ".jsonl":
        raise UserError(f"{path} should be a .jsonl file: one JSON object with a field 'prompt' in each line")
    return [_prompt_line(row) for row in read_rows(str(path), "test")]


def _prompt_line(row: Row) -> PromptLine:
    if taken := [name for name in WRITTEN if row.has(name)]:
        raise UserError(f"{row.location}: field {taken[0]!r} is there already, and would be replaced; rename it")
    value = row.value("prompt")
    if (prompt := as_prompt(value)) is None:
        if told := wrong_message(value):
            raise UserError(f"{row.location}: field prompt{told}")
        raise UserError(f"{row.location}: field 'prompt' should be {PROMPTS}, got {value!r:.60}")
    return PromptLine(row.location, row.columns, prompt)


def encode_lines(
    tokenizer: PreTrainedTokenizerFast, lines: Sequence[PromptLine], most: int, length: int
) -> list[list[int]]:
    """Return the ids of each line's prompt in the model's chat template.

    Raises UserError, naming the line, for what the tokenizer or its template does not take, and for what is more than
    `most` tokens with a completion of `length`.
    """
    return [_encode_line(tokenizer, line, most, length) for line in lines]


def _encode_line(tokenizer: PreTrainedTokenizerFast, line: PromptLine, most: int, length: int) -> list[int]:
    try:
        ids = encode_prompt(tokenizer, line.prompt)
        require_room(most, len(ids), length)
    except UserError as error:
        raise UserError(f"{line.location}: {error}") from error
    return ids
