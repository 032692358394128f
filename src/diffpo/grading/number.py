"""Parse numbers as models write them, exactly: signs, thousands, decimals, fractions, currency, percent and units."""

import re
from fractions import Fraction

MAX_CHARACTERS = 1000
MAX_DIGITS = 30

_DIGITS = rf"(?:[0-9]{{1,3}}(?:,[0-9]{{3}}){{1,9}}|[0-9]{{1,{MAX_DIGITS}}})"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]{{0,{MAX_DIGITS}}})?|\.[0-9]{{1,{MAX_DIGITS}}})"
_PART = rf"\{{ ?([0-9]{{1,{MAX_DIGITS}}}) ?\}}"
_FRACTION = re.compile(rf"([-+]?) ?([0-9]{{1,9}})? ?\\frac ?(?:{_PART}|([0-9])) ?(?:{_PART}|([0-9]))")
_QUOTIENT = re.compile(rf"([-+]?) ?({_DECIMAL}) ?/ ?({_DECIMAL})")
_PLAIN = re.compile(rf"([-+]?) ?({_DECIMAL})")

# A number inside a sentence starts and ends where no digit, letter or decimal point touches it.
_IN_TEXT = re.compile(rf"(?<![A-Za-z0-9.,/^_])[-+]?{_DECIMAL}(?![0-9A-Za-z/^_]|[.,][0-9])")

_LATEX = (
    (re.compile(r"\\(?:left|right|[!,;:] ?| )|[$~]|\\\$"), ""),
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\(?:text|mbox|mathrm|textbf|text\w{2}) ?\{[^{}]{0,60}\}(?:\^(?:\{[0-9]\}|[0-9]))?"), " "),
    (re.compile(r"\^ ?(?:\{ ?\\circ ?\}|\\circ)|\\degree|\u00b0|\\?%"), " "),
    (re.compile("[\u2212\u2013]"), "-"),
    (re.compile(r"(?<=[0-9]):00(?![0-9])"), ""),
)
_UNIT = re.compile(r"(?<=[0-9.}]) [A-Za-z]{2,20}(?: [A-Za-z]{2,20}){0,3}(?:\^(?:\{[0-9]\}|[0-9]))?\.?$")
_NAME = re.compile(r"^[A-Za-z](?:_\{?[0-9A-Za-z]\}?)? ?= ?")


def parse_number(text: str) -> Fraction | None:
    r"""Return the number that the whole text stands for; None if it does not stand for exactly one number.

    `1,200`, `-3`, `.5`, `3/4`, `1\frac{4}{5}`, `$18`, `50\%` (it gives 50), `36^\circ`, `6 \text{ cm}^2`, `5 apples`,
    `2:00 pm`, `x = 4`. Refused are sums, products, powers, roots (`17\times 23` is not a number yet), and digits of
    other scripts.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    text = " ".join(text.split())
    text = _NAME.sub("", _UNIT.sub("", text)).removesuffix(".").strip()
    if match := _PLAIN.fullmatch(text):
        return _signed(match[1], _decimal(match[2]))
    if match := _QUOTIENT.fullmatch(text):
        return _quotient(match[1], Fraction(0), _decimal(match[2]), _decimal(match[3]))
    if match := _FRACTION.fullmatch(text):
        above, below = Fraction(match[3] or match[4]), Fraction(match[5] or match[6])
        return _quotient(match[1], Fraction(match[2] or 0), above, below)
    return None


def parse_answer_number(text: str) -> Fraction | None:
    """Return the number that an answer gives: all of it, what follows its last "=", or the only number in a sentence.

    None where it gives no number, or several that differ: a model that hedges has not answered.
    """
    text = text[-MAX_CHARACTERS:]
    number = parse_number(text)
    if number is None and "=" in text:
        text = text.rpartition("=")[2]
        number = parse_number(text)
    if number is not None:
        return number
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    found = {parse_number(match[0]) for match in _IN_TEXT.finditer(text)}
    return found.pop() if len(found) == 1 else None


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").removesuffix(".") or "0")


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _quotient(sign: str, whole: Fraction, above: Fraction, below: Fraction) -> Fraction | None:
    return _signed(sign, whole + above / below) if below else None
