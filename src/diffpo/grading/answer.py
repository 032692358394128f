"""Find the final answer in a completion. Every function is linear in the length of the text."""

import re

STOPS = ("<|eot_id|>", "<|endoftext|>", "<|im_end|>")
"""The tokens that end a turn of LLaDA or Dream, as texts: recorded completions may still hold them."""

OPEN, CLOSE = "<answer>", "</answer>"

_BOX = re.compile(r"(?:\\\.?|(?<![A-Za-z\\]))(?:boxed|fbox)\s{0,8}\{")  # also without its backslash
_EMPTY_BOX = re.compile(_BOX.pattern + r"[\s.]{0,16}\}")
_BRACE = re.compile(r"[{}]")


def until_stop(completion: str) -> str:
    """Return the completion up to its first end-of-turn token."""
    ends = [end for stop in STOPS if (end := completion.find(stop)) >= 0]
    return completion[: min(ends)] if ends else completion


def final_answer(completion: str) -> str | None:
    """Return the last box of the last `<answer>` section, or the section itself; without a section, the last box.

    A box that the model forgot to close ends with its section. The result is None where there is no answer, or where
    the text ends inside a box, since digits may be missing. An earlier answer never counts: the model took it back.
    """
    text = _EMPTY_BOX.sub(" ", until_stop(completion))
    section, closed, _ = text.rpartition(OPEN)[2].partition(CLOSE)
    if OPEN not in text or not section.strip():
        return last_box(text.replace(CLOSE, ""), is_whole=CLOSE in text)
    return last_box(section, is_whole=bool(closed)) if _BOX.search(section) else section.strip()


def answer_or_text(completion: str) -> str:
    """Return the final answer of a completion that marks one, by a section or a box; otherwise all of it. "": none."""
    text = until_stop(completion)
    return final_answer(text) or "" if OPEN in text or _BOX.search(text) else text.strip()


def last_box(text: str, is_whole: bool) -> str | None:
    r"""Return the content of the last `\boxed{...}`, up to its matching brace; None if there is none or it is blank.

    If `is_whole`, a box that is never closed goes to the end of the text; else it counts as cut off, and gives None.
    """
    start = max((match.end() for match in _BOX.finditer(text)), default=-1)
    if start < 0:
        return None
    depth, end = 1, len(text) if is_whole else start
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            end = brace.start()
            break
    return text[start:end].strip() or None
