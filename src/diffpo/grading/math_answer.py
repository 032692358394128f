"""Compare an answer to a mathematics problem with the gold one: as text, number, word or expression."""

import re

from diffpo.grading import symbolic
from diffpo.grading.number import parse_number
from diffpo.grading.symbolic import Verdict

_WRAPPER = re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf|textit) ?\{([^{}]*)\}")
_SPACING = re.compile(r"\\(?:left|right)(?![a-z])|\\[!,;: ]|[\s$~]|\\\$|\.$")
_WORD = re.compile(r"\(?[A-Za-z]\)?|[A-Za-z]{3,}")
_IN_BASE = re.compile(r"([0-9A-F]+)(?:_\{?([0-9]{1,2})\}?)?")


def compare_answers(gold: str, answer: str) -> Verdict:
    r"""Compare the text of an answer with the gold one.

    A number must be given as a number: `17\times 23` is not 391 yet, and 1.4142 is not `\sqrt{2}`. A word is compared
    as text, and may be spelt with other capitals. Only expressions go to `symbolic.compare_latex`.
    """
    if len(answer) > symbolic.MAX_CHARACTERS:
        return "unparseable"
    ours, theirs = _plain(gold), _plain(answer)
    if not theirs:
        return "unparseable"
    if ours == theirs:
        return "equal"
    expected, found = parse_number(gold), parse_number(answer)
    if expected is not None:
        return "equal" if found == expected else "different"
    if _WORD.fullmatch(ours):
        return "equal" if ours.strip("()").casefold() == theirs.strip("()").casefold() else "different"
    if "_" in ours and (base := _IN_BASE.fullmatch(ours)):
        digits = _IN_BASE.fullmatch(theirs)
        return "equal" if digits and digits[1] == base[1] and digits[2] in (None, base[2]) else "different"
    if found is not None:
        return "different"
    return symbolic.compare_latex(gold, answer)


def _plain(text: str) -> str:
    """Remove spacing, dollar signs, a full stop, and the commands that only choose a font."""
    return _SPACING.sub("", _WRAPPER.sub(r"\1", text)).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
