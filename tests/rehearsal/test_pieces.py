"""The parts of a rehearsal by themselves: what is shrunk, what is graded, what counts as moved."""

from pathlib import Path

import pytest
import torch
from torch import nn

from diffpo.recipes import load_recipe
from diffpo.recipes.tables import RlRecipe, SftRecipe
from diffpo.rehearsal.byte_tokenizer import FRAMES, byte_tokenizer
from diffpo.rehearsal.data_check import Lengths, check_answers, check_prompts
from diffpo.rehearsal.findings import Findings
from diffpo.rehearsal.gold_answers import WithGoldAnswers
from diffpo.rehearsal.movement import Movement
from diffpo.rehearsal.shrink import short_lengths, shrunk_rl, shrunk_sft
from diffpo.rehearsal.template_check import check_template
from diffpo.tasks.base import Grade, Problem, Split


@pytest.mark.parametrize(
    ("length", "block", "short"),
    [
        (256, 32, (16, 8)),
        (256, None, (16, None)),
        (256, 256, (8, 8)),
        (12, 4, (8, 4)),
        (9, None, (9, None)),
        (6, 3, (6, 3)),
    ],
)
def test_short_completions_keep_their_blocks(length: int, block: int | None, short: tuple[int, int | None]) -> None:
    assert short_lengths(length, block) == short


RECIPES = ["agrpo", "coupled", "d1", "diffpo", "diffpo-model-only", "diffpo-sampler-only", "dmpo", "dmpo-wddo", "exact"]


@pytest.mark.parametrize("name", [*RECIPES, "justgrpo", "spg", "wd1"])
def test_every_published_algorithm_can_be_shrunk(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(
        RlRecipe, f"{name}+llada-8b+gsm8k+1gpu" if "sampler" not in name else f"{name}+llada-8b+gsm8k", []
    )
    small = shrunk_rl(recipe, tmp_path, has_cuda=False, has_bitsandbytes=False, prompt_limit=100)
    assert (small.base, small.budget.steps, small.budget.denoiser_calls) == (str(tmp_path), 3, None)
    assert (small.objective.kind, small.estimator, small.train) == (
        recipe.objective.kind,
        recipe.estimator,
        recipe.train,
    )
    assert small.rollout.prompts_per_step * small.rollout.group_size <= 8
    assert small.objective.micro_batch_size in (None, 4) and small.dtype == "float32"
    if small.lora is not None and recipe.lora is not None:
        assert small.lora.alpha / small.lora.rank == recipe.lora.alpha / recipe.lora.rank


def test_a_greedy_stage_and_a_warm_start_are_rehearsed_too(tmp_path: Path) -> None:
    given = ["train=joint", "controller.greedy_stage.share=0.1", "base=GSAI-ML/LLaDA-8B-Instruct", "budget.steps=99"]
    joint = load_recipe(RlRecipe, None, given)
    small = shrunk_rl(joint, tmp_path, has_cuda=True, has_bitsandbytes=True, prompt_limit=None)
    assert small.controller.greedy_stage is not None and 1 - small.controller.greedy_stage.share < 2 / 3
    tiny = load_recipe(RlRecipe, "tiny-planner", ["base=GSAI-ML/LLaDA-8B-Instruct"])
    small = shrunk_rl(tiny, tmp_path, has_cuda=True, has_bitsandbytes=True, prompt_limit=None)
    assert small.task == tiny.task, "the length of a Sudoku is the task's"


def test_rows_of_a_given_length_stay_longer_than_their_prompts(tmp_path: Path) -> None:
    recipe = load_recipe(SftRecipe, "d1-sft", [])
    assert recipe.sequence_length == 4096
    small = shrunk_sft(
        recipe,
        tmp_path,
        has_cuda=False,
        has_bitsandbytes=False,
        prompt_limit=4095,
        longest_prompt=300,
        completion_length=None,
    )
    assert (small.sequence_length, small.batch, small.steps) == (556, 4, 3)


class Echo:
    """A task that pays the length of a text."""

    name, alphabet, completion_length = "echo", "ab", 4

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        return [Problem(str(i), "p", "aaaa", str(i)) for i in range(count)]

    def grade(self, problem: Problem, completion: str) -> Grade:
        return Grade(float(len(completion)), {"solved": float(completion == problem.answer)})


def test_every_other_completion_is_graded_as_the_gold_answer() -> None:
    task = WithGoldAnswers(Echo())
    problems = [*task.problems("train", 4, 0), Problem("?", "p", "", "?")]
    grades = task.grade_all(problems, ["b"] * 5)
    assert [grade.reward for grade in grades] == [4, 1, 4, 1, 1], (
        "where no gold answer is known, the model's own counts"
    )
    assert [grade.reward for grade in task.own_grades] == [1, 1, 1]


@pytest.mark.parametrize("family", FRAMES)
def test_stand_in_tokenizers_have_a_template_that_is_right(family: str) -> None:
    tokenizer, findings = byte_tokenizer(family), Findings()
    ends = {"LLaDA": "<|eot_id|>", "Dream": "<|im_end|>"}
    assert check_template(tokenizer, [tokenizer.convert_tokens_to_ids(ends[family])], findings)
    assert findings.faults == [] and tokenizer.mask_token == FRAMES[family].mask
    assert check_template(tokenizer, [tokenizer.eos_token_id], findings) and len(findings.faults) == 1


def test_weights_that_stay_are_told_apart_from_those_without_a_gradient() -> None:
    weights = {name: nn.Linear(2, 2, bias=False) for name in ("moved", "stuck", "unused")}
    model = nn.ModuleDict(weights)
    frozen = nn.Linear(2, 2).requires_grad_(False)
    movement, findings = Movement(), Findings()
    movement.look([model, frozen])
    with torch.no_grad():
        weights["moved"].weight += 1
    for name in ("moved", "stuck"):
        weights[name].weight.grad = torch.ones(2, 2)
    movement.look([model, frozen])
    movement.check(True, findings)
    assert (
        len(findings.faults) == 1 and "1 of 3 groups" in findings.faults[0] and "(stuck.weight)" in findings.faults[0]
    )
    nothing = Findings()
    Movement().check(True, nothing)
    assert nothing.faults == ["no weight is trained: all are frozen"]


def test_a_tenth_of_the_prompts_must_be_too_long() -> None:
    few, many, none = Findings(), Findings(), Findings()
    assert check_prompts(Lengths([5] * 10 + [7], [], False), 6, few) and few.faults == []
    assert "1 of the 11 prompts looked at are longer than 6" in few.notes[0] and "the longest has 7" in few.notes[0]
    assert check_prompts(Lengths([5] * 9 + [7], [], False), 6, many) and len(many.faults) == 1
    assert check_prompts(Lengths([6] * 9, [], False), 6, none) and none == Findings()
    assert not check_prompts(Lengths([7], [], True), 6, many)


def test_answers_that_lose_their_end_are_a_fault_where_they_are_learned() -> None:
    learned, drawn = Findings(), Findings()
    check_answers(Lengths([5], [4, 9, 9], False), 8, "sequence_length", True, learned)
    check_answers(Lengths([5], [4, 9, 9], False), 8, "task.completion_length", False, drawn)
    assert "2 of the 3 gold answers" in learned.faults[0] and "never to end" in learned.faults[0]
    assert drawn.faults == [] and len(drawn.notes) == 1


def test_findings_are_a_numbered_list() -> None:
    findings = Findings()
    assert findings.verdict() == "nothing is wrong that a rehearsal can see"
    for text in ("one", "two\nof two lines", "one"):
        findings.fault(text)
    assert findings.verdict() == "2 things are wrong:\n1. one\n2. two\n   of two lines"


def test_weights_with_float32_masters_are_trained_though_they_are_not_looked_at() -> None:
    movement, findings = Movement(), Findings()
    movement.look([nn.Linear(2, 2, dtype=torch.bfloat16)])
    movement.check(True, findings)
    assert not findings.faults and "whether they move was not looked at" in " ".join(findings.notes)
