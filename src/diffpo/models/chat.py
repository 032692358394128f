"""Prompts in the frame of a model's chat template, where what a user says stays text.

A template is rendered with place-holders for what is said, then cut at them: its own markers become control tokens, and
the texts between them are encoded apart, so that no user can write an end of turn or a mask token. A tokenizer without
a template (the tiny models', a base model's) gets the bare text.
"""

import re
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerFast

from diffpo.core.errors import UserError
from diffpo.models.tokenizer import encode_text

OPEN, CLOSE = "\ue000", "\ue001"
"""Around a place-holder: characters for private use, which no template has."""


def prompt_ids_of(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """Ids of a prompt up to where the model is to answer."""
    if not tokenizer.chat_template:
        return encode_text(tokenizer, prompt)
    return framed(tokenizer, [{"role": "user", "content": prompt}], is_answered=False)


def turn_end(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The token by which a template ends an answer; none without a template, where end of text follows at once.

    Only the first one: LLaDA's published template writes the header of another answer behind every conversation, which
    d1's supervised targets have in them.
    """
    if not tokenizer.chat_template:
        return []
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": ""}]
    text = rendered(tokenizer, turns, is_answered=True)
    ids: list[int] = tokenizer.encode(text.rpartition(CLOSE)[2].lstrip(), add_special_tokens=False)
    return ids[:1]


def framed(tokenizer: PreTrainedTokenizerFast, turns: Sequence[Mapping[str, str]], is_answered: bool) -> list[int]:
    """Ids of a conversation; white space around what is said is dropped, as LLaDA's template does.

    Raises UserError for a template that leaves one of the turns out.
    """
    pieces = re.split(f"{OPEN}(\\d+){CLOSE}", rendered(tokenizer, turns, is_answered))
    shown = [int(piece) for piece in pieces[1::2]]
    if shown != list(range(len(turns))):
        roles = ", ".join(turn["role"] for turn in turns)
        raise UserError(f"the tokenizer's chat template does not show every turn ({roles}) once and in order")
    ids: list[int] = []
    for number, piece in enumerate(pieces):
        if number % 2:
            ids += encode_text(tokenizer, turns[int(piece)]["content"].strip())
        else:
            ids += tokenizer.encode(piece, add_special_tokens=False)
    return ids


def rendered(tokenizer: PreTrainedTokenizerFast, turns: Sequence[Mapping[str, str]], is_answered: bool) -> str:
    """The template's text with a numbered place-holder for what each turn says."""
    held = [{"role": turn["role"], "content": f"{OPEN}{number}{CLOSE}"} for number, turn in enumerate(turns)]
    return str(tokenizer.apply_chat_template(held, tokenize=False, add_generation_prompt=not is_answered))
