"""d1's scorers with their flaws, so that published figures can be reproduced.

They accept and refuse what dllm-reasoning/d1 `eval/parse_and_get_acc.py` (837888f22c21, 2025-05-04) does, but are
written anew: every function is linear in the text, and the arithmetic, for which d1 calls `eval`, is bounded. Use them
only to compare with published numbers: docs/evaluation.md lists where they are wrong.
"""

import ast
import operator
import re
from collections.abc import Callable, Sequence

MAX_EXPRESSION = 256
"""Greatest number of characters in a Countdown expression; d1 has no limit."""

TOLERANCE = 1e-5

_NUMBER = re.compile(r"-?\d+\.?\d*")
_SQUARE_GRID = 16


def gsm8k_is_right(generation: str, gold: float | None) -> bool:
    r"""Return whether d1 finds the gold number in a generation.

    d1 takes the first number of the first `\boxed{}` that is on one line and holds a number, else the last number of
    the `<answer>` section. "1,200" counts as 1, and a gold number that d1 could not parse (None) is never matched.
    """
    number = next((n for box in _boxes_in_lines(generation) if (n := _number(box, 0)) is not None), None)
    if number is None and (section := _answer_section(generation)):
        number = _number(section, -1)
    return number is not None and number == gold


def math_is_right(generation: str, gold: str) -> bool:
    r"""Return whether the last `\boxed{}`, or without one the whole text, equals the gold answer once both are
    tidied."""
    answer = _last_box(generation)
    if not answer:
        section = _answer_section(generation)
        if section is None:
            return answer is not None and _same_text(answer, gold)
        answer = section
    return _same_text(answer, gold)


def countdown_is_right(generation: str, numbers: Sequence[int], target: int) -> bool:
    """Return whether an expression's runs of digits are the numbers, and its value is within 1e-5 of the target.

    d1 takes the last box, else the `<answer>` section, else the whole text. "1.2*5" therefore uses 1, 2 and 5. Unlike
    d1, an expression of more than 256 characters is wrong here.
    """
    text = _last_box(generation)
    if text is None:
        section = _answer_section(generation)
        text = generation if section is None else section
    for latex, sign in ((r"\div", "/"), (r"\times", "*"), (r"\cdot", "*")):
        text = text.replace(latex, sign)
    text = _left_of_equation(text)
    try:
        used = sorted(int(digits) for digits in re.findall(r"\d+", text))
    except ValueError:  # Python reads no number of thousands of digits
        return False
    value = _value(text) if used == sorted(numbers) else None
    return value is not None and abs(value - target) < TOLERANCE


def sudoku_cells(generation: str, puzzle: str, solution: str) -> tuple[int, int]:
    """Return how many of a 16-cell puzzle's empty cells ("0") agree with the listed solution, and how many there are.

    d1 checks neither the clues nor the rules, and any character that is not a digit shifts those after it.
    """
    text = "".join(_sudoku_text(generation).split()).ljust(_SQUARE_GRID, "0")
    empty = [cell for cell in range(_SQUARE_GRID) if puzzle[cell] == "0"]
    return sum(text[cell] == solution[cell] for cell in empty), len(empty)


# Finding answers


def _boxes_in_lines(text: str) -> list[str]:
    r"""Return the text between each `\boxed{` and the next "}" on its line, unless it is blank or dots."""
    boxes = [
        box.strip()
        for line in text.split("\n")
        for box in re.findall(r"\\boxed\{([^}]*)\}", line[: line.rfind("}") + 1])  # the cut keeps the search linear
    ]
    return [box for box in boxes if box.strip(".")]


def _answer_section(text: str) -> str | None:
    _, opened, rest = text.partition("<answer>")
    section, closed, _ = rest.partition("</answer>")
    return section.strip() if opened and closed else None


def _last_box(text: str) -> str | None:
    r"""Return the last `\boxed` with its balanced braces, or what is in them if they follow it directly.

    The whole text without a box; None if the box never ends.
    """
    if "\\boxed " in text:
        # d1 asserts that the answer starts with the box, and here it always does.
        return text.rpartition("\\boxed ")[2].partition("$")[0]
    start = text.rfind("\\boxed")
    if start < 0:
        start = text.rfind("\\fbox")
    if start < 0:
        return text
    depth = 0
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if brace[0] == "}" and depth == 0:
            box = text[start : brace.end()]
            return box[len("\\boxed{") : -1] if box.startswith("\\boxed{") else box
    return None


def _sudoku_text(text: str) -> str:
    """Return the first candidate that is not blank, of the five parts of the text that d1 tries."""
    _, opened, after_answer = text.partition("<answer>")
    if opened:
        fenced = re.search(r"```([\d\s]+)```", after_answer)
        if fenced and fenced[1].strip():
            return fenced[1]
        ends = [end for mark in ("<|eot_id|>", "<|endoftext|>", "</answer>") if (end := after_answer.find(mark)) >= 0]
        if ends and after_answer[: min(ends)].strip():
            return after_answer[: min(ends)]
    _, closed, after_close = text.partition("</answer>")
    if closed:
        ends = [end for mark in ("<|eot_id|>", "<|endoftext|>") if (end := after_close.lstrip().find(mark)) >= 0]
        rest = after_close.lstrip()[: min(ends, default=None)]
        if rest.strip():
            return rest
    for pattern in (r"(\d{16})\s*</answer>", r"\b(\d{16})\b"):
        if match := re.search(pattern, text):
            return match[1]
    return ""


# Numbers


def _number(text: str, which: int) -> float | None:
    """Return all of the text as a Python float ("nan" and "1_000" too), else the number at index `which` in it."""
    try:
        return float(text)
    except ValueError:
        numbers = _NUMBER.findall(text)
        return float(numbers[which]) if numbers else None


_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}


def _left_of_equation(text: str) -> str:
    """Return the expression left of the first "=" that a number follows; all of the text without one."""
    for run in re.finditer(r"[0-9+\-*/() ]+", text):
        if text[run.end() : run.end() + 1] == "=" and text[run.end() + 1 : run.end() + 2] in set("0123456789. "):
            return run[0].strip()
    return text


def _value(text: str) -> float | None:
    """Return the value of Python arithmetic, in floats, so that no power can grow; None for any other text."""
    if len(text) > MAX_EXPRESSION or not re.fullmatch(r"[\d+\-*/().\s]+", text):
        return None
    try:
        value = _walk(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
        return None
    return value if isinstance(value, float) else None


def _walk(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_walk(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _walk(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](_walk(left), _walk(right))
    raise ValueError("not arithmetic")


# The text equality of the MATH data set


def _same_text(one: str, other: str) -> bool:
    try:
        return _tidy(one) == _tidy(other)
    except ValueError:
        return one == other


_GONE = ("\n", "\\!")
_BEFORE_UNITS = (
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\left", ""),
    ("\\right", ""),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("\\$", ""),
)
_AFTER_UNITS = (("\\%", ""), (" .", " 0."), ("{.", "{0."))


def _tidy(text: str) -> str:
    """Remove line breaks, units, and signs of degree, dollar and percent, and write fractions in one form.

    Raises ValueError where d1's own function fails, which then compares the texts as they are.
    """
    for gone in _GONE:
        text = text.replace(gone, "")
    for old, new in _BEFORE_UNITS:
        text = text.replace(old, new)
    text, *units = text.split("\\text{ ")
    if len(units) > 1:
        raise ValueError("two units")
    for old, new in _AFTER_UNITS:
        text = text.replace(old, new)
    if text.startswith("."):
        text = "0" + text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = _braced_fractions(_braced_roots(text).replace(" ", ""))
    return _quotient("\\frac{1}{2}" if text == "0.5" else text)


def _braced_roots(text: str) -> str:
    first, *rest = text.split("\\sqrt")
    if "" in rest:
        raise ValueError("a root of nothing")
    return first + "".join("\\sqrt" + (part if part[0] == "{" else f"{{{part[0]}}}{part[1:]}") for part in rest)


def _braced_fractions(text: str) -> str:
    first, *rest = text.split("\\frac")
    if "" in rest[: next((i for i, part in enumerate(rest) if len(part) == 1 and part != "{"), len(rest))]:
        raise ValueError("a fraction of nothing")
    if any(len(part) == 1 and part != "{" for part in rest):
        return text
    return first + "".join("\\frac" + _braced(part) for part in rest)


def _braced(part: str) -> str:
    if part[0] == "{":
        return part
    above, below, rest = part[0], part[1], part[2:]
    return f"{{{above}}}{below}{rest}" if below == "{" else f"{{{above}}}{{{below}}}{rest}"


def _quotient(text: str) -> str:
    sides = text.split("/")
    if len(sides) != 2:
        return text
    above, below = (int(side) for side in sides)  # raises ValueError for x/4, as d1's does
    return f"\\frac{{{above}}}{{{below}}}" if text == f"{above}/{below}" else text
