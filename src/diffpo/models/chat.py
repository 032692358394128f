"""Encode prompts in a model's chat template so that users' text never becomes a control token.

A template is rendered with placeholders for the turns' texts and cut at them. Its own markers become control tokens;
the texts are encoded separately, so that no user can write an end of turn or a mask token. A tokenizer without a
template (the tiny models', a base model's) gets the bare text.
"""

import re
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerFast

from diffpo.core.errors import UserError
from diffpo.models.tokenizer import encode_text

OPEN, CLOSE = "\ue000", "\ue001"
"""They enclose a placeholder: characters of Unicode's private use area, which no template contains."""


def encode_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """Return the ids of a prompt in the chat template, up to where the answer begins."""
    if not tokenizer.chat_template:
        return encode_text(tokenizer, prompt)
    return encode_turns(tokenizer, [{"role": "user", "content": prompt}], is_answered=False)


def turn_end_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the token with which a template ends an answer: a list of one, or of none without a template.

    Whatever the template writes after it is dropped: LLaDA's published one writes the header of another answer behind
    every conversation, and d1's supervised targets contain it.
    """
    if not tokenizer.chat_template:
        return []
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": ""}]
    text = render_template(tokenizer, turns, is_answered=True)
    ids: list[int] = tokenizer.encode(text.rpartition(CLOSE)[2].lstrip(), add_special_tokens=False)
    return ids[:1]


def encode_turns(
    tokenizer: PreTrainedTokenizerFast, turns: Sequence[Mapping[str, str]], is_answered: bool
) -> list[int]:
    """Return the ids of a conversation; white space around each turn's text is dropped, as LLaDA's template does.

    Raises UserError for a template that leaves out or reorders turns.
    """
    pieces = re.split(f"{OPEN}(\\d+){CLOSE}", render_template(tokenizer, turns, is_answered))
    rendered_turns = [int(piece) for piece in pieces[1::2]]
    if rendered_turns != list(range(len(turns))):
        roles = ", ".join(turn["role"] for turn in turns)
        raise UserError(f"the tokenizer's chat template does not show every turn ({roles}) once and in order")
    ids: list[int] = []
    for number, piece in enumerate(pieces):
        if number % 2:
            ids += encode_text(tokenizer, turns[int(piece)]["content"].strip())
        else:
            ids += tokenizer.encode(piece, add_special_tokens=False)
    return ids


def render_template(tokenizer: PreTrainedTokenizerFast, turns: Sequence[Mapping[str, str]], is_answered: bool) -> str:
    """Return the template's text with a numbered placeholder for each turn's text.

    Raises UserError for a template that raises.
    """
    numbered = [{"role": turn["role"], "content": f"{OPEN}{number}{CLOSE}"} for number, turn in enumerate(turns)]
    try:
        return str(tokenizer.apply_chat_template(numbered, tokenize=False, add_generation_prompt=not is_answered))
    except Exception as error:  # a template is a program, and raises whatever it pleases
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the tokenizer's chat template cannot be rendered ({type(error).__name__}: {told}); mend chat_template in "
            "the model's tokenizer files"
        ) from error
