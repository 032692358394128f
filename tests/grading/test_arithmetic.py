"""The arithmetic reader against Python's own, on expressions that are safe to give it."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpo.grading.arithmetic import MAX_CHARACTERS, Expression, Reason, Refusal, parse_expression


def exact(text: str) -> Fraction:
    """What Python makes of a text of numbers and operators, with every number a fraction. For texts we wrote only."""
    tokens = "".join(f" {mark} " if mark in "+-*/()" else mark for mark in text).split()
    return Fraction(eval(" ".join(f"Fraction({token})" if token.isdecimal() else token for token in tokens)))


numbers = st.integers(0, 10**9 - 1).map(str)
expressions = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map("".join),
        inner.map("({})".format),
    ),
    max_leaves=12,
)


@given(expressions)
def test_values_are_those_of_python_with_fractions(text: str) -> None:
    try:
        value = exact(text)
    except ZeroDivisionError:
        assert parse_expression(text) == Refusal("division by zero")
        return
    parts = "".join(mark if mark.isdecimal() else " " for mark in text).split()
    expected = Expression(value, tuple(map(int, parts)))
    assert parse_expression(text) == (expected if len(text) <= MAX_CHARACTERS else Refusal("too long"))


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("7", 7, (7,)),
        ("0", 0, (0,)),
        ("8-3-2", 3, (8, 3, 2)),
        ("8-(3-2)", 7, (8, 3, 2)),
        ("8/4/2", 1, (8, 4, 2)),
        ("8/4*2", 4, (8, 4, 2)),
        ("2+3*4", 14, (2, 3, 4)),
        ("2*3+4", 10, (2, 3, 4)),
        ("1/3*3", 1, (1, 3, 3)),
        ("((5))", 5, (5,)),
        ("999999999", 999_999_999, (999_999_999,)),
        (" ( 30 + 100 ) / 93 ", Fraction(130, 93), (30, 100, 93)),
        ("6\N{MULTIPLICATION SIGN}4\N{DIVISION SIGN}3\N{MINUS SIGN}2", 6, (6, 4, 3, 2)),
    ],
)
def test_by_hand(text: str, value: int | Fraction, numbers: tuple[int, ...]) -> None:
    assert parse_expression(text) == Expression(Fraction(value), numbers)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not an expression"),
        ("   ", "not an expression"),
        ("()", "not an expression"),
        ("1+", "not an expression"),
        ("-3", "not an expression"),
        ("2*-3", "not an expression"),
        ("+3", "not an expression"),
        ("1 2", "not an expression"),
        ("2(3)", "not an expression"),
        ("(2)3", "not an expression"),
        ("(1+2", "not an expression"),
        ("1+2)", "not an expression"),
        (")1+2(", "not an expression"),
        ("2**3", "not an expression"),
        ("7//2", "not an expression"),
        ("03", "a misshapen number"),
        ("00", "a misshapen number"),
        ("1234567890", "a misshapen number"),
        ("1.2*5", "a strange character"),
        ("1_000", "a strange character"),
        ("0x10", "a strange character"),
        ("1e3", "a strange character"),
        ("2^3", "a strange character"),
        ("3+4=7", "a strange character"),
        ("1+\n2", "a strange character"),
        ("1+\t2", "a strange character"),
        ("1+2\n", "a strange character"),
        ("\u00b2", "a strange character"),
        ("\u0661+\u0662", "a strange character"),  # Arabic-Indic digits
        ("\uff11+\uff12", "a strange character"),  # full width
        ("1\0", "a strange character"),
        ("\ud800", "a strange character"),
        ("__import__('os')", "a strange character"),
        ("1/0", "division by zero"),
        ("1/(2-2)", "division by zero"),
        ("0/0", "division by zero"),
        ("1" * 257, "too long"),
        ("1" + "+1" * 40, "too long"),
        ("(" * 1_000_000, "too long"),
        ("9**9**9**9" * 1000, "too long"),
    ],
    ids=range(40),
)
def test_what_is_refused_and_why(text: str, reason: Reason) -> None:
    assert parse_expression(text) == Refusal(reason)


@given(st.one_of(st.text(max_size=300), st.text("0123456789+-*/() .=\u00d7\u00f7\u2212\u0662", max_size=300)))
def test_any_text_gets_an_answer(text: str) -> None:
    assert isinstance(parse_expression(text), Expression | Refusal)


@pytest.mark.parametrize(
    "text", ["(" * 256, "((" * 15 + "1" + "))" * 15, "999999999*" * 25 + "9", " " * 256, "/" * 256]
)
def test_the_worst_that_fits_takes_no_time(text: str) -> None:
    start = time.perf_counter()
    for _ in range(20):
        parse_expression(text)
    assert time.perf_counter() - start < 1  # about 10 ms
