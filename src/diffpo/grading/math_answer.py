"""Compare an answer to a mathematics problem with the gold one: as text, number, word or expression."""

import re

from diffpo.grading import symbolic
from diffpo.grading.exact import exact_value
from diffpo.grading.latex import FONT, full_fractions, join_thousands, mark_digit_gaps, without_sizes
from diffpo.grading.number import parse_number
from diffpo.grading.symbolic import Verdict

_WRAPPER = re.compile(FONT + r" ?\{([^{}]*)\}")
_SPACING = re.compile(r"\\[!,;: ]|[\s$~]|\\\$|\.$")
_GAP = "\0"
_WORD = re.compile(r"\(?[A-Za-z]\)?|[A-Za-z]{3,}")
_IN_BASE = re.compile(r"([0-9A-F]+)(?:_\{?([0-9]{1,2})\}?)?")


def compare_answers(gold: str, answer: str) -> Verdict:
    r"""Compare the text of an answer with the gold one.

    A number must be given as a number: `17\times 23` is not 391 yet, and 1.4142 is not `\sqrt{2}`. Where the gold
    answer itself is still to be computed (`2^{10}`), any text of its exact value is equal. A word is compared as text,
    and may be spelt with other capitals. Only expressions go to `symbolic.compare_latex`.
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
    computed = exact_value(gold)
    if computed is not None and (found is not None or (found := exact_value(answer)) is not None):
        return "equal" if found == computed else "different"
    return symbolic.compare_latex(gold, answer)


def _plain(text: str) -> str:
    """Remove fonts, sizes, dollar signs, a full stop and white space, which is only kept between digits."""
    text = join_thousands(full_fractions(without_sizes(_WRAPPER.sub(r"\1", text))))
    return _SPACING.sub("", mark_digit_gaps(text, _GAP))
