r"""Completions that a model might write to be paid without being right, drawn by seed and number.

Each is graded against gold answers whose digits no completion has by chance. One that states none of them must not be
paid. Others are known to be wrong because of how they were made from the right answer: a sign, a digit or a power too
many. What is left (the right answer in a text that was then spoilt) may be paid or not, and must only be survived.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.helpers.hostile import HOSTILE
from tests.torture.mutations import any_character, mutated

NUMBER = 86028157
"""The gold number: prime, and with digits that stand in no text but one that means it."""
COUNTDOWN, TARGET = (86, 57, 91), 52
PUZZLE, SOLUTION = "1034341201434301", "1234341221434321"
"""It has one solution."""
SYMBOLIC = (
    rf"\sqrt{{{NUMBER}}}", rf"\frac{{{NUMBER}x}}{{4}}", rf"({NUMBER}, \infty)", rf"{NUMBER}\pi", rf"x^2+{NUMBER}",
    rf"3+{NUMBER}i", rf"\begin{{pmatrix}} {NUMBER} \\ 7 \end{{pmatrix}}", rf"[-2,7) \cup ({NUMBER},9^{{20}})",
    rf"\left({NUMBER}, \frac{{\pi}}{{2}}\right)", rf"\frac{{\sqrt{{3}}}}{{{NUMBER}}}", rf"{NUMBER}^x",
    rf"x \le {NUMBER}",
)  # fmt: skip
"""Gold answers that only the symbolic grader can compare."""

_NO_DIGIT, _NO_CELL = re.compile("[^0-9]+"), re.compile("[^1-4]+")

Kind = Literal["number", "countdown", "sudoku", "symbolic"]

SHELLS = (
    "{a}",
    "\\boxed{{{a}}}",
    "<answer>{a}</answer>",
    "<reasoning>\nShe has 16 - 3 - 4 = 9 eggs.\n</reasoning>\n<answer>\n\\boxed{{{a}}}\n</answer>",
    "<reasoning>\n48 / 2 = 24, so 48 + 24 = 72.\n</reasoning>\n<answer>{a}</answer><|eot_id|>",
    "Let $x$ be the length. Then $x^2 + 3x - 4 = 0$, so the answer is $\\boxed{{{a}}}$.",
    "The answer is {a}.",
    "#### {a}",
    "<answer>\\boxed{{{a}",
    "<answer>17</answer> no, wait: <answer>{a}</answer>",
    "\\boxed{{17}} <answer>\\boxed{{{a}}}</answer>",
    "```python\nprint({a})\n```\n<answer>{a}</answer>",
    "<answer>$${a}$$</answer>",
    "**Answer:** {a}",
    "<answer>\\text{{{a}}}</answer>",
)
"""Completions as models write them, around an answer."""

ATOMS = (
    "0", "1", "7", "-3", "2.5", "1,200", "1e999", "1e-999", "9" * 50, "0" * 400, "007", "1_000", "0x1F", "nan",
    "inf", "-inf", "NaN", "True", "None", "1/0", "0/0", "99**(98**97)", "9^{9^{9}}", "10^{100000}", "2^{10^{10}}",
    "1000000!",
    "3!!", "\\frac", "\\frac{1}", "\\frac{1}{0}", "\\frac12", "\\dfrac{-1}{2}", "\\sqrt", "\\sqrt[0]{5}",
    "\\sqrt[3]{-8}",
    "\\binom{1000}{500}", "\\infty", "\\pi", "\\int_0^1 x dx", "\\sum_{k=1}^{10^9} k",
    "\\lim_{x\\to0}\\frac{\\sin x}{x}",
    "\\begin{pmatrix}", "\\end{pmatrix}", "\\begin{cases}1&x>0\\\\2\\end{cases}", "\\left(", "\\right)", "\\text{",
    "\\boxed{",
    "\\boxed", "\\fbox{7}", "\\boxed{}", "boxed{", "}", "{", "((((", "))))", "[[[", "<answer>", "</answer>", "<answer",
    "<|eot_id|>",
    "<|endoftext|>", "<|im_end|>", "####", "=", "==", "\\pm", "\\cup", "\\in", "\\le", "\\neq", "<", ">", "\\circ",
    "\\%", "%", "$", "$$",
    "\\$", "dozen", "million", "hundred thousand", "negative", "minus", "kg", "x", "i", "or", "and", "to", "half of",
    "squared",
    "__import__('os').system('touch pwned')", "eval('1')", "exec('x=1')", "().__class__.__bases__[0]", "lambda: 1",
    "{{7*7}}",
    "${7*7}", "%s%s%n", "'; DROP TABLE runs; --", "<script>alert(1)</script>", "\x1b[2J\x1b]0;pwned\x07", "\r", "\0",
    "\ud800",
    "\udfff\ud800", "\u202e", "\u0663\u0664", "\uff18\uff16", "\u00b2", "\u00bd", "\u2167", "\u4e94", "\U0001d7d8",
    "e\u0301" * 20,
    '"]\n["a", "a"]', '{"reward": 1}', "gold", "equal", "ready\nequal", "\\ud800", "\\x00", "\\input{/etc/passwd}",
    "\\def\\x{\\x\\x}",
    "\\newcommand", "1.2.3", "1:2", "3/4/5", "1 2", "1\\,2", "1{,}200", "12,34", "1234341221434321"[:15],
    "1111222233334444",
)  # fmt: skip
"""What goes into completions: numbers at the edges of readers, LaTeX in parts, code, and signs of control."""

NESTS: tuple[Callable[[str, str], str], ...] = (
    lambda one, other: f"\\frac{{{one}}}{{{other}}}",
    lambda one, other: f"\\sqrt{{{one}}}",
    lambda one, other: f"\\sqrt[{other}]{{{one}}}",
    lambda one, other: f"{{{one}}}^{{{other}}}",
    lambda one, other: f"({one})({other})",
    lambda one, other: f"{one}+{other}",
    lambda one, other: f"{one} - {other}",
    lambda one, other: f"\\left({one}, {other}\\right]",
    lambda one, other: f"\\text{{{one}}}",
    lambda one, other: f"\\boxed{{{one}}}",
    lambda one, other: f"{one}_{{{other}}}",
    lambda one, other: f"\\log_{{{one}}} {other}",
    lambda one, other: f"|{one}|",
    lambda one, other: f"{one} = {other}",
    lambda one, other: f"{one}, {other}",
    lambda one, other: f"\\begin{{pmatrix}}{one} & {other}\\end{{pmatrix}}",
    lambda one, other: f"{one} \\times 10^{{{other}}}",
    lambda one, other: f"-({one})",
)

_WRONG_NUMBERS = (
    "-{n}", "- {n}", "\u2212{n}", "negative {n}", "minus {n}", "{n}!", "{n}^2", "{n}\u00b2", "{n} squared",
    "\\sqrt{{{n}}}", "\u221a{n}",
    "{n}x", "{n}\\pi", "{n}i", "{n}k", "{n} million", "{n} dozen", "{n}e3", "{n}.5", "0.{n}", "{n} 1/2", "{n}\\frac12",
    "{n}/2", "2/{n}",
    "\\frac{{{n}}}{{2}}", "\\frac{{-{n}}}{{1}}", "{n} + 1", "{n}-1", "{n}*2", "{n}\\times 3", "{n}({n})", "{n}{n}",
    "{n}0", "1{n}",
    "{n}\\times 10^3", "{n}\\%\\%5", "{n} or 5", "5 or {n}", "{n}, 5", "{n} < x", "x > {n}", "x \\ne {n}", "{n}_8",
    "|-{n}", "log({n})",
    "\\log {n}", "f({n})", "\\binom{{{n}}}{{2}}", "{n} mod 3", "{n} thirds", "half of {n}", "twice {n}",
    "{n} and a half", "{n} = 5",
    "5 = {n} = 7", "{n} \\pm 1", "8602 8157", "86 028 157", "8602815", "6028157", "860281570", "75182068",
    "8602815\u0667", "\uff18\uff16028157",
    "86028157.0000000000000000000001", "86028156.99999999999999999999", "8.6028157", "86,02,8157", "860,281,57",
    "0x520AD3D", "86028157^{{-1}}",
    "({n}, {n})", "[{n}, \\infty)", "\\{{{n}, 2\\}}", "\\text{{not }} {n}^0", "e^{{{n}}}", "{n}\\text{{ million}}",
)  # fmt: skip
_WRONG_COUNTDOWNS = (
    "86 + 57 - 91 = 53", "86 + 57", "86 + 57 - 91 + 0", "86 + 57 - 91 - 91 + 91", "(86 + 57 - 91) * 1", "52",
    "86 + 57 - 9 1", "8 6 + 57 - 91",
    "86 - 57 + 91", "86 + 57 - 91!", "86 + 57 - -91", "86 + 57 - 91 # 52", "86 + 57 - 091", "86.0 + 57 - 91",
    "86 + 57 - 91 == 52", "57 + 86 - 9",
    "86 + 57 - 91; 52", "86 + 57 - 91, 52", "86 // 57 + 91", "86 ** 57 - 91", "\uff18\uff16 + 57 - 91", "86 57 91 + -",
    "sum([86, 57, -91])",
    "52 = 86 + 57 - 91 = 1", "52/(86+57-91)*(86+57-91)", "86 + 57 - 91 or 52",
    "__import__('os').getpid() + 86 + 57 - 91",
)  # fmt: skip
_WRONG_SYMBOLIC = (
    "-({g})", "({g})+1", "2({g})", "({g})^2", "\\sqrt{{{g}}}", "\\frac{{{g}}}{{2}}", "({g}) + 0.0000001",
    "({g}) + 10^{{-30}}", "{g} = 5",
    "7 = {g} = 8", "5, {g}", "{g}, 1", "x + {g}", "{g}\\cdot 1.00000001", "\\pm {g}", "\\text{{not }}",
    "\\frac{{1}}{{{g}}}", "({g})!", "|{g}|+1",
)  # fmt: skip


@dataclass(frozen=True)
class Completion:
    """A completion, and whether it is known to be wrong for the gold answers of a kind."""

    text: str
    wrong_for: frozenset[Kind]


def completion(seed: int, number: int, symbolic_gold: str = SYMBOLIC[0]) -> Completion:
    """Return the completion of that number. `symbolic_gold` is the answer that those for symbols are made of."""
    draw = random.Random(f"{seed}/{number}")
    known: Kind | None = None
    match draw.choices(range(6), (40, 20, 20, 12, 7, 1))[0]:
        case 0:
            text = draw.choice(SHELLS).format(a=_nested(draw, draw.randint(0, 4)))
        case 1:
            text = mutated(draw.choice(SHELLS).format(a=_right(draw, symbolic_gold)), ATOMS, draw)
        case 2:
            known, answer = _wrong(draw, symbolic_gold)
            text = draw.choice(SHELLS[1:4]).format(a=answer)
        case 3:
            text = "".join(draw.choice(ATOMS) for _ in range(draw.randint(1, 30)))
        case 4:
            text = "".join(any_character(draw) for _ in range(draw.randint(0, 200)))
        case _:
            text = _long(draw)
    return Completion(text, wrong_for(text) | ({known} if known else set()))


def _nested(draw: random.Random, depth: int) -> str:
    if depth == 0:
        return draw.choice(ATOMS)
    nest = draw.choice(NESTS)
    return nest(_nested(draw, depth - 1), _nested(draw, draw.randrange(depth)))


def _right(draw: random.Random, symbolic_gold: str) -> str:
    return draw.choice((str(NUMBER), "86 + 57 - 91", SOLUTION, symbolic_gold))


def _wrong(draw: random.Random, symbolic_gold: str) -> tuple[Kind, str]:
    """Return an answer that is nearly right, and for which gold answer."""
    match draw.randrange(4):
        case 0:
            return "number", draw.choice(_WRONG_NUMBERS).format(n=NUMBER)
        case 1:
            return "countdown", draw.choice(_WRONG_COUNTDOWNS)
        case 2:
            return "sudoku", _wrong_grid(draw)
        case _:
            return "symbolic", draw.choice(_WRONG_SYMBOLIC).format(g=symbolic_gold)


def _wrong_grid(draw: random.Random) -> str:
    cell = draw.randrange(16)
    other = draw.choice([digit for digit in "01234567\u0661\uff11x" if digit != SOLUTION[cell]])
    changed = SOLUTION[:cell] + other + SOLUTION[cell + 1 :]
    return draw.choice(
        (
            changed,
            SOLUTION + SOLUTION[cell],
            SOLUTION[:-1],
            SOLUTION[1:] + SOLUTION[0],
            ",".join(SOLUTION),
            "-" + SOLUTION,
        )
    )


def _long(draw: random.Random) -> str:
    """Return a text of many repetitions: usually of thousands of characters, sometimes of a million."""
    if draw.random() < 0.02:
        return draw.choice(HOSTILE)
    piece = draw.choice(ATOMS) + draw.choice(("", " ", draw.choice(ATOMS)))
    count = draw.choice((1000, 5000, 20_000)) // len(piece)
    text = draw.choice(("", "<answer>", "\\boxed{")) + piece * count
    return text + draw.choice(("", "</answer>", "}", "7"))


def wrong_for(text: str) -> frozenset[Kind]:
    """Return the kinds of which the text cannot state the gold answer, since it lacks the digits.

    What is not a digit is left out before, so that no way of writing the digits escapes.
    """
    digits = _NO_DIGIT.sub("", text)
    found: set[Kind] = set()
    if str(NUMBER) not in digits:
        found |= {"number", "symbolic"}
    if not all(str(number) in digits for number in COUNTDOWN):
        found.add("countdown")
    if SOLUTION not in _NO_CELL.sub("", text):
        found.add("sudoku")
    return frozenset(found)
