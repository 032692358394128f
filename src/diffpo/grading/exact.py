r"""The exact value of arithmetic in LaTeX, for gold answers that are still to be computed: `2^{10}`, `9!`."""

import re
from fractions import Fraction
from math import comb, factorial

from diffpo.grading.latex import full_fractions, has_digit_gap, join_thousands, without_sizes

MAX_CHARACTERS = 400
MAX_DEPTH = 20
MAX_BITS = 4000
"""Of a numerator or denominator: a greater value is not computed."""

_TOKEN = re.compile(r"\s*([0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]*\.?[0-9]+|\\[a-z]+|[-+*/^!(){}\[\]])")
_TIMES = {r"\times": "*", r"\cdot": "*", r"\div": "/", "*": "*", "/": "/"}
_CLOSING = {"(": ")", "{": "}", "[": "]"}


class _RefusedError(Exception):
    """The text is no arithmetic, has no rational value, or one that is too large."""


def exact_value(text: str) -> Fraction | None:
    r"""Return the value of a text of numbers, + - * / ^ !, brackets, `\frac`, `\binom`, `\choose` and `\sqrt`.

    None for any other text, for an irrational value, and for one of more than 4000 bits. Refused as well is what is
    read in two ways: `2^10`, and a number just before a fraction or another number. Never raises.
    """
    if len(text) > MAX_CHARACTERS or has_digit_gap(text):
        return None
    text = (
        full_fractions(without_sizes(join_thousands(text)))
        .replace(r"\dbinom", r"\binom")
        .replace(r"\tbinom", r"\binom")
    )
    tokens, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        tokens.append(match[1])
        position = match.end()
    reader = _Reader(tokens)
    try:
        value = reader.sum(0)
    except (_RefusedError, ZeroDivisionError):
        return None
    return value if reader.next == "" else None


class _Reader:
    """Recursive descent over tokens, no deeper than MAX_DEPTH."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.position = tokens, 0

    @property
    def next(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        token = self.next
        self.position += 1
        return token

    def sum(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise _RefusedError
        value = self.product(depth)
        while self.next in ("+", "-"):
            value = value + self.product(depth) if self.take() == "+" else value - self.product(depth)
        return _bounded(value)

    def product(self, depth: int) -> Fraction:
        value = self.signed(depth)
        while True:
            if self.next in _TIMES:
                value = value * self.signed(depth) if _TIMES[self.take()] == "*" else value / self.signed(depth)
            elif self.next == "(":
                value *= self.power(depth)
            else:
                return _bounded(value)

    def signed(self, depth: int) -> Fraction:
        if self.next in ("+", "-"):
            if depth > MAX_DEPTH:
                raise _RefusedError
            return self.signed(depth + 1) if self.take() == "+" else -self.signed(depth + 1)
        return self.power(depth)

    def power(self, depth: int) -> Fraction:
        value = self.atom(depth)
        while self.next == "!":
            self.take()
            value = Fraction(factorial(_whole(value, 300)))
        if self.next == "^":
            self.take()
            is_bare = self.next not in _CLOSING
            if is_bare and len(self.next) > 1:
                raise _RefusedError
            value = _raised(value, self.atom(depth))
            if self.next == "^" or (is_bare and self.next == "!"):
                raise _RefusedError
        return value

    def atom(self, depth: int) -> Fraction:
        token = self.take()
        if token in _CLOSING:
            return self.closed(token, depth)
        match token:
            case r"\frac":
                above = self.braced(depth)
                return above / self.braced(depth)
            case r"\binom":
                above = self.braced(depth)
                return _choose(above, self.braced(depth))
            case r"\sqrt":
                degree = self.closed(self.take(), depth) if self.next == "[" else Fraction(2)
                return _root(self.braced(depth) if self.next == "{" else self.single(), degree)
        if token and token[-1].isdigit():
            return _bounded(Fraction(token.replace(",", "")))
        raise _RefusedError

    def single(self) -> Fraction:
        """Take a single digit: `\\sqrt2`."""
        token = self.take()
        if not re.fullmatch("[0-9]", token):
            raise _RefusedError
        return Fraction(token)

    def braced(self, depth: int) -> Fraction:
        if self.next != "{":
            raise _RefusedError
        return self.closed(self.take(), depth)

    def closed(self, opening: str, depth: int) -> Fraction:
        value = self.sum(depth + 1)
        if opening == "{" and self.next == r"\choose":
            self.take()
            value = _choose(value, self.sum(depth + 1))
        if self.take() != _CLOSING[opening]:
            raise _RefusedError
        return value


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise _RefusedError
    return value


def _whole(value: Fraction, most: int) -> int:
    if value.denominator != 1 or not 0 <= value <= most:
        raise _RefusedError
    return int(value)


def _choose(above: Fraction, below: Fraction) -> Fraction:
    return _bounded(Fraction(comb(_whole(above, 1000), _whole(below, 1000))))


def _raised(value: Fraction, exponent: Fraction) -> Fraction:
    power = _whole(abs(exponent), MAX_BITS)
    bits = max(value.numerator.bit_length(), value.denominator.bit_length())
    if bits * power > MAX_BITS:
        raise _RefusedError
    return value**power if exponent >= 0 else 1 / value**power


def _root(value: Fraction, degree: Fraction) -> Fraction:
    """Return the exact root. Raises _RefusedError where it is irrational."""
    order = _whole(degree, 10)
    if value < 0 or order < 2:
        raise _RefusedError
    above, below = (_whole_root(part, order) for part in (value.numerator, value.denominator))
    return Fraction(above, below)


def _whole_root(value: int, order: int) -> int:
    low, high = 0, 1 << (value.bit_length() // order + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**order <= value else (low, middle - 1)
    if low**order != value:
        raise _RefusedError
    return low
