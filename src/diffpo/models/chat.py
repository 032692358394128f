"""Encode prompts in a model's chat template so that users' text never becomes a control token.

A template is rendered with placeholders for the turns' texts and cut at them. Its own markers become control tokens;
the texts are encoded separately, so that no user can write an end of turn or a mask token. A tokenizer without a
template (the tiny models', a base model's) gets the bare text.
"""

import re
from collections.abc import Mapping, Sequence

from jinja2 import TemplateSyntaxError
from transformers import PreTrainedTokenizerFast

from diffpo.core.conversation import Prompt, Turn, conversation_text
from diffpo.core.errors import UserError
from diffpo.core.time_limit import OutOfTimeError, time_limit
from diffpo.models.tokenizer import encode_text

TEMPLATE_SECONDS = 20.0
MEND = "mend chat_template in its tokenizer_config.json or chat_template.jinja"
OPEN, CLOSE = "\ue000", "\ue001"
"""They enclose a placeholder: characters of Unicode's private use area, which no template contains."""


def encode_prompt(tokenizer: PreTrainedTokenizerFast, prompt: Prompt) -> list[int]:
    """Return the ids of a prompt in the chat template, up to where the answer begins."""
    turns = (Turn("user", prompt),) if isinstance(prompt, str) else prompt
    if not tokenizer.chat_template:
        return encode_text(tokenizer, conversation_text(turns))
    return encode_turns(tokenizer, [turn._asdict() for turn in turns], is_answered=False)


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
        where = _source(tokenizer)
        raise UserError(f"the chat template of {where} does not show every turn ({roles}) once and in order; {MEND}")
    ids: list[int] = []
    for number, piece in enumerate(pieces):
        if number % 2:
            ids += encode_text(tokenizer, turns[int(piece)]["content"].strip())
        else:
            ids += tokenizer.encode(piece, add_special_tokens=False)
    return ids


def render_template(tokenizer: PreTrainedTokenizerFast, turns: Sequence[Mapping[str, str]], is_answered: bool) -> str:
    """Return the template's text with a numbered placeholder for each turn's text.

    Raises UserError for a template that raises or does not come to an end, and for several without a default.
    """
    where = _source(tokenizer)
    named = tokenizer.chat_template
    if isinstance(named, dict) and "default" not in named:
        raise UserError(
            f"{where} has several chat templates ({', '.join(map(str, named))}) and none named default; name one so in "
            "its tokenizer_config.json"
        )
    numbered = [{"role": turn["role"], "content": f"{OPEN}{number}{CLOSE}"} for number, turn in enumerate(turns)]
    try:
        with time_limit(TEMPLATE_SECONDS):
            text = str(tokenizer.apply_chat_template(numbered, tokenize=False, add_generation_prompt=not is_answered))
            text.encode()  # half a surrogate pair is no text
            return text
    except OutOfTimeError as error:
        told = f"it does not end within {TEMPLATE_SECONDS:g} s"
        raise UserError(f"the chat template of {where} cannot be rendered ({told}); {MEND}") from error
    except Exception as error:  # a template is a program, and raises whatever it pleases
        line = f" in its line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the chat template of {where} cannot be rendered ({type(error).__name__}{line}: {told:.200}); {MEND}"
        ) from error


def _source(tokenizer: PreTrainedTokenizerFast) -> str:
    return tokenizer.name_or_path or "the tokenizer"
