"""The examples do what they say, and the commands in their docstrings run as they stand there."""

import ast
import asyncio
import importlib.util
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tests.helpers.tiny_runs import SHAPE, TASK, lines_of

from diffpo.cli.main import main
from diffpo.core.rollout import Rollout
from diffpo.likelihood.scoring_plan import Estimator
from diffpo.objective.advantages import leave_one_out
from diffpo.objective.base import Groups, Objective
from diffpo.sampling.rules import Rule
from diffpo.tasks.base import Task

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = {
    "sft": [*SHAPE, "steps=2", "batch=4"],
    "rl": ["budget={steps=2}", "rollout.prompts_per_step=3", "rollout.group_size=4", "objective.nfe_penalty=0.5"],
    "eval": ["count=4", "bounds=[1.0]"],
    "sample": [],
}


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands_of(file: Path) -> list[list[str]]:
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    blocks = (block for block in text.split("\n\n") if block.startswith("    "))
    lines = (line for block in blocks for line in block.replace("\\\n", " ").splitlines())
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def here(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which the base of the examples is the tests' own."""
    (tmp_path / "examples").symlink_to(EXAMPLES)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "base").symlink_to(base)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.stem)
def test_the_commands_of_an_example_run(file: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = commands_of(file)
    assert len(commands) >= 2 and all(command[0] == "diffpo" for command in commands)
    for _, verb, *arguments in commands:
        out = ["--out", str(here / "eval.json")] if verb == "eval" else []
        if verb == "sft" and arguments[-1] == "runs/base":
            continue
        with pytest.raises(SystemExit) as caught:
            main([verb, *arguments, *QUICK[verb], *out])
        assert caught.value.code == 0, capsys.readouterr().err
    runs = [run for run in (here / "runs").iterdir() if not run.is_symlink() and run.name != "sort"]
    assert len(runs) == 1 and len(lines_of(runs[0])) == 2


def test_the_commands_of_an_own_task_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    lines = (EXAMPLES / "own_task" / "recipe.toml").read_text().splitlines()
    commands = [shlex.split(line.strip("# ")) for line in lines if line.startswith("#     diffpo ")]
    assert [verb for _, verb, *_ in commands] == ["check", "sft", "rl"]
    for _, verb, *arguments in commands:
        with pytest.raises(SystemExit) as caught:
            main([verb, *arguments, *QUICK.get(verb, [])])
        assert not caught.value.code
    log = lines_of(tmp_path / "runs" / "own")
    assert len(log) == 2 and {"rewards/in_place/mean", "rewards/few_calls/mean", "accuracy"} <= log[-1].keys()


def test_the_rewards_of_an_own_task() -> None:
    module = loaded("own_task/rewards")
    assert module.in_place(["abc", "abx", ""], answer=["abc"] * 3, word=["cba"] * 3) == [1.0, pytest.approx(2 / 3), 0.0]
    assert asyncio.run(module.few_calls(["abc", "", "a"], nfe=[4, 1, 2])) == [0.25, 0.0, 0.5]


def test_a_reward_of_lines() -> None:
    function = loaded("custom_reward").lines_without_repeats
    # The second grid repeats a digit in its first row and in its first column; the third is no grid at all.
    grids = ["1234341221434321", "1134341221434321", "123", ""]
    assert function(["?"] * 4, grids, clues=[3] * 4, level=[0] * 4) == [1.0, pytest.approx(6 / 8), 0.0, 0.0]


def test_a_margin_commits_what_leads_clearly_and_one_position_at_least() -> None:
    rule = loaded("custom_rule").Margin(threshold=0.5)
    assert isinstance(rule, Rule)
    probability = torch.tensor([[[0.7, 0.2, 0.1], [0.8, 0.1, 0.1], [0.4, 0.3, 0.3]], [[0.4, 0.3, 0.3]] * 3])
    margin = rule.score(probability.log(), torch.zeros(2, 3, dtype=torch.long))
    torch.testing.assert_close(margin, torch.tensor([[0.5, 0.7, 0.1], [0.1, 0.1, 0.1]]))
    margin = torch.tensor([[0.5, 0.7, 0.1], [0.1, 0.3, 0.2]])
    every = torch.ones(2, 3, dtype=torch.bool)
    assert rule.select(margin, every).tolist() == [[True, True, False], [False, True, False]]
    candidates = torch.tensor([[False, False, True], [False, False, False]])
    assert rule.select(margin, candidates).tolist() == [[False, False, True], [False, False, False]]


def test_hints_score_each_token_once_where_it_is_masked() -> None:
    estimator = loaded("custom_estimator").Hints(share=0.5)
    assert isinstance(estimator, Estimator)
    none = torch.zeros(2, 0)
    # Two completions of one prompt, whose first token is padding.
    rollout = Rollout(
        prompt_ids=torch.tensor([[0, 7]] * 2),
        prompt_mask=torch.tensor([[False, True]] * 2),
        completion_ids=torch.tensor([[1, 2, 3], [4, 5, 6]]),
        unmask_step=torch.tensor([[0, 1, 2]] * 2),
        is_answer=torch.ones(2, 3, dtype=torch.bool),
        is_drawn=torch.ones(2, 3, dtype=torch.bool),
        behaviour_logp=torch.zeros(2, 3),
        nfe=torch.tensor([3, 3]),
        entropy_bound=torch.zeros(2),
        entropy_bound_logp=torch.zeros(2),
        prompt_features=none,
        commit_logp=none,
        commit_inputs=torch.zeros(2, 0, 3, 0),
    )
    is_shown = torch.tensor([[True, False, False], [False, True, True]])
    plan = estimator(rollout, is_shown, 9)
    assert len(plan.canvas) == 3 and plan.weight is None  # the fully masked canvas is shared
    masked, first, second = [0, 7, 9, 9, 9], [0, 7, 1, 9, 9], [0, 7, 9, 5, 6]
    assert plan.canvas[plan.source].tolist() == [[masked, first, first], [second, masked, masked]]
    assert plan.attention_mask.tolist() == [[False, True, True, True, True]] * 3
    draw = estimator.draw(rollout, torch.Generator().manual_seed(0))
    assert draw.shape == (2, 3) and draw.dtype == torch.bool
    assert not loaded("custom_estimator").Hints(share=0.0).draw(rollout, torch.Generator()).any()


def test_wins_by_hand() -> None:
    wins = loaded("custom_advantage").wins
    # The first beats two of three others and loses to one; the two that are equal beat nobody, and lose to two.
    reward = torch.tensor([[2.0, 0.0, 900.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(wins(reward)[0], torch.tensor([1 / 3, -2 / 3, 1.0, -2 / 3]))
    torch.testing.assert_close(wins(reward)[1], leave_one_out(reward)[1])
    torch.testing.assert_close(wins(reward + torch.tensor([[2.0], [-3.0]])), wins(reward))


def test_gspo_by_hand() -> None:
    objective = loaded("custom_objective").Gspo(clip=0.25, clip_high=0.5)
    assert isinstance(objective, Objective)
    gap = torch.tensor([[0.5, 0.3, 9.0], [0.5, 0.7, 0.9], [0.5, 0.7, 0.9], [-0.5, -0.6, 9.0], [0.1, -0.3, 9.0]])
    is_scored = torch.tensor([[True, True, False], [True] * 3, [True] * 3, [True, True, False], [True, True, False]])
    credit = torch.tensor([1.0, 2.0, -2.0, -3.0, 1.0])
    # Means over the scored tokens: exp(0.4) = 1.49 is inside [0.75, 1.5], exp(0.7) = 2.01 above it, exp(-0.55) = 0.58
    # below it.
    mean = torch.tensor([0.4, 0.7, 0.7, -0.55, -0.1])
    logp = gap.clone().requires_grad_()
    found = objective(logp, torch.zeros_like(gap), torch.full_like(gap, 7.0), credit, is_scored)
    # The pessimistic of the two: a positive credit is clipped above, a negative one below.
    loss = torch.tensor([-1.4918247, -3.0, 2 * 2.0137527, 3 * 0.75, -0.9048374])
    torch.testing.assert_close(found.loss, loss[:, None].expand(5, 3))
    torch.testing.assert_close(found.policy_ratio, mean.exp()[:, None].expand(5, 3))
    assert found.is_clipped[:, 0].tolist() == [False, True, False, True, False]
    assert not found.policy_ratio.requires_grad and not found.is_weighted.any()
    # Each scored token moves its completion's ratio by a share: d loss / d logp = -A s / (scored tokens).
    (found.loss[:, 0]).sum().backward()
    slope = torch.tensor([-1.4918247 / 2, 0.0, 2 * 2.0137527 / 3, 0.0, -0.9048374 / 2])
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, torch.where(is_scored, slope[:, None], 0.0))


def test_gspo_credits_advantages_and_needs_no_scored_token() -> None:
    objective = loaded("custom_objective").Gspo()
    advantage = torch.tensor([[1.0, -1.0]])
    assert torch.equal(objective.credit(Groups(torch.zeros(1, 2), advantage)).value, advantage)
    none = torch.zeros(2, 3)
    found = objective(none, none, none, advantage[0], none.bool())
    torch.testing.assert_close(found.policy_ratio, torch.ones(2, 3))


def test_sorting_digits() -> None:
    task = loaded("custom_task").SortDigits(digits=4, credit=0.5)
    assert isinstance(task, Task)
    answers = {}
    for split in ("train", "validation", "test"):
        problems = task.problems(split, 40, seed=1)
        assert problems == task.problems(split, 40, seed=1) and problems[:7] == task.problems(split, 7, seed=1)
        assert problems != task.problems(split, 40, seed=2)
        answers[split] = {problem.answer for problem in problems}
        for problem in problems:
            assert problem.prompt[-1] == ">" and sorted(problem.prompt[:-1]) == list(problem.answer)
            assert set(problem.prompt + problem.answer) <= set(task.alphabet)
            assert task.grade(problem, problem.answer).reward == 1.0
            assert task.grade(problem, problem.answer).is_solved
    assert not answers["train"] & answers["test"] and not answers["train"] & answers["validation"]
    problem = task.problems("train", 1, seed=0)[0]
    spoilt = ("x" if problem.answer[0] != "x" else "y") + problem.answer[1:]
    assert task.grade(problem, spoilt).reward == 0.5 * 3 / 4 and not task.grade(problem, spoilt).is_solved
    for hostile in ("", problem.answer + "1", problem.answer[:-1], "\x00" * 9):
        grade = task.grade(problem, hostile)
        assert (grade.reward, grade.status) == (0.0, "unparseable")


def test_what_an_example_is_given_reaches_it(here: Path) -> None:
    table = '{kind="examples/custom_objective.py:Gspo", clip=0.0, clip_high=0.0, num_iterations=2, kl_coef=0.0}'
    arguments = ["tiny-d1", "--out", "runs/zero", "base=runs/base", f"objective={table}", *TASK, "task.cell_credit=0.5"]
    with pytest.raises(SystemExit) as caught:
        main(["rl", *arguments, *QUICK["rl"]])
    assert caught.value.code == 0
    line = lines_of(here / "runs" / "zero")[-1]
    # With no room to move in, the second iteration clips all that go the way that they are credited.
    assert line["clip_fraction"] > 0 and line["importance_weight_mean"] == 1.0
