"""d1's scorers give d1's numbers on what LLaDA-8B wrote, and the tasks' graders give better ones."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.hostile import HOSTILE

from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.evaluation.recorded import score_file, summary
from diffpo.grading.d1 import countdown_is_right, gsm8k_is_right, math_is_right, sudoku_cells

GENERATIONS = Path(__file__).parents[3] / "shared" / "data" / "generations"
PUZZLE, GRID = "1030040020100301", "1234341221434321"

needs_generations = pytest.mark.skipif(
    not GENERATIONS.is_dir(), reason="the recorded generations are not in ../shared/data"
)


@needs_generations
@pytest.mark.parametrize(
    ("file", "kind", "points", "possible", "solved", "grader_failed"),
    [
        ("gsm8k_256", "gsm8k", 863, 1130, 874, 2),
        ("math500_256", "math500", 162, 500, 178, 0),
        ("countdown_256", "countdown-d1", 50, 256, 49, 0),
        ("sudoku_256", "sudoku-d1", 137, 2048, 0, 0),
    ],
)
def test_recorded_generations(
    file: str, kind: str, points: int, possible: int, solved: int, grader_failed: int
) -> None:
    rows = score_file(GENERATIONS / f"{file}.jsonl", kind)
    assert (sum(row.points for row in rows), sum(row.possible for row in rows)) == (points, possible)
    assert sum(row.grade.is_solved for row in rows) == solved
    assert sum(row.grade.status == "grader_failed" for row in rows) == grader_failed


# --- d1's scorers by hand


@pytest.mark.parametrize(
    ("generation", "gold", "is_right"),
    [
        ("\\boxed{18}", 18.0, True),
        ("\\boxed{1,200}", 1.0, True),
        ("\\boxed{1,200}", 1200.0, False),
        ("\\boxed{17} \\boxed{18}", 18.0, False),  # the first box
        ("\\boxed{...} \\boxed{} \\boxed{18}", 18.0, True),
        ("\\boxed{none} \\boxed{18}", 18.0, True),
        ("\\boxed{\n18}", 18.0, False),  # a box of two lines is none
        ("<answer>3 eggs, 18 dollars</answer>", 18.0, True),
        ("<answer>18", 18.0, False),
        ("<answer>1_8</answer>", 18.0, True),
        ("\\boxed{18}", None, False),
        ("", 18.0, False),
    ],
)
def test_gsm8k(generation: str, gold: float | None, is_right: bool) -> None:
    assert gsm8k_is_right(generation, gold) == is_right


@pytest.mark.parametrize(
    ("answer", "gold", "is_right"),
    [
        ("0.25", "1/4", False),
        ("1,000", "1000", False),
        ("2.0", "2", False),
        ("x/4", "\\frac{x}{4}", False),
        ("\\text{Evelyn}", "Evelyn", False),
        ("5.", "5", False),
        ("\\frac14", "1/4", True),
        ("\\dfrac12", "0.5", True),
        ("x=5", "5", True),
        ("5\\text{ cm}", "5", True),
        ("\\sqrt3", "\\sqrt{3}", True),
        ("90^\\circ", "90", True),
        ("\\text{ a}\\text{ b}", "\\text{ a}\\text{ b}", True),  # cannot be tidied, so compared as it is
    ],
)
def test_math_text_equality(answer: str, gold: str, is_right: bool) -> None:
    """The cases of d1_dmpo 7.3, and those that its tidying is made for."""
    assert math_is_right(f"so \\boxed{{{answer}}}", gold) == is_right
    assert math_is_right(answer, gold) == is_right  # without a box the whole text counts


def test_math_boxes() -> None:
    assert math_is_right("\\boxed{1} then \\boxed{\\frac{1}{2}}", "\\frac{1}{2}")
    assert math_is_right("\\boxed 7$ and", "7")
    assert not math_is_right("\\boxed{7", "7")
    assert math_is_right("\\boxed{7 <answer>8</answer>", "8")
    assert math_is_right("\\boxed{}", "")


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("(1+5)*2-6+6", False),  # 6 is not there to use
        ("\\boxed{1+5*2}", False),
        ("\\boxed{(5-2)*(1+1)}", False),
        ("\\boxed{1.2*5}", True),  # which is 6 out of 1, 2 and 5
        ("\\boxed{5+2-1}", True),
        ("\\boxed{5+2-1 = 6}", True),
        ("\\boxed{5 + 2 \\times 1 - 1}", False),
        ("<answer>5+2-1</answer>", False),  # without a box the whole text counts, tags and all
        ("\\boxed{5+2-1 <answer>5+2-1</answer>", True),
        ("so 5+2-1=6 it is", True),
        ("\\boxed{5+2-+1}", True),
        ("\\boxed{5//2*1}", False),
        ("\\boxed{5+1**2}", True),
        ("\\boxed{5 (2) 1}", False),
        ("\\boxed{5/(2-2)-1}", False),
        ("\\boxed{\u0665+2-1}", False),
        ("", False),
    ],
)
def test_countdown(text: str, is_right: bool) -> None:
    assert countdown_is_right(text, [1, 2, 5], 6) == is_right


def test_countdown_powers_end() -> None:
    started = time.process_time()
    assert not countdown_is_right("\\boxed{99**(98**97)}", [97, 98, 99], 1)
    assert not countdown_is_right("\\boxed{" + "-" * 5000 + "5+2-1}", [1, 2, 5], 6)
    assert countdown_is_right("\\boxed{" + "-" * 200 + "5+2-1}", [1, 2, 5], 6)
    assert not countdown_is_right("\\boxed{(0-5)**(1/2)}", [0, 1, 2, 5], 6)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        (f"<answer>{GRID}</answer>", 9),
        (f"<answer>{GRID}123</answer>", 9),
        ("<answer>1234 3412\n2143 4321</answer>", 9),
        (f"<answer>4x4: {GRID}</answer>", 0),  # other characters shift what follows
        (f"<answer>```{GRID}```</answer>", 9),
        (f"<answer></answer>{GRID}<|eot_id|>", 9),
        (f"no tags, {GRID}!", 9),
        (f"<answer>{PUZZLE}</answer>", 0),
        (f"<answer>{GRID}", 9),
        ("<answer>1234</answer>", 2),
        ("", 0),
    ],
)
def test_sudoku(text: str, cells: int) -> None:
    assert sudoku_cells(text, PUZZLE, GRID) == (cells, 9)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_earns_nothing_quickly(text: str) -> None:
    started = time.process_time()
    assert not gsm8k_is_right(text, 18.5)
    assert not math_is_right(text, "18.5")
    assert not countdown_is_right(text, [97, 98, 99], 18)
    assert sudoku_cells(text, PUZZLE, GRID)[0] <= 9
    assert time.process_time() - started < 4


# --- the command


def test_score_reads_what_d1_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [
        {"question": "?", "generations": "\\boxed{1,200}<|eot_id|>", "ground_truth": 1200.0},
        {"question": "?", "generations": "\\boxed{3}", "ground_truth": 3.0},
        {"question": "?", "generations": "\\boxed{3}", "ground_truth": None},
    ]
    file = tmp_path / "gsm8k_instruct_256_128_0_generations.json"
    file.write_text(json.dumps({"generations": rows, "metrics": {}}))
    with pytest.raises(SystemExit) as caught:
        main(["score", str(file), "--task", "gsm8k", "--rows"])
    assert not caught.value.code
    assert capsys.readouterr().out.splitlines() == [
        "d1's scorer      1 / 3 rows (33.33%)",
        "ours             2 / 3 rows (66.67%), 0 unparseable, 1 that the grader failed on",
        "they differ on 1 rows",
        "    1  d1: wrong, ours: right",
        "row 0: d1: wrong, ours: right; gold '1200.0', final answer '1,200'",
    ]


@pytest.mark.parametrize(
    ("content", "task", "message"),
    [
        ("{}", "gsm8k", "should hold a list 'generations' of at least one object"),
        ("[", "gsm8k", "not JSON"),
        ('{"generations": [{"ground_truth": 1}]}', "gsm8k", "row 1: field 'generations' is missing; there are ground"),
        ('{"generations": [{"generations": 3, "ground_truth": 1}]}', "gsm8k", "'generation' should be text, got int"),
        (
            '{"generations": [{"generations": "", "ground_truth": "x"}]}',
            "gsm8k",
            "'ground_truth' should be a number, got 'x'",
        ),
        (
            '{"generations": [{"generations": "1+2+3", "ground_truth": [[1, 2, 3], 1' + "0" * 400 + "]}]}",
            "countdown-d1",
            "'ground_truth' should be three whole numbers and a target, [[1, 2, 3], 6], got [[1, 2, 3], 1000",
        ),
        (
            '{"generations": [{"generations": "", "ground_truth": 1}]}',
            "chess",
            "--task chess: unknown; give one of gsm8k",
        ),
    ],
)
def test_score_names_what_is_wrong(
    content: str, task: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    file.write_text(content)
    with pytest.raises(SystemExit) as caught:
        main(["score", str(file), "--task", task])
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and message in line


ODD: list[Any] = [
    None,
    True,
    "x",
    "",
    [1],
    {},
    -1,
    1e308,
    float("nan"),
    10**400,
    [[[]]],
    "9" * 5000,
    [[1, 2, 3], 10**400],
    "1" * 16,
]
ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "q", "generation": "<answer>5</answer>", "ground_truth": 5},
    "math500": {"question": "q", "generation": "\\boxed{5}", "ground_truth": "5"},
    "countdown-d1": {"question": "q", "generation": "<answer>1+2+3</answer>", "ground_truth": [[1, 2, 3], 6]},
    "sudoku-d1": {"question": "0234341221434321", "generation": "1234341221434321", "ground_truth": "1234341221434321"},
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", ["odd.jsonl", "odd.json"])
def test_a_row_with_an_odd_value_is_scored_or_named(kind: str, name: str, tmp_path: Path) -> None:
    for field in (*ROWS[kind], "generations"):
        for value in ODD:
            row = ROWS[kind] | {field: value}
            (tmp_path / name).write_text(json.dumps({"generations": [row]} if name == "odd.json" else row))
            try:
                summary(score_file(tmp_path / name, kind))
            except UserError as error:
                assert str(error).startswith(str(tmp_path / name)) and "\n" not in str(error)
