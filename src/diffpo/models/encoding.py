"""Encode prompts and answers as padded ids."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from diffpo.core.conversation import Prompt
from diffpo.core.errors import UserError
from diffpo.models.chat import encode_prompt, turn_end_ids
from diffpo.models.tokenizer import encode_text


def encode_prompts(
    tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt]
) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"]]:
    """Return the ids of prompts in the model's chat template, padded on the left, and which of them are not padding."""
    ids_of = {prompt: encode_prompt(tokenizer, prompt) for prompt in set(prompts)}
    return pad_rows(tokenizer, [ids_of[prompt] for prompt in prompts])


def pad_rows(
    tokenizer: PreTrainedTokenizerFast, rows: Sequence[Sequence[int]]
) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"]]:
    """Return rows of ids, padded on the left to one width, and which of them are not padding."""
    width = max(map(len, rows))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + [*row] for row in rows])
    visible = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return ids, visible


def encode_answers(tokenizer: PreTrainedTokenizerFast, answers: Sequence[str], length: int) -> Int[Tensor, "B L"]:
    """Return answers as completions of `length` ids: the answer, the turn's end if there is one, end-of-text tokens.

    The end-of-text tokens are predicted and scored like all others: from them a model learns to end (LLaDA, arXiv
    2502.09992). Raises UserError for an answer that is longer than `length`.
    """
    end = turn_end_ids(tokenizer)
    rows = [encode_text(tokenizer, answer) + end for answer in answers]
    if (longest := max(map(len, rows))) > length:
        raise UserError(f"an answer has {longest} tokens, and the canvas {length}; raise task.completion_length")
    return torch.tensor([row + [tokenizer.eos_token_id] * (length - len(row)) for row in rows])
