"""Tasks put in words: data, splits, prompts, rewards and graders of GSM8K, MATH, Countdown and Sudoku."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.hostile import HOSTILE

from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.recipes import dump_recipe, load_recipe
from diffpo.recipes.tables import Gsm8kTask, RlRecipe, SftRecipe
from diffpo.recipes.tasks import build_task
from diffpo.tasks.base import Problem, Split, Task
from diffpo.tasks.countdown_text import expression_of
from diffpo.tasks.custom_reward import WeightedReward, WithReward
from diffpo.tasks.families import TASK_FAMILIES
from diffpo.tasks.sudoku_text import divide_as_spg, solutions
from diffpo.tasks.text import TextTask

SPLITS: tuple[Split, ...] = get_args(Split)
DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="d1's test sets are not in ../shared/data")

GRIDS = sorted(solutions("0" * 16))
ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [{"question": f"What is {n} + {n}?", "answer": f"<<{n}+{n}=1>>So:\n#### {2 * n:,}"} for n in range(300)],
    "math500": [{"problem": f"Name ${n}x+x$.", "solution": f"It is $\\boxed{{{n + 1}x}}$."} for n in range(200)],
    "countdown-d1": [{"nums": [n, 3, 2], "target": n + 6} for n in range(1, 300)],
    "sudoku-d1": [
        {"Puzzle": f"{'0' * n}{grid[n:]}", "Solution": grid} for n, grid in zip([2, 3, 4] * 96, GRIDS, strict=True)
    ],
}
ROWS["sudoku-spg"] = ROWS["sudoku-d1"]


def jsonl(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture(params=list(TASK_FAMILIES))
def task(request: pytest.FixtureRequest, tmp_path: Path) -> TextTask:
    return TextTask(TASK_FAMILIES[request.param], jsonl(tmp_path / "all.jsonl", ROWS[request.param]))


@pytest.fixture
def gsm8k(tmp_path: Path) -> TextTask:
    return TextTask(TASK_FAMILIES["gsm8k"], jsonl(tmp_path / "all.jsonl", ROWS["gsm8k"]))


# --- problems


def test_it_is_a_task(task: TextTask) -> None:
    assert isinstance(task, Task)


def test_every_gold_answer_scores_full_and_a_spoilt_one_nothing(task: TextTask) -> None:
    for split in SPLITS:
        for problem in task.problems(split, 12, seed=0):
            grade = task.grade(problem, problem.answer)
            assert (grade.reward, grade.status, grade.is_solved) == (1.0, "ok", True), problem
            assert set(problem.prompt + problem.answer) <= set(task.alphabet)
            before = problem.answer.partition("<answer>")[0].replace("boxed", "")
            for spoilt in ("", before, problem.answer + "<answer>\\boxed{99991}</answer>", problem.answer[:-14]):
                assert not task.grade(problem, spoilt).is_solved


def test_d1_reward_of_a_gold_answer(task: TextTask) -> None:
    full = {"gsm8k": 4.0, "math500": 3.0}
    task = replace(task, reward="d1")
    for problem in task.problems("test", 5, seed=0):
        reasoning = "" if "<reasoning>" in problem.answer else "<reasoning>\nsee\n</reasoning>\n"
        grade = task.grade(problem, reasoning + problem.answer)
        assert grade.is_solved and grade.reward == full.get(task.name, 1.0)
        for empty in ("", "<answer></answer>", "<answer>\n\n</answer>"):
            assert task.grade(problem, empty).reward <= 0.5 * (task.name == "gsm8k")


def test_splits_are_disjoint_cover_the_data_and_stay_when_rows_are_added(task: TextTask, tmp_path: Path) -> None:
    keys = {split: {question.key for question in task.questions(split)} for split in SPLITS}
    assert all(keys.values())
    assert sum(map(len, keys.values())) == len(set().union(*keys.values())) == len(ROWS[task.name])
    if task.name != "sudoku-spg":
        fewer = replace(task, source=jsonl(tmp_path / "fewer.jsonl", ROWS[task.name][:150]))
        assert all({question.key for question in fewer.questions(split)} <= keys[split] for split in SPLITS)


def test_same_arguments_same_problems_and_a_smaller_count_is_a_prefix(task: TextTask) -> None:
    problems = task.problems("train", 40, seed=5)
    assert task.problems("train", 40, seed=5) == problems
    assert task.problems("train", 7, seed=5) == problems[:7]
    assert task.problems("train", 40, seed=6) != problems
    assert len({problem.id for problem in problems}) == 40


def test_train_problems_repeat_and_others_end(gsm8k: TextTask) -> None:
    test, train = gsm8k.questions("test"), gsm8k.questions("train")
    assert len(gsm8k.problems("test", 5000, seed=0)) == len(test)
    found = [problem.id for problem in gsm8k.problems("train", 2 * len(train), seed=0)]
    assert len(found) == 2 * len(train) == 2 * len(set(found))
    assert sorted(found[: len(train)]) == sorted(found[len(train) :]) != found


def test_the_prompt_is_the_same_in_training_and_evaluation(task: TextTask) -> None:
    train, test = (task.problems(split, 1, seed=0)[0].prompt for split in ("train", "test"))
    start = task.family.instructions.strip() + "\n\n"
    assert train.startswith(start) and test.startswith(start)
    own = replace(task, instructions="Think.").problems("test", 1, seed=0)[0].prompt
    assert own == "Think.\n\n" + test.removeprefix(start)


def test_few_shot_shows_train_rows_and_never_the_question_itself(task: TextTask) -> None:
    few_shot = replace(task, few_shot=2)
    examples = few_shot._examples()
    assert len({example.key for example in examples}) == 3
    for split in SPLITS:
        for problem in few_shot.problems(split, 20, seed=0):
            assert problem.prompt.count("Question: ") == problem.prompt.count("Answer:") == 3
            assert problem.prompt.count(problem.answer) == 0 or split != "train"
            assert sum(example.answer in problem.prompt for example in examples) == 2
    everything = few_shot.problems("train", len(few_shot.questions("train")), seed=0)
    assert sum(examples[2].text in problem.prompt for problem in everything) == 3  # its own, and for two examples


def test_train_rows_of_the_test_set_are_left_out(tmp_path: Path) -> None:
    rows = ROWS["gsm8k"]
    train, test = jsonl(tmp_path / "a.jsonl", rows[:50]), jsonl(tmp_path / "b.jsonl", rows[40:60])
    task = TextTask(TASK_FAMILIES["gsm8k"], train, test)
    keys = {split: {question.key for question in task.questions(split)} for split in SPLITS}
    assert len(keys["test"]) == 20 and len(keys["train"] | keys["validation"]) == 40
    jsonl(tmp_path / "train.jsonl", rows[:50])
    jsonl(tmp_path / "validation.jsonl", rows[50:60])
    jsonl(tmp_path / "test.jsonl", rows[45:50])
    folder = TextTask(TASK_FAMILIES["gsm8k"], str(tmp_path))
    assert [len(folder.questions(split)) for split in SPLITS] == [45, 10, 5]


@pytest.mark.parametrize(
    ("kind", "source", "test_source"),
    [
        ("gsm8k", "openai/gsm8k:main", None),
        ("math500", "ankner/math-500", "HuggingFaceH4/MATH-500"),
        ("countdown-d1", "Jiayi-Pan/Countdown-Tasks-3to4", None),
        ("sudoku-d1", None, None),
        ("sudoku-spg", None, None),
    ],
)
def test_the_published_data_sets(kind: str, source: str | None, test_source: str | None) -> None:
    assert (TASK_FAMILIES[kind].source, TASK_FAMILIES[kind].test_source) == (source, test_source)


@needs_data
def test_d1_test_sets() -> None:
    """d1 evaluates 256 of the 500 puzzles; the recorded generations are theirs."""
    sudoku = TextTask(TASK_FAMILIES["sudoku-d1"], test_source=str(DATA / "sudoku4x4_test.csv"))
    recorded = (DATA / "generations" / "sudoku_256.jsonl").read_text().splitlines()
    puzzles = {json.loads(line)["question"].split(": ")[1].strip() for line in recorded}
    assert {question.key for question in sudoku.questions("test")} == puzzles and len(puzzles) == 256
    countdown = TextTask(TASK_FAMILIES["countdown-d1"], test_source=str(DATA / "countdown3_test.jsonl"))
    problems = countdown.problems("test", 500, seed=0)
    assert len(problems) == 256
    assert all(countdown.grade(problem, problem.answer).is_solved for problem in problems)


def test_spg_divides_by_grid() -> None:
    order = Random(0).sample(GRIDS, 288)
    division = divide_as_spg(order * 2)
    found = [division[grid] for grid in GRIDS]
    assert [found.count(split) for split in ("test", "train", "validation")] == [88, 192, 8]
    assert {division[grid] for grid in ("3214142323414132", "4213132424313142", "2341413232141423")} <= {
        "train",
        "validation",
    }
    rest = [grid for grid in order if grid not in ("3214142323414132", "4213132424313142", "2341413232141423")]
    Random(42).shuffle(rest)
    assert {grid for grid in GRIDS if division[grid] == "test"} == set(rest[197:])


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"answer": 72}, "72"),
        ({"answer": "72", "solution": ""}, "72"),
        ({"answer": "72", "solution": None}, "72"),
        ({"answer": "", "solution": "so \\boxed{3}"}, "3"),
        ({"answer": -1.5}, "-1.5"),
    ],
)
def test_answers_of_mathematics_as_people_have_them(row: dict[str, Any], gold: str, tmp_path: Path) -> None:
    source = jsonl(tmp_path / "all.jsonl", [{"problem": "?"} | row])
    (problem,) = TextTask(TASK_FAMILIES["math500"], source=str(source)).problems("train", 1, 0)
    assert problem.facts["gold"] == gold


# --- what is wrong with the data


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("gsm8k", {"question": "?"}, r"all\.jsonl:2: field 'answer' is missing; there are question"),
        ("gsm8k", {"question": 3, "answer": "1"}, "field 'question' should be text, got 3"),
        ("gsm8k", {"question": "?", "answer": "so #### many"}, "should be a number or end in '#### number', got"),
        ("math500", {"problem": "?"}, "field 'answer' is missing"),
        ("math500", {"problem": "?", "solution": "it is 3"}, "'solution' should have its answer in"),
        ("countdown-d1", {"nums": [1, 2, "3"], "target": 5}, "'nums' should be a list of whole numbers"),
        ("countdown-d1", {"nums": [1, 2, -3], "target": 5}, "'nums' should be a list of whole numbers from 0 on, got"),
        ("countdown-d1", {"nums": [1, 2, 3]}, "field 'target' is missing"),
        ("countdown-d1", {"input": "1,2,x", "output": "3"}, "'input' should be numbers like '30,100,93', got '1,2,x'"),
        ("countdown-d1", {"puzzle": "3"}, "field 'input' is missing; there are puzzle"),
        ("sudoku-d1", {"Puzzle": "12", "Solution": GRIDS[0]}, "'Puzzle' should be 16 digits from 0 to 4, got '12'"),
        ("sudoku-d1", {"Puzzle": "0" * 16, "Solution": "1" * 16}, "'Solution' should solve 0000000000000000, got"),
        ("sudoku-spg", {"Puzzle": GRIDS[1], "Solution": GRIDS[0]}, "'Solution' should solve"),
    ],
)
def test_a_column_that_is_lacking_or_wrong_is_told_before_a_model_is_loaded(
    kind: str, row: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = jsonl(tmp_path / "all.jsonl", [ROWS[kind][0], row])
    for verb in (["rl", "d1", "base=absent"], ["sft", "walk-base"]):
        with pytest.raises(SystemExit) as caught:
            main([*verb, "--out", str(tmp_path / "out"), f"task={{kind='{kind}', source='{source}'}}"])
        (line,) = capsys.readouterr().err.splitlines()
        assert caught.value.code == 2 and not (tmp_path / "out").exists()
        assert re.search(message, line), line


def test_a_broken_line_is_told_by_the_command_without_torch(tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    file.write_text('{"question": "?", "answer": "3"}\n{"question": ?}\n')
    script = f"""
import sys
from diffpo.cli.main import main
try:
    main(["rl", "d1", "--out", "{tmp_path / "out"}", "base=absent", "task={{kind='gsm8k', source='{file}'}}"])
finally:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert done.stderr == f"diffpo: {file}:2: not JSON: Expecting value at column 14\n"


def test_data_that_do_not_suffice(tmp_path: Path) -> None:
    four = jsonl(tmp_path / "four.jsonl", [{"nums": [1, 2, 3, 4], "target": 5}])
    with pytest.raises(UserError, match=r"none of the 1 rows of .*four\.jsonl is for this task"):
        TextTask(TASK_FAMILIES["countdown-d1"], four).problems("train", 1, seed=0)
    with pytest.raises(UserError, match=r"sudoku-d1: no data; give a file or a folder as task\.source"):
        TextTask(TASK_FAMILIES["sudoku-d1"]).problems("train", 1, seed=0)
    one = jsonl(tmp_path / "one.jsonl", ROWS["gsm8k"][:1])
    with pytest.raises(UserError, match="has no rows for the validation split"):
        TextTask(TASK_FAMILIES["gsm8k"], one).problems("validation", 1, seed=0)
    with pytest.raises(UserError, match="1 train rows are too few to show 1; lower few_shot"):
        TextTask(TASK_FAMILIES["gsm8k"], one, few_shot=1).problems("train", 1, seed=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"few_shot": 17}, "few_shot is 17; give a number from 0 to 16"),
        ({"few_shot": -1}, "few_shot is -1"),
        ({"completion_length": 0}, "completion_length is 0; give at least 1"),
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TextTask(TASK_FAMILIES["gsm8k"], **fields)


# --- graders


HAND: dict[str, dict[str, int | float | str]] = {
    "gsm8k": {"gold": "18"},
    "math500": {"gold": "18"},
    "countdown-d1": {"numbers": "3,7,4", "target": 25},
    "sudoku-d1": {"puzzle": "0" * 16},
}


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_earns_nothing(text: str) -> None:
    for kind, facts in HAND.items():
        problem = Problem("hand", "?", "", "hand", facts)
        for grader, most in ((TASK_FAMILIES[kind].grade, 0.0), (TASK_FAMILIES[kind].grade_d1, 1.0)):
            grade = grader(problem, text)
            assert not grade.is_solved and grade.status != "grader_failed" and grade.reward <= most


@settings(deadline=None)
@given(st.one_of(st.text(max_size=30), st.text("0123456789+-*/(){}\\boxed<answer>", max_size=30)))
def test_any_text_is_graded(text: str) -> None:
    for kind, facts in HAND.items():
        problem = Problem("hand", "?", "", "hand", facts)
        for completion in (text, f"<answer>{text}</answer>"):
            for grader in (TASK_FAMILIES[kind].grade, TASK_FAMILIES[kind].grade_d1):
                assert grader(problem, completion).status in ("ok", "unparseable")


@pytest.mark.parametrize("kind", list(TASK_FAMILIES))
def test_a_problem_of_another_task_is_our_failure(kind: str) -> None:
    strange: dict[str, int | float | str] = {"gold": "", "puzzle": "12", "numbers": 3, "target": "x"}
    for facts in ({}, strange):
        for grader in (TASK_FAMILIES[kind].grade, TASK_FAMILIES[kind].grade_d1):
            grade = grader(Problem("hand", "?", "", "hand", facts), "<answer>\\boxed{18}</answer>")
            assert (grade.status, grade.reward, grade.is_solved) == ("grader_failed", 0.0, False)


@pytest.mark.parametrize(
    ("answer", "solved", "status"),
    [
        ("7*3+4", True, "ok"),
        ("7 \\times 3 + 4", True, "ok"),
        ("\\left( 7 \\cdot 3 \\right) + 4", True, "ok"),
        ("7*3+4 = 25", True, "ok"),
        ("7*3+4 = 26", False, "unparseable"),
        ("25 = 7*3+4", False, "unparseable"),
        ("7*3+4\n", True, "ok"),
        ("\\frac{7}{1}", False, "ok"),
        ("7*3", False, "ok"),
        ("99**(98**97)", False, "unparseable"),
        ("2.5*10", False, "unparseable"),
    ],
)
def test_countdown_in_latex(answer: str, solved: bool, status: str) -> None:
    problem = Problem("hand", "?", "", "hand", {"numbers": "3,7,4", "target": 25})
    grade = TASK_FAMILIES["countdown-d1"].grade(problem, f"<answer>\\boxed{{{answer}}}</answer>")
    assert (grade.is_solved, grade.status) == (solved, status)


def test_fractions_become_quotients() -> None:
    assert expression_of("\\dfrac{8}{4} \\div 2", 1) == "(8)/(4) / 2"


@pytest.mark.parametrize(
    ("answer", "solved", "d1", "status"),
    [
        ("1234341221434321", True, 1.0, "ok"),
        ("1234 3412\n2143 4321", True, 1.0, "ok"),
        ("1234341243212143", True, 1.0, "ok"),  # another solution than the listed one
        ("1234341221434312", False, 0.75, "ok"),
        ("2234341221434321", False, 0.0, "ok"),  # a clue overwritten
        ("12343412214343210", False, 0.0, "unparseable"),
        ("4x4: 1234341221434321", False, 0.0, "unparseable"),
        ("0000000000000000", False, 0.0, "unparseable"),
    ],
)
def test_sudoku_in_words(answer: str, solved: bool, d1: float, status: str) -> None:
    problem = Problem("hand", "?", "", "hand", {"puzzle": "1234341200000000", "solution": "1234341221434321"})
    completion = f"<answer>\n{answer}\n</answer>"
    grade = TASK_FAMILIES["sudoku-d1"].grade(problem, completion)
    assert (grade.is_solved, grade.status, grade.reward) == (solved, status, float(solved))
    assert TASK_FAMILIES["sudoku-d1"].grade_d1(problem, completion).reward == d1


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("<reasoning>\na\nb\n</reasoning>\n<answer>\n\\boxed{18}\n</answer>", 4.0),
        (f"<reasoning>\n{'long ' * 500}\n</reasoning>\n<answer>18</answer>\n", 4.0),
        ("so\n</reasoning>\n<answer>18</answer>", 4.0),  # the opening tag may have been part of the prompt
        ("<reasoning></reasoning><answer>18</answer> and more", 3.5),
        ("<answer>1,800</answer>", 0.75),
        ("18", 0.0),
        ("", 0.0),
        ("<answer>\u00b2</answer>", 0.25),
    ],
)
def test_gsm8k_reward_by_hand(completion: str, reward: float) -> None:
    problem = Problem("hand", "?", "", "hand", {"gold": "18"})
    assert TASK_FAMILIES["gsm8k"].grade_d1(problem, completion).reward == reward


# --- recipes


def test_a_recipe_gives_the_task() -> None:
    overrides = ["task={kind='gsm8k', source='x.jsonl', few_shot=3, reward='d1', completion_length=128}"]
    recipe = load_recipe(RlRecipe, None, ["base=x", "budget.steps=1", "rollout.block_length=32", *overrides])
    assert recipe.task == Gsm8kTask(kind="gsm8k", source="x.jsonl", few_shot=3, reward="d1", completion_length=128)
    assert build_task(recipe.task) == TextTask(TASK_FAMILIES["gsm8k"], "x.jsonl", None, 3, "d1", 128)
    for kind in TASK_FAMILIES:
        found = load_recipe(SftRecipe, None, [f"task.kind={kind}"])
        assert build_task(found.task) == TextTask(TASK_FAMILIES[kind]) and found.task.completion_length == 256
        assert f'kind = "{kind}"' in dump_recipe(found)
    with pytest.raises(
        UserError, match=r"reward: should be 'correct' or 'd1', or a function of your own, .*, got 'd2'"
    ):
        load_recipe(SftRecipe, None, ["task={kind='gsm8k', reward='d2'}"])
    with pytest.raises(UserError, match=r"reward: should be a function of your own, .*, got 'd1'"):
        load_recipe(SftRecipe, None, ["task.reward=d1"])


# --- rewards of one's own


def shortness(completions: list[str], clues: list[int], weight: float = 1.0, **_: object) -> list[float]:
    return [weight * clue - len(text) for text, clue in zip(completions, clues, strict=True)]


def all_columns(prompts: list[str], completions: list[str], **columns: list[object]) -> list[float | None]:
    return [float(len(columns))]


def declines(completions: list[str]) -> list[float | None]:
    return [None]


def raises(completions: list[str]) -> list[float]:
    raise RuntimeError(completions[0])


def no_number(completions: list[str]) -> list[float]:
    return [float("nan")]


def with_reward(task: Task, function: Callable[..., Any]) -> WithReward:
    return WithReward(task, (WeightedReward(function, function.__name__),), 60.0)


@pytest.mark.parametrize(
    ("function", "reward", "status"),
    [
        (shortness, 1.0, "unparseable"),
        (all_columns, 6.0, "unparseable"),  # three of the row, three of how the completion was drawn
        (declines, 0.0, "grader_failed"),
        (raises, 0.0, "grader_failed"),
        (no_number, 0.0, "grader_failed"),
    ],
)
def test_a_reward_as_trl_takes_it(function: Callable[..., Any], reward: float, status: str) -> None:
    task = with_reward(TextTask(TASK_FAMILIES["sudoku-d1"]), function)
    facts: dict[str, int | float | str] = {"puzzle": "1234" + "0" * 12, "solution": "", "clues": 4}
    grade = task.grade(Problem("hand", "?", "", "hand", facts), "abc")
    assert (grade.reward, grade.status, grade.is_solved) == (reward, status, False)
    assert isinstance(task, Task) and (task.name, task.completion_length) == ("sudoku-d1", 256)


def test_a_column_that_a_reward_needs_is_named(gsm8k: TextTask) -> None:
    assert with_reward(gsm8k, all_columns).problems("train", 2, seed=0) == gsm8k.problems("train", 2, seed=0)
    with pytest.raises(
        UserError, match="the reward shortness needs column 'clues', which the data lack; there are que"
    ):
        with_reward(gsm8k, shortness).problems("train", 1, seed=0)
