"""What models write around a number or an expression, by the hundred: paid where it is right, unpaid where it is not.

`{n}` is a number. What must be paid has that number as the gold answer; what must not be paid is tried against every
number that a careless reader would find in it.
"""

import re
from fractions import Fraction

import pytest

from diffpo.grading.exact import exact_value
from diffpo.grading.latex import without_name
from diffpo.grading.math_answer import compare_answers
from diffpo.grading.number import parse_answer_number, parse_number
from diffpo.tasks.base import Problem
from diffpo.tasks.families import TASK_FAMILIES

WHOLE = ("7", "72", "305")
PAID_AS_SENTENCE = (
    "{n}", "{n}.", " {n} ", "${n}", "\\${n}", "{n}\\%", "{n}%", "({n})", "{{{n}}}", "**{n}**", "`{n}`", "+{n}", "{n}.0",
    "\\({n}\\)", "\\[{n}\\]", "$${n}$$", "\\text{{{n}}}", "\\text{{ {n} }}", "\\mathrm{{{n}}}", "\\mathbf{{{n}}}",
    "\\textbf{{{n}}}", "\\text{{{n} kg}}", "{n}\\text{{ kg}}", "{n}~\\text{{m}}", "{n} \\mbox{{ cm}}^2",
    "\\text{{\\${n}}}", "{n}kg", "{n}mph", "{n}cm", "{n}km", "{n}ml", "{n}lbs", "{n}apples", "{n}pm", "{n} kg",
    "{n} km/h", "{n} miles per hour", "${n}/hour", "${n} per hour", "{n} dollars", "{n} cents", "{n} cups of flour",
    "{n} g", "{n} L", "{n} a day", "{n}\u00b0", "{n}^\\circ", "{n}^{{\\circ}}", "{n} \u00b0C", "{n} cm^2",
    "{n} m\u00b2",
    "{n} square feet", "#### {n}", "The answer is #### {n}", "x = {n}", "x={n}", "AB = {n}", "\\theta = {n}",
    "P(A) = {n}", "Total = {n}", "2 + 3 = {n}", "The answer is {n}.", "She has {n} apples left.", "She needs {n} more.",
    "so it is {n} dollars", "\\approx {n}", "{n} or {n}", "Profit: ${n}", "about {n} eggs", "{n}\n</answer",
    "She ran {n} times", "{n} days!", "\u20ac{n}", "\u00a3{n}", "{n} years old",
)  # fmt: skip
UNPAID_AS_SENTENCE = (
    "{n} 1/2", "{n} \\frac{{1}}{{2}}", "{n}\\frac12", "{n} + {n}", "{n}+{n}", "{n} - {n}", "{n}-{n}", "{n} * {n}",
    "{n}\\times {n}", "{n} \u00d7 {n}", "{n} x {n}", "{n} by {n}", "{n} times {n}", "{n} and {n}", "{n}/{n}/{n}",
    "{n} {n}", "{n},{n}", "{n}({n})", "{n}({n}+1)", "\\sqrt{{{n}}}", "\u221a{n}", "sqrt({n})", "sqrt {n}", "{n}!",
    "{n}^2", "{n}^{{2}}", "{n}\u00b2", "{n} squared", "{n}**2", "2^{n}", "{n}\\pi", "{n}\u03c0", "{n} pi", "{n}x",
    "{n}n", "{n} x", "{n}k", "{n}K", "{n}M", "{n} k", "{n}bn", "{n}mil", "{n}e3", "{n}_8", "{n}.5.1", "{n}.{n}.{n}",
    "negative {n}", "Negative {n}", "minus {n}", "-{n}", "- {n}", "\u2212{n}", "-${n}", "$-{n}",
    "\\text{{negative }}{n}",
    "{n} dozen eggs", "{n} dozen", "{n} dozens", "{n}-dozen", "{n} hundred", "{n} thousand", "{n} thousands",
    "{n} million", "{n} billion dollars", "{n} trillion", "{n}\\text{{ million}}", "${n} million",
    "{n} million dollars",
    "She has {n} million dollars", "She has {n} dozen eggs", "She has {n} thirds", "{n} thirds", "{n} tenths",
    "{n} quarters of an hour", "{n} and a half", "half of {n}", "twice {n}", "three times {n}", "double {n}",
    "twenty {n}", "{n} thousand six", "{n} squared feet squared", "log({n})", "\\log {n}", "f({n})", "|{n}|", "|-{n}|",
    "{n} < x", "x > {n}", "x \\ge {n}", "x \\ne {n}", "x != {n}", "{n}\\cdot 2", "\\frac{{{n}}}{{2}}", "{n}/2",
    "{n} or 9{n}", "{n} to 9{n}", "{n}-9{n}", "1{n} or 2{n}", "{n}:9{n}", "{n}th", "x{n}", "v{n}", "1 {n}", "{n} 1",
    "0.{n}", ".{n}", "1.{n}", "{n}\\times 10^3", "{n} \\times 10^{{-2}}", "\\binom{{{n}}}{{2}}", "{n} choose 2",
    "{n} mod 3", "{n}i", "\\text{{x}}^{n}", "{n} three", "\u0663{n}", "{n}\u0663", "{n} plus", "{n}+", "{n}=", "e^{n}",
)  # fmt: skip


def variants(templates: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return number and text for each template and number."""
    return [(number, template.format(n=number)) for template in templates for number in WHOLE]


def grade(task: str, answer: str, **facts: int | str) -> bool:
    """Whether a completion with this answer is solved."""
    problem = Problem("hand", "?", "", "hand", facts)
    return TASK_FAMILIES[task].grade(problem, f"<answer>{answer}</answer>").is_solved


@pytest.mark.parametrize(("number", "text"), variants(PAID_AS_SENTENCE))
def test_a_number_is_read_through_what_is_written_around_it(number: str, text: str) -> None:
    assert parse_answer_number(text) == Fraction(number)
    assert grade("gsm8k", text, gold=number)
    assert grade("gsm8k", f"\\boxed{{{text}}}", gold=number) or "\n" in text


@pytest.mark.parametrize(("number", "text"), variants(UNPAID_AS_SENTENCE))
def test_a_number_that_is_part_of_something_else_is_not_read(number: str, text: str) -> None:
    for careless in re.findall("[0-9]+", text):
        if int(careless) != parse_number(text):
            assert not grade("gsm8k", text, gold=careless)
    assert parse_answer_number(text) != Fraction(number)
    assert compare_answers(number, text) != "equal"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 1/2", "5/2"),
        ("2\\frac{1}{2} cups", "5/2"),
        ("-2 1/2", "-5/2"),
        ("negative 8", "-8"),
        ("Minus 8 dollars", "-8"),
        ("negative \\$8", "-8"),
        ("It was negative 8 degrees.", "-8"),
        ("-$8", "-8"),
        ("2 dozen eggs", "24"),
        ("She has 2 dozen eggs", "24"),
        ("3 hundred thousand", "300000"),
        ("1.5 million dollars", "1500000"),
        ("$3 billion", "3000000000"),
        ("3\\text{ million}", "3000000"),
        ("1{,}450", "1450"),
        ("$1{,}234{,}567$", "1234567"),
        ("1\\,450", "1450"),
        ("10,\\!080", "10080"),
        ("1,450.50", "2901/2"),
        ("5 \\times 10^3", "5000"),
        ("1.5\u00d710^{6}", "1500000"),
        ("2\\times 10^{-2}", "1/50"),
        ("1/2 cup", "1/2"),
        ("\\frac{1,000}{3}", "1000/3"),
        ("\\frac{1.5}{2}", "3/4"),
        ("3/0", None),
        ("1\\,2", None),
        ("1~2", None),
        ("1\n2", None),
        ("1.450,00", None),
        ("1 450", None),
        ("seventy-two", None),
        ("\uff17\uff12", None),
    ],
)
def test_numbers_that_are_more_than_their_digits(text: str, value: str | None) -> None:
    assert parse_answer_number(text) == (None if value is None else Fraction(value))


@pytest.mark.parametrize("half", ["\\frac{{{0}1}}{{2}}", "{0}\\frac{{1}}{{2}}", "{0}0.5", "{0}1/2", "{0}(1/2)",
    "{0}.5", "{0}\\left(\\frac{{1}}{{2}}\\right)", "\\frac{{1}}{{{0}2}}", "({0}1)/2", "1/({0}2)", "{0}\\dfrac12",
    "\\tfrac{{{0}1}}{{2}}", "({0}\\frac{{1}}{{2}})", "{0} \\frac 1 2", "{{{0}\\frac12}}",
    "x = {0}\\frac12"])  # fmt: skip
@pytest.mark.parametrize("sign", ["", "-", "\u2212", "- "])
def test_a_sign_counts_wherever_it_stands(half: str, sign: str) -> None:
    text = half.format(sign)
    golds = {"-": ("-\\frac{1}{2}", "\\frac{-1}{2}", "-0.5", "-1/2"), "+": ("\\frac{1}{2}", "0.5", "\\frac{-1}{-2}")}
    right, wrong = (golds["-"], golds["+"]) if sign else (golds["+"], golds["-"])
    assert parse_number(text) == (Fraction(-1, 2) if sign else Fraction(1, 2))
    assert all(compare_answers(gold, text) == "equal" for gold in right)
    assert all(compare_answers(gold, text) == "different" for gold in wrong)


COMPUTED = [
    ("2^{10}", 1024), ("9!", 362880), ("\\binom{9}{2}", 36), ("\\dbinom92", None), ("3^{4}", 81), ("2^5", 32),
    ("5!", 120), ("\\binom{10}{5}", 252), ("{9 \\choose 2}", 36), ("\\frac{10!}{5!}", 30240), ("4 \\cdot 5", 20),
    ("4 \\times 5", 20), ("2^{3}+1", 9), ("(2+3)^2", 25), ("10^6", 10**6), ("\\sqrt{16}", 4), ("\\sqrt[3]{27}", 3),
    ("7^{2}-5^{2}", 24), ("2^{-3}", "1/8"), ("\\frac{1}{2^{60}}", f"1/{2**60}"), ("3(4+5)", 27), ("-2^2", -4),
    ("\\left(\\frac{2}{3}\\right)^{3}", "8/27"), ("12{,}000 \\div 4", 3000), ("6!/3!", 120), ("2^{2^{3}}", 256),
    ("\\sqrt{\\frac{9}{4}}", "3/2"), ("8-3-2", 3), ("8/4/2", 1), ("2^10", None), ("\\sqrt{2}", None), ("2x", None),
    ("(1+2", None), ("9^{9^{9}}", None), ("1000!", None), ("1 2", None), ("2\\frac{1}{2}", None), ("1/0", None),
    ("0^{-1}", None), ("", None), ("()", None), ("1+", None), ("((((((((((((((((((((((1))))))))))))))))))))))", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), COMPUTED)
def test_arithmetic_in_latex_has_its_exact_value(text: str, value: int | str | None) -> None:
    assert exact_value(text) == (None if value is None else Fraction(value))


@pytest.mark.parametrize(("gold", "value"), [case for case in COMPUTED if case[1] is not None])
def test_a_gold_answer_that_is_to_be_computed_may_be_given_as_its_value(gold: str, value: int | str) -> None:
    number = Fraction(value)
    assert compare_answers(gold, gold) == compare_answers(gold, str(number)) == "equal"
    assert compare_answers(gold, f"x = {number}") == "equal"
    if number.denominator == 1:
        assert compare_answers(gold, f"{int(number):,}") == "equal"
    for wrong in (number + 1, -number, number * 3, number / 2):
        assert compare_answers(gold, str(wrong)) == "different"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("\\frac{1}{2^{60}}", "\\frac{3}{2^{60}}"),
        ("6.63\\times 10^{-34}", "9.11\\times 10^{-31}"),
        ("6.63\\times 10^{-34}", "6.62\\times 10^{-34}"),
        ("\\frac{\\pi}{2^{60}}", "\\frac{3\\pi}{2^{60}}"),
        ("\\frac{x}{2^{60}}", "\\frac{3x}{2^{60}}"),
        ("0.12345678x", "0.1234567x"),
        ("10^{-20}\\pi", "2 \\cdot 10^{-20}\\pi"),
        ("\\left(\\frac{\\pi}{2^{60}}, 1\\right)", "\\left(\\frac{3\\pi}{2^{60}}, 1\\right)"),
        ("(0, \\frac{1}{2^{60}}) \\cup (\\pi, 9)", "(0, \\frac{3}{2^{60}}) \\cup (\\pi, 9)"),
        ("\\frac{1}{2^{60}}, \\pi", "\\frac{3}{2^{60}}, \\pi"),
        ("1.0000001", "1"),
        ("10^{30}", "10^{30}+1"),
        ("\\sqrt{2}", "\\sqrt{2}+10^{-30}"),
        ("\\frac{7x}{4}", "\\frac{7x}{4} + 10^{-60}"),
        ("7^x", "7^x + 10^{-30}"),
        ("7\\pi", "-\\pi \\times 10^{1+inf}"),
        ("7\\pi", "10^{\\infty}"),
        ("(7\\pi, 1)", "(10^{2\\infty}, 1)"),
        ("12", "1 2"),
        ("12", "1\\,2"),
        ("12", "1\\ 2"),
        ("12", "1~2"),
        ("12", "1\\;2"),
        ("12", "1$2"),
        ("\\sqrt{12}", "\\sqrt{1 2}"),
        ("1200", "12 00"),
        ("5", "-x = 5"),
        ("5", "2x = 5"),
        ("5", "x^2 = 5"),
        ("5", "x = y = 5"),
        ("5", "AB = 6"),
        ("\\log_2 8", "4"),
    ],
)
def test_values_that_only_look_equal_are_not(gold: str, answer: str) -> None:
    assert compare_answers(gold, answer) == "different"
    assert compare_answers(gold, gold) == "equal"


@pytest.mark.parametrize("name", ["x", "AB", "x_1", "x_{12}", "\\theta", "P(A)", "f(2)", "\\angle ABC", "m\\angle A",
    "\\overline{AB}", "|AB|", "a + b", "\\text{Area}", "A'", "P(A \\cap B)", "\\triangle ABC", "[ABC]"])  # fmt: skip
@pytest.mark.parametrize(("gold", "other"), [("5", "6"), ("\\frac{1}{3}", "\\frac{2}{3}"), ("\\sqrt{2}", "\\sqrt{3}"),
    ("45^\\circ", "44^\\circ"), ("2\\pi", "3\\pi")])  # fmt: skip
def test_a_name_before_the_value_changes_nothing(name: str, gold: str, other: str) -> None:
    if name in ("P(A \\cap B)", "[ABC]"):  # sets and areas are not read as names: refused, never misread
        assert without_name(f"{name} = {gold}") == f"{name} = {gold}"
        return
    assert compare_answers(gold, f"{name} = {gold}") == "equal"
    assert compare_answers(gold, f"{name}={gold}") == "equal"
    assert compare_answers(gold, f"{name} = {other}") == "different"


@pytest.mark.parametrize(("answer", "right"), [
    ("25 + 7 - 3", True), ("25 + 7 - 3.", True), ("25 + 7 - 3 = 29.", True), ("25+7-3=29", True),
    ("`25 + 7 - 3`", True),
    ("**25 + 7 - 3**", True), ("$25 + 7 - 3$", True), ("\\(25 + 7 - 3\\)", True), ("(25 + 7) - 3", True),
    ("```25 + 7 - 3```", True), ("25 + 7 \u2212 3", True), ("25 + 7 - 3 = 30", False), ("25 + 7 - 3 = 29 = 29", False),
    ("25 + 7 x 3", False), ("25 + 7", False), ("25 + 7 - 3 + 0", False), ("2.5 + 7 - 3", False), ("29", False),
    ("25 + 7 - 3.5", False), ("25 + 7 - 3..", False), ("25 7 - 3", False), ("32 - 3", False), ("25 + 7 - 3 = x", False),
])  # fmt: skip
def test_countdown_reads_what_stands_around_an_expression(answer: str, right: bool) -> None:
    assert grade("countdown-d1", answer, numbers="25,7,3", target=29) is right
    assert grade("countdown-d1", f"\\boxed{{{answer}}}", numbers="25,7,3", target=29) is right


@pytest.mark.parametrize("times", ["*", " * ", "x", " x ", "X", " X ", "\u00d7", " \u00d7 ", "\\times ", "\\cdot ",
    "\\ast ", "\\*", " \\* ", "\u00b7", "\u22c5", "\u2217"])  # fmt: skip
def test_countdown_reads_every_sign_for_times(times: str) -> None:
    for text in (f"7{times}3 + 4", f"4 + 7{times}3", f"4+(7){times}(3)", f"7{times}3+4."):
        assert grade("countdown-d1", text, numbers="7,3,4", target=25)
        assert not grade("countdown-d1", text, numbers="7,3,4", target=24)
        assert not grade("countdown-d1", text, numbers="73,4", target=25)
