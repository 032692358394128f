"""Where a completion says what its answer is. Every function is linear in the length of the text."""

import re

STOPS = ("<|eot_id|>", "<|endoftext|>", "<|im_end|>")
"""What ends a turn of LLaDA or Dream, where a recorded completion still shows it."""

OPEN, CLOSE = "<answer>", "</answer>"

_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{")
_EMPTY_BOX = re.compile(_BOX.pattern + r"[\s.]{0,16}\}")
_BRACE = re.compile(r"[{}]")


def until_stop(completion: str) -> str:
    """The completion without the end-of-turn tokens and what follows them."""
    ends = [end for stop in STOPS if (end := completion.find(stop)) >= 0]
    return completion[: min(ends)] if ends else completion


def final_answer(completion: str) -> str | None:
    """The answer: the last box of the last `<answer>` section, or the section itself; without a section, the last box.

    A box that its model forgot to close ends with its section. None where there is no answer, or where the text ends
    inside a box: what is missing may be digits. An earlier answer never counts: the model took it back.
    """
    text = _EMPTY_BOX.sub(" ", until_stop(completion))
    section, closed, _ = text.rpartition(OPEN)[2].partition(CLOSE)
    if OPEN not in text or not section.strip():
        return last_box(text.replace(CLOSE, ""), is_whole=CLOSE in text)
    return last_box(section, is_whole=bool(closed)) if _BOX.search(section) else section.strip()


def last_box(text: str, is_whole: bool) -> str | None:
    r"""What the last `\boxed{...}` holds, its braces balanced; None if there is none or it is blank.

    `is_whole`: a box that is never closed goes to the end of the text; otherwise it counts as cut off, and is None.
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
