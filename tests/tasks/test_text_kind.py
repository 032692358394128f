"""`task.kind = "text"`: rows of the user's own, their templates, graders, splits and rewards."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest

from diffpo.core.conversation import Turn
from diffpo.core.errors import UserError
from diffpo.models.chat import turn_end_ids
from diffpo.models.encoding import encode_prompts
from diffpo.models.tokenizer import char_tokenizer
from diffpo.recipes import dump_recipe, load_recipe
from diffpo.recipes.stored import stored_task
from diffpo.recipes.tables import RlRecipe, SftRecipe, grading_problems
from diffpo.recipes.tasks import build_task, check_inputs
from diffpo.rehearsal.byte_tokenizer import byte_tokenizer
from diffpo.tasks import answer_grader
from diffpo.tasks.base import Grade, Problem, Split, Task, characters_of
from diffpo.tasks.datasets import Row
from diffpo.tasks.row_template import RowTemplate

SPLITS: tuple[Split, ...] = get_args(Split)
ROWS: list[dict[str, Any]] = [{"prompt": f"{n} + {n} =", "answer": 2 * n, "level": n % 3} for n in range(300)]
ALL_TRAIN = ["task.test_share=0", "task.validation_share=0"]


def jsonl(file: Path, rows: Sequence[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(file)


def recipe(source: str, *overrides: str) -> SftRecipe:
    return load_recipe(SftRecipe, None, ["task.kind=text", f"task.source={json.dumps(source)}", *overrides])


def task(source: str, *overrides: str) -> Task:
    return build_task(recipe(source, *overrides).task)


@pytest.fixture
def rows(tmp_path: Path) -> str:
    return jsonl(tmp_path / "rows.jsonl", ROWS)


def one(folder: Path, row: dict[str, Any], *overrides: str) -> tuple[Task, Problem]:
    """A task of one train row, and its problem."""
    found = task(jsonl(folder / "one.jsonl", [row]), *ALL_TRAIN, *overrides)
    (problem,) = found.problems("train", 1, seed=0)
    return found, problem


# Data


def test_a_row_becomes_a_problem(rows: str) -> None:
    problem = next(p for p in task(rows, *ALL_TRAIN).problems("train", 300, seed=0) if p.prompt == "7 + 7 =")
    assert problem.id == "text-train-7" and problem.answer == "14" and problem.cluster == problem.prompt
    assert problem.facts == {"prompt": "7 + 7 =", "answer": 14, "level": 1}


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_files_of_every_format_give_the_same_problems(suffix: str, rows: str, tmp_path: Path) -> None:
    file = tmp_path / f"same.{suffix}"
    if suffix == "jsonl":
        jsonl(file, ROWS)
    elif suffix == "csv":
        with file.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, ["prompt", "answer", "level"])
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(ROWS), file)
    found = task(str(file)).problems("train", 20, seed=1)
    assert [(p.prompt, p.answer) for p in found] == [(p.prompt, p.answer) for p in task(rows).problems("train", 20, 1)]


def test_other_names_of_columns_and_templates_of_several(tmp_path: Path) -> None:
    row = {"q": "Why?", "unit": "", "n": 3, "reply": "So.", "why": "it is"}
    assert one(tmp_path, row, "task.prompt=q", "task.answer=reply")[1].prompt == "Why?"
    given = ["task.template='{n}{unit}. {q} {{x}}'", "task.answer_template='{why}: {reply}'"]
    problem = one(tmp_path, row, *given)[1]
    assert (problem.prompt, problem.answer) == ("3. Why? {x}", "it is: So.")
    problem = one(tmp_path, row, "task.prompt=q", "task.answer=reply", "task.instructions='Be brief.'")[1]
    assert problem.prompt == "Be brief.\n\nWhy?"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "task.prompt=question",
            "task.prompt names column 'question', which is not there; there are prompt, ans",
        ),
        ("task.answer=gold", "task.answer names column 'gold', which is not there; there are prompt, answer"),
        (
            "task.template='{prompt} {x}'",
            "task.template names column 'x', which is not there; there are prompt, answer",
        ),
        (
            "task.answer_template='{x}'",
            "task.answer_template names column 'x', which is not there; there are prompt, a",
        ),
    ],
)
def test_a_column_that_is_not_there_is_named_with_those_that_are(override: str, told: str, rows: str) -> None:
    with pytest.raises(UserError) as caught:
        task(rows, override).problems("train", 1, seed=0)
    assert f"{rows}:1: {told}" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "overrides", "told"),
    [
        ({"prompt": "x", "answer": None}, [], "task.answer names column 'answer', which is empty here"),
        ({"prompt": "x", "answer": "two"}, ["task.grader=number"], "the answer 'two' should give one number"),
        ({"prompt": "x", "answer": "2"}, ["task.grader=regex", "task.pattern='= (.*)'"], "should have a match of task"),
        (
            {"prompt": "x", "answer": [1]},
            ["task.template='{answer}'"],
            "a text or a number in column 'answer', got",
        ),
        ({"prompt": " ", "answer": "1"}, ["task.template='{prompt}'"], "task.template gives an empty prompt"),
    ],
)
def test_rows_that_cannot_be_used(row: dict[str, Any], overrides: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"one\.jsonl:1: ") as caught:
        one(tmp_path, row, *overrides)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["task.template='{prompt'"], "template: expected '}' before end of string; write {column} for a column"),
        (["task.template='{prompt:>9}'"], "template: {prompt:>9} is no column; write {column} alone"),
        (["task.template='{}'"], "template: {} is no column"),
        (["task.answer_template='yes'"], "answer_template: names no column, so that it is the same for every row"),
        (["task.grader=regex"], "pattern and grader = 'regex' go together"),
        (["task.pattern=x"], "pattern and grader = 'regex' go together"),
        (["task.grader=regex", "task.pattern='('"], "pattern is no regular expression: missing ), unterminated"),
        (["task.solved_at=2.0"], "solved_at counts with grader = 'none' alone"),
        (["task.grader=none", "task.reward={correct=1.0}"], "reward names 'correct', which needs a grader"),
        (["task.reward=d1"], "task.reward: should be 'correct', or a function of your own"),
        (["task.test_share=0.5", "task.validation_share=0.5"], "leave no train rows; lower them"),
        (["task.grader=fuzzy"], "task.grader: should be 'exact', 'number', 'math', 'regex' or 'none', got 'fuzzy'"),
    ],
)
def test_options_that_cannot_be_used_are_told_without_data(overrides: list[str], told: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe("nowhere.jsonl", *overrides)
    assert told in str(caught.value)


def test_a_template_fills_in_text_and_nothing_else() -> None:
    row = Row("r:1", {"a": "{b}", "b": "no", "a.b": "dotted"})
    assert RowTemplate("{a}-{{b}}-{a.b}", "t").fill(row) == "{b}-{b}-dotted"


# Splits


def test_splits_are_disjoint_cover_the_data_and_stay(rows: str, tmp_path: Path) -> None:
    def split_of(source: str, *overrides: str) -> dict[str, Split]:
        own = task(source, *overrides)
        prompts = {name: {p.prompt for p in own.problems(name, 350, seed=0)} for name in SPLITS}
        assert sum(map(len, prompts.values())) == len(set.union(*prompts.values())), "no row is in two of them"
        return {prompt: name for name in SPLITS for prompt in prompts[name]}

    before = split_of(rows)
    assert set(before) == {row["prompt"] for row in ROWS}
    more = [{"prompt": f"new {n}", "answer": n} for n in range(50)]
    after = split_of(jsonl(tmp_path / "more.jsonl", [*more, *ROWS[::-1]]))
    assert {prompt: after[prompt] for prompt in before} == before
    sizes = {name: sum(own == name for own in before.values()) for name in SPLITS}
    assert 20 <= sizes["test"] <= 45 and 7 <= sizes["validation"] <= 25
    half = split_of(rows, "task.test_share=0.5")
    assert sum(own == "test" for own in half.values()) == pytest.approx(150, abs=30)


def test_a_share_of_none_holds_nothing_out(rows: str) -> None:
    own = task(rows, *ALL_TRAIN)
    assert len({p.prompt for p in own.problems("train", 300, seed=0)}) == 300
    with pytest.raises(UserError, match="has no rows for the validation split"):
        own.problems("validation", 1, seed=0)


def test_a_folder_has_a_file_for_each_split(tmp_path: Path) -> None:
    for number, split in enumerate(SPLITS):
        jsonl(tmp_path / f"{split}.jsonl", [{"prompt": split, "answer": number}])
    assert [task(str(tmp_path)).problems(split, 9, 0)[0].prompt for split in SPLITS] == list(SPLITS)


# Graders


@pytest.mark.parametrize(
    ("grader", "answer", "right", "wrong", "unparseable"),
    [
        ("exact", "to be", ["to be", " to \n be ", "<answer>to be</answer>"], ["be", "To be", "to be."], ["", " "]),
        ("number", 1200, ["1,200", "So it is 1200.", r"\boxed{1200}"], ["120", "-1200"], ["", "no", "12 or 13"]),
        ("number", "6*2 = 12\n#### 12", ["12", "#### 12"], ["6", "#### 13"], ["<answer></answer>"]),
        ("math", r"\frac{1}{2}", ["1/2", "0.5", r"It is \boxed{\frac12}"], ["2"], [""]),
        ("math", r"so \boxed{x+1}", ["1+x", r"\boxed{x + 1}"], ["x"], [r"\boxed{x+1"]),
    ],
)
def test_each_grader(
    grader: str, answer: Any, right: list[str], wrong: list[str], unparseable: list[str], tmp_path: Path
) -> None:
    own, problem = one(tmp_path, {"prompt": "?", "answer": answer}, f"task.grader={grader}")
    for text in [problem.answer, *right]:
        assert own.grade(problem, text) == Grade(1.0, {"solved": 1.0}), text
    for text in wrong:
        assert own.grade(problem, text) == Grade(0.0, {"solved": 0.0}), text
    for text in unparseable:
        assert own.grade(problem, text) == Grade(0.0, {"solved": 0.0}, "unparseable"), text


def test_a_pattern_reads_its_last_match(tmp_path: Path) -> None:
    given = ["task.grader=regex", r"task.pattern='A: (\d+)'", "task.answer_template='A: {answer}'"]
    own, problem = one(tmp_path, {"prompt": "?", "answer": 5}, *given)
    assert problem.answer == "A: 5"
    found = [own.grade(problem, text) for text in ("A: 5", "A: 6, no, A: 5", "A: 5, no, A: 6", "5")]
    assert [grade.reward for grade in found] == [1, 1, 0, 0]
    assert [grade.status for grade in found] == ["ok", "ok", "ok", "unparseable"]


def test_without_an_answer_a_match_is_right(tmp_path: Path) -> None:
    own, problem = one(tmp_path, {"prompt": "?"}, "task.grader=regex", "task.pattern='^yes|no$'")
    assert [own.grade(problem, text).reward for text in ("yes!", "so no", "nope")] == [1, 1, 0]


def test_a_pattern_that_never_ends_is_the_graders_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_grader, "PATTERN_SECONDS", 0.2)
    own, problem = one(tmp_path, {"prompt": "?"}, "task.grader=regex", "task.pattern='(a+)+b'")
    grade = own.grade(problem, "a" * 40)
    assert (grade.reward, grade.status) == (0.0, "grader_failed")
    assert "task.pattern takes more than 0.2 s on problem 'text-train-0'" in grade.failure


# Rewards

REWARDS = """
def short(completions, **columns):
    return [1 - len(text) / 10 for text in completions]

async def level(completions, level):
    return [float(value) for value in level]

def needs(completions, missing):
    return [0.0 for _ in completions]
"""


@pytest.fixture
def own_rewards(tmp_path: Path) -> str:
    file = tmp_path / "own.py"
    file.write_text(REWARDS)
    return str(file)


def test_rewards_with_weights_beside_the_grader(own_rewards: str, tmp_path: Path) -> None:
    given = f'task.reward={{correct = 1.0, "{own_rewards}:short" = 0.2, "{own_rewards}:level" = 10.0}}'
    own, problem = one(tmp_path, {"prompt": "?", "answer": "5", "level": 2}, given)
    grade = own.grade(problem, "5")
    assert grade.reward == pytest.approx(1.0 + 0.2 * 0.9 + 20)
    assert grade.parts == {"solved": 1.0, "rewards/short": pytest.approx(0.9), "rewards/level": 2.0}
    assert own.grade(problem, "6").parts["solved"] == 0.0


def test_without_a_grader_what_is_solved_goes_by_the_reward(own_rewards: str, tmp_path: Path) -> None:
    given = ["task.grader=none", f"task.reward={own_rewards}:short", "task.solved_at=0.8"]
    own, problem = one(tmp_path, {"prompt": "?"}, *given)
    assert [own.grade(problem, text).is_solved for text in ("", "ab", "abc")] == [True, True, False]


def test_a_column_that_a_reward_needs_is_named(own_rewards: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs needs column 'missing', which the data lack; there are prompt, answer"):
        one(tmp_path, {"prompt": "?", "answer": "5"}, f"task.reward={own_rewards}:needs")


def test_rl_needs_something_to_grade_by(rows: str, own_rewards: str) -> None:
    given = ["base=x", "budget.steps=1", "task.kind=text", f"task.source={json.dumps(rows)}", "task.grader=none"]
    with pytest.raises(UserError, match="nothing is known of an answer, which RL needs; give one of them"):
        load_recipe(RlRecipe, None, given)
    load_recipe(RlRecipe, None, [*given, f"task.reward={own_rewards}:short"])


def test_evaluation_of_a_run_asks_for_the_reward_that_says_what_is_solved(own_rewards: str, tmp_path: Path) -> None:
    given = ["task.grader=none", f"task.reward={own_rewards}:short"]
    (tmp_path / "recipe.toml").write_text(dump_recipe(recipe("rows.jsonl", *given)))
    assert any("which evaluation needs" in told for told in grading_problems("evaluation", stored_task(tmp_path)))
    (tmp_path / "recipe.toml").write_text(dump_recipe(recipe("rows.jsonl", f"task.reward={own_rewards}:short")))
    assert not [*grading_problems("evaluation", stored_task(tmp_path))], "the grader says it"


def test_sft_needs_answers(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "rows.jsonl", [{"prompt": "Say it."}])
    with pytest.raises(UserError, match=r"text-train-0, 'Say it\.', has no answer to learn from; name the column"):
        check_inputs(recipe(source, *ALL_TRAIN, "task.grader=none"))


# Characters of a tiny model


def test_the_alphabet_is_that_of_the_data_in_all_splits(tmp_path: Path) -> None:
    for split, text in zip(SPLITS, ("ab", "bc", "cd"), strict=True):
        jsonl(tmp_path / f"{split}.jsonl", [{"prompt": text, "answer": f"{text}ü"}])
    assert characters_of(task(str(tmp_path))) == "abcdü"
    assert set(characters_of(task(str(tmp_path), "task.instructions='Go!'"))) == set("abcdüGo!\n")
    assert set(characters_of(task(str(tmp_path), "task.few_shot=1"))) == set("abcdüQuestion: \nAnswer:")


def test_too_many_kinds_of_characters_are_one_sentence(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "rows.jsonl", [{"prompt": chr(0x4E00 + n), "answer": "x"} for n in range(1000)])
    with pytest.raises(UserError, match="the data have 1001 kinds of characters, and a tiny model's tokenizer at most"):
        characters_of(task(source))


# Conversations

SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}


def test_a_prompt_may_be_a_conversation(tmp_path: Path) -> None:
    problem = one(tmp_path, {"prompt": [SYSTEM, USER], "answer": 2})[1]
    assert problem.conversation == (Turn("system", "Be brief."), Turn("user", "1 + 1?"))
    assert problem.prompt == "system: Be brief.\nuser: 1 + 1?" and problem.facts == {"answer": 2}
    assert one(tmp_path, {"prompt": [USER], "answer": 2})[1].conversation == "1 + 1?", "as the text itself"


def test_a_conversation_in_csv_is_a_cell_of_json(tmp_path: Path) -> None:
    cells = [json.dumps([{"role": "system", "content": "Be brief."}, USER]), "[1, 2] and", '["a", "b"]', "[{}]"]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "answer"], *([cell, "2"] for cell in cells)])
    found = task(str(tmp_path / "rows.csv"), *ALL_TRAIN).problems("train", 4, seed=0)
    turns = (Turn("system", "Be brief."), Turn("user", "1 + 1?"))
    assert {problem.conversation for problem in found} == {turns, *cells[1:]}
    (tmp_path / "rows.csv").write_text('prompt,answer\n"[{""role"": ""bot"", ""content"": ""x""}]",2\n')
    with pytest.raises(UserError, match=r"rows.csv:2: field 'prompt' should be a text or a list .* got 'bot'"):
        task(str(tmp_path / "rows.csv"), *ALL_TRAIN).problems("train", 1, seed=0)


def test_each_split_may_have_a_source_of_its_own(tmp_path: Path) -> None:
    """Rows 0 to 9 are train rows, 8 to 13 validation rows, 12 to 15 test rows: those that are in two count once."""
    parts = {"source": ROWS[:10], "validation_source": ROWS[8:14], "test_source": ROWS[12:16]}
    files = [f"task.{name}={json.dumps(jsonl(tmp_path / f'{name}.jsonl', rows))}" for name, rows in parts.items()]
    found = build_task(load_recipe(SftRecipe, None, ["task.kind=text", *files, *ALL_TRAIN]).task)
    numbers = {
        split: sorted(int(p.prompt.split()[0]) for p in found.problems(split, 8 if split == "train" else 300, seed=0))
        for split in SPLITS
    }
    assert numbers == {"train": [*range(8)], "validation": [*range(8, 12)], "test": [*range(12, 16)]}
    assert set(characters_of(found)) >= set("012345 +=")
    without_test = load_recipe(SftRecipe, None, ["task.kind=text", *files[:2], "task.test_share=0.5"]).task
    held_out = {split: {p.prompt for p in build_task(without_test).problems(split, 300, seed=0)} for split in SPLITS}
    assert not held_out["test"] & held_out["train"] and not held_out["train"] & held_out["validation"]
    assert not held_out["test"] & held_out["validation"] and len(held_out["validation"]) >= 4


def test_a_conversation_is_framed_turn_by_turn(tmp_path: Path) -> None:
    turns = (Turn("system", "Be brief. <|im_end|>"), Turn("user", "1 + 1?"))
    framed = byte_tokenizer("Dream")
    ids, _ = encode_prompts(framed, [turns])
    text = framed.decode(ids[0])
    assert text.index("system") < text.index("Be brief.") < text.index("user") < text.index("1 + 1?")
    (end,) = turn_end_ids(framed)
    assert ids[0].tolist().count(end) == 2, "the end of a turn that a user writes is text"
    bare = char_tokenizer("".join(sorted(set("system: Be brief.\nuser: 1 + 1?"))))
    ids, _ = encode_prompts(bare, [(Turn("system", "Be brief."), Turn("user", "1 + 1?"))])
    assert bare.decode(ids[0]) == "system: Be brief.\nuser: 1 + 1?"


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([], "the last one the user's"),
        ([USER, {"role": "assistant", "content": "2"}], "the last one the user's; the answer has a column of its own"),
        ([{"role": "tool", "content": "x"}], "of the roles system, user, assistant, got 'tool'"),
        ([{"role": "user", "content": None}], "whose content is text, got None"),
        (["hello"], "should be a text or a list of messages, {role, content}, got 'hello' in it"),
    ],
)
def test_what_is_no_conversation(messages: list[Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"one\.jsonl:1: field 'prompt'") as caught:
        one(tmp_path, {"prompt": messages, "answer": 2})
    assert told in str(caught.value)


def test_nothing_is_put_before_a_conversation(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task\.instructions and task\.few_shot go before a text"):
        one(tmp_path, {"prompt": [SYSTEM, USER], "answer": 2}, "task.instructions=Think.")
