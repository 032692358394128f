r"""Take away what LaTeX and habit put around mathematics and what does not change its meaning."""

import re

FONT = r"\\(?:text|mbox|mathrm|mathbf|mathit|mathsf|text[a-z]{2,6})"
"""A pattern of the commands that only choose the font of what is in braces after them."""

_THOUSANDS = re.compile(r"(?<=[0-9])(?:,\\! ?|\\!,|\{,\}|\\[,!])(?=[0-9]{3}(?![0-9]))")
_GAP = re.compile(r"(?<=[0-9])(?:\s|\\[,;:! ]|\\q?quad|~|\$)+(?=[0-9])")
_SIZES = re.compile(r"\\(?:left|right|displaystyle)(?![a-z])")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-z])")
_BARE_ABOVE = re.compile(r"\\frac ?([0-9]) ?(?=[0-9{])")
_BARE_BELOW = re.compile(r"(\\frac ?\{[^{}]{0,80}\}) ?([0-9])")

# A side of an equation that only names what the other side is worth: `AB`, `\theta`, `x_1`, `P(A)`, `m\angle ABC`,
# `a + b`, `f(2)`. A digit stands in it only as an index or in brackets, and no sign before it: -x = 5 is not x = 5.
# Quantifiers are possessive, so that a search which fails is not tried in every other way.
_NAME_PART = (
    r"(?:[A-Za-z]|\\[A-Za-z]{2,20}+|[|'{}]|_ ?+\{?+[0-9A-Za-z]{1,3}+\}?+|(?<=[A-Za-z}'])\([0-9A-Za-z, ]{1,20}\))"
)
_NAME = re.compile(rf" ?{_NAME_PART}(?: ?(?:[-+] ?)?{_NAME_PART}){{0,40}} ?= ?")


def join_thousands(text: str) -> str:
    r"""Write LaTeX's thousands as commas: `10{,}080`, `10,\!080` and `10\,080` become `10,080`."""
    return _THOUSANDS.sub(",", text)


def has_digit_gap(text: str) -> bool:
    """Return whether white space, or what LaTeX takes for it, stands between two digits: `1 2` is not 12."""
    return _GAP.search(full_fractions(join_thousands(text))) is not None


def mark_digit_gaps(text: str, mark: str) -> str:
    """Replace white space between two digits."""
    return _GAP.sub(mark, text)


def full_fractions(text: str) -> str:
    r"""Write every kind of fraction as `\frac{1}{2}`: `\dfrac`, `\tfrac`, `\frac12`, `\frac1{2}`."""
    text = _BARE_ABOVE.sub(r"\\frac{\1}", _FRACTION.sub(r"\\frac", text))
    return _BARE_BELOW.sub(r"\1{\2}", text)


def without_sizes(text: str) -> str:
    r"""Remove `\left`, `\right` and `\displaystyle`."""
    return _SIZES.sub("", text)


def without_name(text: str) -> str:
    r"""Return the right side of `AB = 5` or `P(A) = \frac{1}{3}`; the text itself where no name stands before a "="."""
    if text.count("=") != 1:
        return text
    match = _NAME.match(text)
    return text[match.end() :] if match else text
