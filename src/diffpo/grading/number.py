r"""Read numbers as models write them, exactly, or not at all: another number than the one meant is never read.

A number is a sign or "negative"; digits with thousands, decimals, a fraction, a mixed number or `\times 10^{n}`; and
dozen, hundred ... trillion. Currency, percent, degrees, fonts and a unit may stand around it. The whole grammar is in
docs/evaluation.md.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from math import prod

from diffpo.grading.latex import FONT, full_fractions, join_thousands, without_name, without_sizes

MAX_CHARACTERS = 1000
MAX_DIGITS = 30
MULTIPLIERS = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TWO_LETTER_UNITS = _words("kg mg cm mm km ft in lb oz hr ml mL yd mi am pm AM PM of sq")
_ONE_LETTER_UNITS = _words("a g h l m s C F L V W")  # of a sentence: "5 g", "5 a day"; not x, k or M, which are more
_NUMBERS_IN_WORDS = _words(
    """zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety half halves twice thrice double triple
    score lakh crore mil mio mln bil bln thou"""
)
_OPERATIONS = _words("squared cubed factorial root sqrt plus minus negative mod modulo log ln exp sin cos tan abs pi")
_PARTS = _words("third fourth fifth sixth seventh eighth ninth tenth hundredth thousandth millionth")
_BETWEEN = _words("x by times and plus minus over divided to choose mod of per")

_DIGITS = rf"(?:[0-9]{{1,3}}(?:,[0-9]{{3}}){{1,9}}|[0-9]{{1,{MAX_DIGITS}}})"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]{{0,{MAX_DIGITS}}})?|\.[0-9]{{1,{MAX_DIGITS}}})"
_OPERAND = rf"(?:[-+]?[ ]?{_DECIMAL}|\([ ]?[-+]?[ ]?{_DECIMAL}[ ]?\))"
_NUMBER = re.compile(
    rf"""(?:(?P<sign>[-+])(?P<space>[ ]?))?(?:
        (?P<whole>[0-9]{{1,9}})(?:[ ]?\\frac[ ]?\{{[ ]?(?P<a1>[0-9]{{1,9}})[ ]?\}}[ ]?\{{[ ]?(?P<b1>[0-9]{{1,9}})[ ]?\}}
                                 |[ ](?P<a2>[0-9]{{1,9}})[ ]?/[ ]?(?P<b2>[0-9]{{1,9}}))
        |\\frac[ ]?\{{[ ]?(?P<a3>{_OPERAND})[ ]?\}}[ ]?\{{[ ]?(?P<b3>{_OPERAND})[ ]?\}}
        |(?P<a4>{_OPERAND})[ ]?/[ ]?(?P<b4>{_OPERAND})
        |(?P<mantissa>{_DECIMAL})[ ]?\\times[ ]?10[ ]?\^[ ]?
            (?:\{{[ ]?(?P<power>[-+]?[ ]?[0-9]{{1,3}})[ ]?\}}|(?P<digit>[0-9]))
        |(?P<plain>{_DECIMAL})
    )(?![0-9])(?P<multipliers>(?:[ -]?(?:{"|".join(MULTIPLIERS)})s?(?![A-Za-z]))*)""",
    re.VERBOSE,
)
_BRACKETED = re.compile(r"([-+]?) ?(?:\((.*)\)|\{(.*)\})")

_FONT = re.compile(FONT + r" ?\{([^{}]{0,80})\}((?:\^(?:\{[0-9]\}|[0-9]))?)")
_LETTERS_ONLY = re.compile(r"[ A-Za-z./]*")
_SIGNS = (
    (re.compile(r"</?[a-z]{1,20}>?"), " "),  # a torn tag
    (re.compile("[\u2212\u2013]"), "-"),
    (re.compile("\u00d7"), r"\\times "),
    (re.compile(r"\\[,;:! ]|\\q?quad(?![a-z])|\\[()\[\]]|\\?\$|\*\*|[~`\u20ac\u00a3]"), " "),
    (re.compile(r"(?:\^ ?\{? ?\\circ ?\}?|\\degree|\u00b0) ?(?:[CFK](?![A-Za-z]))?|\\?%"), " "),
    (re.compile(r"(?<=[0-9]):00(?![0-9])"), ""),
)
_MINUS = re.compile(r"(?<![A-Za-z])(?:negative|minus) +(?=[0-9.\\(])", re.IGNORECASE)

_WORD = re.compile(r"[A-Za-z]+")
_RAISED = "(?:\\^ ?\\{? ?[23] ?\\}?|[\u00b2\u00b3])"
_UNIT = re.compile(rf"(?: ?+(?:/ ?+)?+[A-Za-z]{{1,20}}+{_RAISED}?+){{0,6}}+[ .]*")
_RAISED_UNIT = re.compile(rf"([0-9] ?[A-Za-z]{{1,12}}){_RAISED}")
_TOUCHED_BEFORE = re.compile(r"(?:[A-Za-z0-9_^]\(|[A-Za-z0-9.,/^_\\*+|<>!)-])$")
_TOUCHED_AFTER = re.compile(r"[0-9_^!*+=\\|(]|/(?! ?[A-Za-z])|[.,][0-9]")
_COMPARISON = re.compile("[<>\u2260\u2264\u2265]|!=|\\\\(?:ne|neq|le|leq|ge|geq|lt|gt)(?![a-z])")
_APPROXIMATELY = re.compile("\\\\approx(?![a-z])|\u2248")
_QUARTERS = re.compile(r"[ -]?quarters? of(?![a-z])")  # quarters without "of" are coins
_PUNCTUATION = frozenset(" .,;:'\"()?!&/#-\u2018\u2019\u201c\u201d")


def parse_number(text: str) -> Fraction | None:
    r"""Return the number that the whole text stands for; None if it does not stand for exactly one number.

    `1,200`, `10{,}080`, `-3`, `.5`, `3/4`, `\frac{-1}{2}`, `-(7/4)`, `1\frac{4}{5}`, `2 1/2`, `6.63\times 10^{-34}`,
    `3 million`, `$18`, `50\%` (it gives 50), `36^\circ`, `6 \text{ cm}^2`, `5 apples`, `72kg`, `2:00 pm`, `AB = 4`.
    Refused are sums, other products, powers, roots (`17\times 23` is not a number yet), numbers in words, and digits of
    other scripts.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    return _whole(without_name(_tidy(without_name(text))), is_sentence=False)


def parse_answer_number(text: str) -> Fraction | None:
    """Return the number that an answer gives: all of it, what follows its last "=", or the only number in a sentence.

    None where it gives no number, or several that differ (a model that hedges has not answered), and where the number
    in the sentence is part of something else: of an expression, a comparison, or a number in words.
    """
    if len(text) > MAX_CHARACTERS:
        text = text[-MAX_CHARACTERS:].partition(" ")[2]  # no number that is cut in two
    text = _tidy(without_name(_APPROXIMATELY.sub(" ", text.rpartition("####")[2])))
    if _COMPARISON.search(text):
        return None
    number = _whole(without_name(text), is_sentence=True)
    if number is not None:
        return number
    value = text.rpartition("=")[2].strip()
    number = _whole(value, is_sentence=True)
    return _in_sentence(value) if number is None else number


def _tidy(text: str) -> str:
    text = full_fractions(without_sizes(join_thousands(text)))
    text = _FONT.sub(_without_font, _FONT.sub(_without_font, text))
    for pattern, replacement in _SIGNS:
        text = pattern.sub(replacement, text)
    return _MINUS.sub("-", " ".join(text.split()))


def _without_font(match: re.Match[str]) -> str:
    """Return what a font is applied to; nothing for a unit, which a font tells from a variable."""
    text = match[1]
    is_unit = _LETTERS_ONLY.fullmatch(text) and _are_units(_WORD.findall(text), _ONE_LETTER_UNITS | _TWO_LETTER_UNITS)
    return " " if is_unit else f" {text} {match[2]}"


def _whole(text: str, is_sentence: bool, depth: int = 0) -> Fraction | None:
    """Return the number that a tidy text is, with its unit."""
    text = text.strip()
    match = _NUMBER.match(text)
    if match and _is_unit(text[match.end() :], is_sentence):
        return _value(match)
    bracketed = _BRACKETED.fullmatch(text.removesuffix("."))
    if bracketed is None or depth == 3:
        return None
    value = _whole(bracketed[2] or bracketed[3] or "", is_sentence, depth + 1)
    return -value if value is not None and bracketed[1] == "-" else value


def _is_unit(text: str, is_sentence: bool) -> bool:
    """Return whether what follows a number is a unit: `kg`, ` apples`, `/hour`, ` miles per hour`. Nothing is one."""
    if not _UNIT.fullmatch(text) or _QUARTERS.match(text):
        return False
    words = _WORD.findall(text)
    if words and text[0].isalpha():  # 72kg is a number with its unit; 6abc is a product
        short = _TWO_LETTER_UNITS | (_ONE_LETTER_UNITS if is_sentence else frozenset())
        if words[0] not in short and not (is_sentence and len(words[0]) > 2):
            return False
    is_rate = "/" in text
    return _are_units(words, _TWO_LETTER_UNITS | (_ONE_LETTER_UNITS if is_sentence or is_rate else frozenset()))


def _are_units(words: Sequence[str], short: frozenset[str]) -> bool:
    return all((len(word) > 2 or word in short) and not _is_numeric(word) for word in words)


def _is_numeric(word: str) -> bool:
    """Return whether a word is a number, a part of one, or an operation: digits beside it are not the answer."""
    word = word.casefold()
    return (
        word in _NUMBERS_IN_WORDS
        or word in _OPERATIONS
        or word.removesuffix("s") in _PARTS
        or word.removesuffix("s") in MULTIPLIERS
    )


def _in_sentence(text: str) -> Fraction | None:
    """Return the one number in a tidy sentence; None where it has none, several, or more than prose around it."""
    text = _RAISED_UNIT.sub(r"\1", text)
    words = {word.casefold() for word in _WORD.findall(text)}
    if words & (_NUMBERS_IN_WORDS | _OPERATIONS):
        return None
    values: set[Fraction | None] = set()
    rest, end = "", 0
    for match in _NUMBER.finditer(text):
        if not _stands_alone(text, match):
            return None
        between = text[end : match.start()]
        if values and not {word.casefold() for word in _WORD.findall(between)} - _BETWEEN:
            return None
        values.add(_value(match))
        rest, end = rest + between, match.end()
    rest += text[end:]
    is_prose = all(mark.isalpha() or mark in _PUNCTUATION for mark in rest)
    return values.pop() if len(values) == 1 and is_prose else None


def _stands_alone(text: str, match: re.Match[str]) -> bool:
    """Return whether no letter, operator or digit that belongs to a number touches it."""
    before, after = text[: match.start()], text[match.end() :]
    if match["sign"] and match["space"] and before.strip():  # a dash, or a subtraction
        return False
    if any(mark.isalnum() and not mark.isascii() for mark in before[-1:] + after[:1]):
        return False
    if _TOUCHED_BEFORE.search(before) or _TOUCHED_AFTER.match(after) or _QUARTERS.match(after):
        return False
    beside = re.match(r"[ -]?([A-Za-z]+)", after)
    if beside is None:
        return True
    short = _ONE_LETTER_UNITS | _TWO_LETTER_UNITS
    is_word = len(beside[1]) > 2 or beside[1] in short or (len(beside[1]) == 2 and not after[0].isalpha())
    return is_word and not _is_numeric(beside[1])


def _value(match: re.Match[str]) -> Fraction | None:
    """Return the value of a match of _NUMBER; None if it divides by zero."""
    if match["plain"]:
        value = _decimal(match["plain"])
    elif match["mantissa"]:
        power = int((match["power"] or match["digit"]).replace(" ", ""))
        value = _decimal(match["mantissa"]) * Fraction(10) ** power
    else:
        above, below = (next(match[f"{side}{i}"] for i in range(1, 5) if match[f"{side}{i}"]) for side in "ab")
        if _decimal(below) == 0:
            return None
        value = int(match["whole"] or 0) + _decimal(above) / _decimal(below)
    words = (word.casefold().removesuffix("s") for word in _WORD.findall(match["multipliers"]))
    value *= prod(MULTIPLIERS[word] for word in words)
    return -value if match["sign"] == "-" else value


def _decimal(text: str) -> Fraction:
    digits = text.strip("() ").replace(",", "").replace(" ", "").removesuffix(".")
    return Fraction(digits if digits.strip("+-") else "0")
