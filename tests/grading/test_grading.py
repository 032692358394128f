"""Reading answers: what counts as the answer, exact numbers, symbols, and texts that mean harm."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.hostile import HOSTILE

from diffpo.grading import symbolic
from diffpo.grading.answer import final_answer
from diffpo.grading.math_answer import compare_answers
from diffpo.grading.number import parse_answer_number, parse_number
from diffpo.grading.symbolic import compare_latex

MORE_HOSTILE = [*HOSTILE, "{" * 390, "(" * 190 + ")" * 190, "\\ud800", '"]\n["x", "x"]', "(((((" * 3 + "x"]


# --- where the answer is


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<reasoning>so 3</reasoning><answer>\n\\boxed{18}\n</answer>", "18"),
        ("<answer>\\boxed{18}</answer><|eot_id|><answer>19</answer>", "18"),
        ("\\boxed{17}</reasoning><answer>18</answer>", "18"),
        ("<answer>17</answer> no: <answer>18</answer>", "18"),
        ("<answer>\\boxed{17} or \\boxed{18}</answer>", "18"),
        ("<answer>\\boxed{\\frac{1}{\\sqrt{2}}}</answer>", "\\frac{1}{\\sqrt{2}}"),
        ("<answer>18", "18"),
        ("<answer>\\boxed{78\n</answer>", "78"),  # not closed, but the section is
        ("<answer>\\boxed{7", None),  # cut off: it may have been 78
        ("the answer is \\boxed{18}.", "18"),
        ("the answer is \\fbox{18}", "18"),
        ("<answer></answer>\\boxed{18}", "18"),
        ("\\boxed{5}<answer>\\boxed{}</answer>", "5"),
        ("<answer>\\boxed{...}18</answer>", "18"),
        ("the answer is 18", None),
        ("<answer> </answer>", None),
        ("", None),
    ],
)
def test_the_final_answer(completion: str, answer: str | None) -> None:
    assert final_answer(completion) == answer


# --- numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", Fraction(18)),
        ("-48", Fraction(-48)),
        ("\u221248", Fraction(-48)),
        ("1,200", Fraction(1200)),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("10,\\!080", Fraction(10080)),
        ("11,\\! 111,\\! 111,\\! 100", Fraction(11111111100)),
        (".35625", Fraction(57, 160)),
        ("18.", Fraction(18)),
        ("\\$18.90", Fraction(189, 10)),
        ("$18", Fraction(18)),
        ("50\\%", Fraction(50)),
        ("36^\\circ", Fraction(36)),
        ("864 \\mbox{ inches}^2", Fraction(864)),
        ("5.4 \\text{ cents}", Fraction(27, 5)),
        ("18 dollars", Fraction(18)),
        ("3/4", Fraction(3, 4)),
        ("-\\frac{3}{8}", Fraction(-3, 8)),
        ("\\dfrac 59", Fraction(5, 9)),
        ("\\frac9{19}", Fraction(9, 19)),
        ("137 \\frac{1}{2}", Fraction(275, 2)),
        ("x = 4", Fraction(4)),
        ("2:00 pm", Fraction(2)),
        ("1,20", None),
        ("12,34,567", None),
        ("17\\times 23", None),
        ("1+1", None),
        ("2^3", None),
        ("\\sqrt{4}", None),
        ("2k", None),
        ("3/0", None),
        ("1e3", None),
        ("1_000", None),
        ("\u0663", None),
        ("\u00b2", None),
        ("3 or 4", None),
        ("86, 42", None),
        ("infinity", None),
    ],
)
def test_a_number_is_read_exactly_or_not_at_all(text: str, number: Fraction | None) -> None:
    assert parse_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She makes $18 every day.", 18),
        ("3 + 4 = 7", 7),
        ("16 - 3 - 4 = 9 eggs", 9),
        ("18 or 18", 18),
        ("18, or perhaps 19", None),
        ("version 3.11.7", None),
        ("none", None),
    ],
)
def test_a_sentence_gives_the_one_number_in_it(text: str, number: int | None) -> None:
    assert parse_answer_number(text) == number


@settings(deadline=None)
@given(st.fractions(-(10**20), 10**20, max_denominator=10**6))
def test_fractions_are_read_back(value: Fraction) -> None:
    sign, above = "-" if value < 0 else "", abs(value.numerator)
    assert parse_number(f"{sign}\\frac{{{above}}}{{{value.denominator}}}") == value
    assert parse_number(f"{sign}{above:,}/{value.denominator}") == value


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_read_quickly(text: str) -> None:
    started = time.process_time()
    answer = final_answer(text)
    for read in (text, answer or ""):
        assert parse_number(read) is None or len(read) <= 1000
        parse_answer_number(read)
    assert time.process_time() - started < 2


@settings(deadline=None)
@given(st.text(max_size=60), st.text("0123456789,./=- \\{}$%fracboxed<answer>", max_size=40))
def test_reading_never_raises(anything: str, likely: str) -> None:
    for text in (anything, likely, f"<answer>{likely}</answer>", f"\\boxed{{{likely}}}"):
        answer = final_answer(text)
        if answer is not None:
            parse_answer_number(answer)


# --- symbols


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("\\frac{1}{4}", "0.25"),
        ("1000", "1,000"),
        ("2", "2.0"),
        ("\\frac{x}{4}", "x/4"),
        ("\\text{Evelyn}", "Evelyn"),
        ("\\text{(C)}", "C"),
        ("5", "5."),
        ("\\frac14", "1/4"),
        ("x=5", "5"),
        ("3, 5, 7", "3, 7, 5"),
        ("-2 + 7i", "7i - 2"),
        ("x \\in [-2,7]", "[-2, 7]"),
        ("3 \\pm 2 \\sqrt{2}", "3 + 2\\sqrt2, 3 - 2\\sqrt2"),
        ("(0,9) \\cup (9,36)", "(9,36) \\cup (0,9)"),
        ("4210_{5}", "4210_5"),
        ("2516_8", "2516"),
        ("15\\mbox{ cm}^2", "15"),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3, \\pi/2)"),
        ("\\begin{pmatrix} -7 \\\\ 16 \\end{pmatrix}", "\\begin{pmatrix}-7\\\\16\\end{pmatrix}"),
    ],
)
def test_what_means_the_same_is_equal(gold: str, answer: str) -> None:
    assert compare_answers(gold, gold) == compare_answers(gold, answer) == "equal"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("2", "1+1"),
        ("2", "\\sqrt{4}"),
        ("2", "200\\%"),
        ("2", "3=2k"),
        ("2", "2\\pm 0"),
        ("2", "1, 2"),
        ("391", "17\\times 23"),
        ("\\sqrt{2}", "1.41421356"),
        ("\\pi", "3.14159265358979"),
        ("\\text{east}", "seat"),
        ("\\text{even}", "odd"),
        ("x^2", "3 = x^2"),
        ("\\sqrt{2}", "\\pm\\sqrt{2}"),
        ("(2,4)", "(4,2)"),
        ("(2,4)", "[2,4]"),
        ("2516_8", "2516_7"),
        ("p - q", "q - p"),
        ("x+1", "x+2"),
    ],
)
def test_what_does_not_is_different(gold: str, answer: str) -> None:
    assert compare_answers(gold, answer) == "different"


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker of its own with half of the time."""
    monkeypatch.setattr(symbolic, "CPU_SECONDS", 1.0)
    monkeypatch.setattr(symbolic, "_pool", symbolic._Pool())
    yield
    symbolic._pool.close()


def test_too_much_mathematics_ends_the_worker_and_not_the_caller(small_limits: None) -> None:
    bomb = "9^{9^{9^9}}"
    assert compare_latex("x^2", bomb) == "unparseable"
    first = symbolic._pool.worker
    assert first is not None and not first.is_mine
    assert compare_latex("\\pi", "\\pi + 0") == "equal"
    assert symbolic._pool.worker is not first


def test_memory_is_limited(small_limits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "MEMORY_BYTES", 2**25)  # not enough to load SymPy
    assert compare_latex("x+y", "y+x") == "failed"


@pytest.mark.parametrize("text", MORE_HOSTILE, ids=range(len(MORE_HOSTILE)))
def test_hostile_text_is_never_equal(text: str) -> None:
    started = time.monotonic()
    assert compare_answers("\\sqrt{2}", text) in ("unparseable", "different")
    assert compare_answers("7", text[:-1]) != "equal" or text.strip() == "7"
    assert time.monotonic() - started < 60  # of a machine that may be busy
    assert not os.path.exists("pwned")


def test_it_works_in_threads_and_leaves_the_alarm_alone() -> None:
    signal.setitimer(signal.ITIMER_REAL, 1000)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(compare_latex("x+y", "y+x"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    assert found == ["equal"] * 3
    assert left > 900


def test_a_worker_that_dies_by_itself_is_our_failure_and_is_replaced() -> None:
    assert compare_latex("x+y", "y+x") == "equal"
    worker = symbolic._pool.worker
    assert worker is not None
    worker.process.kill()
    worker.process.wait(timeout=10)
    assert compare_latex("x+y", "y+x") in ("equal", "failed")
    assert compare_latex("x+y", "y+x") == "equal"


def test_a_gold_answer_that_is_no_mathematics_is_our_failure() -> None:
    assert compare_answers("\\frac{", "x^2") == "failed"


def test_no_worker_is_our_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "_pool", symbolic._Pool())
    monkeypatch.setattr(symbolic, "_WORKER", symbolic._WORKER.with_name("absent.py"))
    assert compare_latex("x+y", "y+x") == "failed"
