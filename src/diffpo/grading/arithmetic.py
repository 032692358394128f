"""Parse arithmetic as models write it, exactly: whole numbers, + - * / and parentheses, and nothing else.

There is no `eval`: one regular expression cuts the text into tokens, and Dijkstra's shunting-yard algorithm, which does
not recurse, evaluates them. The limits below bound the depth, the time and the size of every intermediate value.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

MAX_CHARACTERS = 256
MAX_TOKENS = 64
MAX_DIGITS = 9

Reason = Literal["too long", "a strange character", "a misshapen number", "not an expression", "division by zero"]

_ASCII_SIGNS = str.maketrans({"\N{MULTIPLICATION SIGN}": "*", "\N{DIVISION SIGN}": "/", "\N{MINUS SIGN}": "-"})
_TOKEN = re.compile(r" *([0-9]+|[-+*/()])")
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}


@dataclass(frozen=True)
class Expression:
    """An expression's exact value, and the numbers in it from left to right."""

    value: Fraction
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Refusal:
    """Why a text is not an expression, or is one without a value."""

    reason: Reason


class _RefusedError(Exception):
    def __init__(self, reason: Reason) -> None:
        self.reason = reason


def parse_expression(text: str) -> Expression | Refusal:
    """Parse one expression: `(3 + 4) * 5`, also with Unicode's signs for times, division and minus. Never raises.

    Refused are signs (-3), leading zeros (03), decimal points, powers, digits of other scripts, any white space but
    spaces, any text besides the expression, and texts of more than 256 characters, 64 tokens or 9 digits in a number.
    """
    try:
        return _evaluate(_tokens(text))
    except _RefusedError as refused:
        return Refusal(refused.reason)


def _tokens(text: str) -> list[str]:
    if len(text) > MAX_CHARACTERS:
        raise _RefusedError("too long")
    text = text.translate(_ASCII_SIGNS).rstrip(" ")
    tokens: list[str] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _RefusedError("a strange character")
        tokens.append(match[1])
        position = match.end()
    if len(tokens) > MAX_TOKENS:
        raise _RefusedError("too long")
    return tokens


def _evaluate(tokens: list[str]) -> Expression:
    values: list[Fraction] = []
    pending: list[str] = []  # operators that wait for their right operand, and open parentheses
    numbers: list[int] = []
    wants_operand = True
    for token in tokens:
        # A number or "(" stands where an operand begins, an operator or ")" where one has ended.
        if (token.isdecimal() or token == "(") != wants_operand:
            raise _RefusedError("not an expression")
        if token.isdecimal():
            numbers.append(_number(token))
            values.append(Fraction(numbers[-1]))
            wants_operand = False
        elif token == "(":
            pending.append(token)
        elif token == ")":
            _apply(values, pending, precedence=0)
            if not pending:
                raise _RefusedError("not an expression")
            pending.pop()
        else:
            _apply(values, pending, _PRECEDENCE[token])
            pending.append(token)
            wants_operand = True
    if wants_operand:
        raise _RefusedError("not an expression")
    _apply(values, pending, precedence=0)
    if pending:
        raise _RefusedError("not an expression")
    return Expression(values[0], tuple(numbers))


def _number(digits: str) -> int:
    if len(digits) > MAX_DIGITS or (digits[0] == "0" and digits != "0"):
        raise _RefusedError("a misshapen number")
    return int(digits)


def _apply(values: list[Fraction], pending: list[str], precedence: int) -> None:
    """Apply, in place, the pending operators that bind at least this tightly, back to the last open parenthesis."""
    while pending and _PRECEDENCE.get(pending[-1], -1) >= precedence:
        operator = pending.pop()
        right, left = values.pop(), values.pop()
        match operator:
            case "+":
                values.append(left + right)
            case "-":
                values.append(left - right)
            case "*":
                values.append(left * right)
            case _:
                if right == 0:
                    raise _RefusedError("division by zero")
                values.append(left / right)
