"""A file of prompts, one JSON object in each line, whose mistakes are named by line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from diffpo.core.errors import UserError
from diffpo.models.chat import encode_prompt, encode_turns
from diffpo.tasks.datasets import Row, read_rows

WRITTEN = ("completion", "nfe", "seed")
"""The fields that are added to a line."""
ROLES = ("system", "user", "assistant")
"""Those that a message may have: a template writes a role as it is, so that one's own could be a control token."""
MESSAGES = f"a text, or a list of messages, each with 'role' ({', '.join(ROLES)}) and 'content', a text"


@dataclass(frozen=True)
class PromptLine:
    """One line of the file."""

    location: str
    """The file and the line, for messages: `prompts.jsonl:3`."""
    columns: Mapping[str, Any]
    prompt: str | list[dict[str, str]]
    """A user's text, or the messages of a chat."""


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
    prompt = row.value("prompt")
    if is_text(prompt) or (isinstance(prompt, list) and prompt and all(map(is_message, prompt))):
        return PromptLine(row.location, row.columns, prompt)
    raise UserError(f"{row.location}: field 'prompt' should be {MESSAGES}, got {prompt!r:.60}")


def is_text(value: object) -> bool:
    """Return whether a value is a text that is not blank."""
    return isinstance(value, str) and bool(value.strip())


def is_message(value: object) -> bool:
    """Return whether a value is a message of a chat."""
    if not isinstance(value, dict) or value.keys() != {"role", "content"}:
        return False
    return value["role"] in ROLES and is_text(value["content"])


def encode_lines(
    tokenizer: PreTrainedTokenizerFast, lines: Sequence[PromptLine], capacity: int | None
) -> list[list[int]]:
    """Return the ids of each line's prompt in the model's chat template.

    Raises UserError, naming the line, for what the tokenizer or its template does not take, for messages where there
    is no template, and for more than `capacity` ids.
    """
    return [_encode_line(tokenizer, line, capacity) for line in lines]


def _encode_line(tokenizer: PreTrainedTokenizerFast, line: PromptLine, capacity: int | None) -> list[int]:
    if not isinstance(line.prompt, str) and not tokenizer.chat_template:
        raise UserError(f"{line.location}: the model has no chat template for a list of messages; give a text")
    try:
        if isinstance(line.prompt, str):
            ids = encode_prompt(tokenizer, line.prompt)
        else:
            ids = encode_turns(tokenizer, line.prompt, is_answered=False)
    except UserError as error:
        raise UserError(f"{line.location}: {error}") from error
    if capacity is not None and len(ids) > capacity:
        raise UserError(
            f"{line.location}: the prompt has {len(ids)} tokens, and beside the completion the model has positions for "
            f"{max(0, capacity)}; shorten it, or lower --length"
        )
    return ids
