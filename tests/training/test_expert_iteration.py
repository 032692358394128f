"""Expert iteration: its update against enumeration, and whole runs, which learn from right answers alone."""

import json
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tests.helpers import oracle
from tests.helpers.tiny_runs import TASK, lines_of, snapshot, weights_of
from torch import Tensor

from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.core.rollout import Rollout
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.model_paths import checkpoints
from diffpo.recipes import load_recipe
from diffpo.recipes.parts import build_task
from diffpo.recipes.tables import AdamRecipe, ExpertIterationObjective, RlRecipe
from diffpo.runs.optimizer import adam
from diffpo.tasks.base import Grade
from diffpo.tasks.sudoku import Sudoku
from diffpo.training import expert_iteration, rl_step
from diffpo.training.expert_iteration import imitate
from diffpo.training.right_answers import RightAnswers
from diffpo.training.rl import run_rl
from diffpo.training.rl_setup import RlState
from diffpo.training.sft import Noise, draw_noise

Weighting = Literal["elbo", "uniform"]

# --- the update

MASK, LENGTH = 4, 3
ANSWERS = [((2,), (0, 1, 1)), ((0, 3, 1), (3, 2, 0)), ((0, 3, 1), (1, 1, 2))]
"""Prompts of several lengths with their completions."""
NO_LIMIT = 1e9
STEADY = AdamRecipe(lr=0.5, grad_clip=NO_LIMIT)


@pytest.fixture
def denoiser() -> ModelDenoiser:
    return oracle.tiny_llada(vocab=5, mask_id=MASK)


def kept(pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]] = ANSWERS) -> RightAnswers:
    answers = RightAnswers(LENGTH, 100)
    for prompt, completion in pairs:
        ids = torch.tensor([completion])
        rollout = oracle.rollout_of(torch.tensor([prompt]), ids, torch.zeros_like(ids))
        answers.add(rollout, torch.tensor([True]), eos_id=0)
    return answers


class Recorder:
    """An optimiser that writes down gradients and learning rates, and leaves the weights where they are."""

    def __init__(self, denoiser: ModelDenoiser) -> None:
        self.parameters = [*denoiser.model.parameters()]
        self.param_groups: list[dict[str, Any]] = [{"lr": math.nan}]
        self.gradients: list[Tensor] = []
        self.rates: list[float] = []

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        self.gradients.append(torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None]).clone())
        self.rates.append(self.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


def objective(
    num_iterations: int, batch: int, weighting: Weighting, micro_batch_size: int | None = None
) -> ExpertIterationObjective:
    return ExpertIterationObjective(
        kind="expert-iteration",
        num_iterations=num_iterations,
        batch=batch,
        weighting=weighting,
        micro_batch_size=micro_batch_size,
    )


def recorded(
    denoiser: ModelDenoiser,
    settings: ExpertIterationObjective,
    schedule: AdamRecipe = STEADY,
    seed: int = 0,
    updates: int = 0,
    spent: float = 0.0,
) -> tuple[Recorder, dict[str, float]]:
    recorder = Recorder(denoiser)
    generator = torch.Generator().manual_seed(seed)
    answers = kept()
    answers.updates = updates
    metrics = imitate(denoiser, answers, settings, schedule, recorder, generator, spent)
    assert answers.updates == updates + settings.num_iterations
    return recorder, metrics


def expected_loss(denoiser: ModelDenoiser, weighting: Weighting) -> Tensor:
    """The mean over answers and over all sets of masked tokens, from the model's own logits, a canvas at a time.

    m of L tokens are masked with probability 1 / L, all sets of m alike. `elbo` weighs a token 1 / m; `uniform` divides
    the mean of the summed losses by the mean number of masked tokens, (L + 1) / 2.
    """
    total = torch.zeros(())
    for prompt, completion in ANSWERS:
        for count in range(1, LENGTH + 1):
            for masked in combinations(range(LENGTH), count):
                shown = [MASK if at in masked else token for at, token in enumerate(completion)]
                logits = denoiser.model(input_ids=torch.tensor([[*prompt, *shown]])).logits[0].clone()
                logits[:, MASK] = oracle.FORBIDDEN_LOGIT
                logp = logits.log_softmax(dim=-1)
                nll = -sum(logp[len(prompt) + at, completion[at]] for at in masked)
                share = 1 / LENGTH / math.comb(LENGTH, count) / len(ANSWERS)
                total = total + share * nll / (count if weighting == "elbo" else (LENGTH + 1) / 2)
    return total


@pytest.mark.parametrize("weighting", ["elbo", "uniform"])
def test_its_gradient_is_that_of_the_denoising_loss_of_all_kept_answers(
    denoiser: ModelDenoiser, weighting: Weighting
) -> None:
    loss = expected_loss(denoiser, weighting)
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in denoiser.model.parameters() if p.grad is not None]).clone()
    recorder, metrics = recorded(denoiser, objective(2, 12_000, weighting))
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=0.02)
    assert metrics["grad_norm"] == pytest.approx(sum(float(g.norm()) for g in recorder.gradients) / 2, rel=1e-4)
    assert metrics["right_answers"] == len(ANSWERS) and len(recorder.gradients) == 2
    for found in recorder.gradients:
        assert float((found - expected).norm() / expected.norm()) < 0.05


@pytest.mark.parametrize("weighting", ["elbo", "uniform"])
@pytest.mark.parametrize("micro_batch_size", [1, 3, 7])
def test_micro_batches_make_no_difference(denoiser: ModelDenoiser, weighting: Weighting, micro_batch_size: int) -> None:
    whole, in_one = recorded(denoiser, objective(2, 7, weighting))
    parts, in_parts = recorded(denoiser, objective(2, 7, weighting, micro_batch_size))
    for expected, found in zip(whole.gradients, parts.gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert in_parts == pytest.approx(in_one, rel=1e-4)


def test_each_iteration_has_answers_and_masks_of_its_own_from_the_generator_alone(denoiser: ModelDenoiser) -> None:
    settings = objective(3, 4, "elbo")
    torch.manual_seed(0)
    (first, _), state = recorded(denoiser, settings, seed=1), torch.get_rng_state()
    torch.manual_seed(1)
    (again, _), (other, _) = recorded(denoiser, settings, seed=1), recorded(denoiser, settings, seed=2)
    assert all(a.equal(b) for a, b in zip(first.gradients, again.gradients, strict=True))
    assert not first.gradients[0].equal(other.gradients[0])
    assert not first.gradients[0].equal(first.gradients[1]) and not first.gradients[1].equal(first.gradients[2])
    torch.manual_seed(0)
    assert torch.get_rng_state().equal(state)


def test_the_learning_rate_warms_up_by_updates_and_decays_by_the_budget(denoiser: ModelDenoiser) -> None:
    schedule = AdamRecipe(lr=0.5, warmup=10, decay="linear")
    recorder, _ = recorded(denoiser, objective(4, 2, "elbo"), schedule, updates=7, spent=0.2)
    assert recorder.rates == pytest.approx([0.5 * 0.8 * share for share in (0.8, 0.9, 1.0, 1.0)])


def test_the_gradients_norm_is_limited(denoiser: ModelDenoiser) -> None:
    schedule = AdamRecipe(lr=0.5, grad_clip=0.01)
    recorder, metrics = recorded(denoiser, objective(1, 8, "elbo"), schedule)
    assert metrics["grad_norm"] > 0.1 and float(recorder.gradients[0].norm()) == pytest.approx(0.01, rel=1e-3)


def test_nothing_happens_while_nothing_was_right(denoiser: ModelDenoiser) -> None:
    recorder, before = Recorder(denoiser), [p.clone() for p in denoiser.model.parameters()]
    settings = objective(3, 4, "elbo")
    metrics = imitate(denoiser, RightAnswers(LENGTH, 5), settings, STEADY, recorder, torch.Generator(), 0.0)
    assert metrics == {"right_answers": 0.0} and denoiser.usage.canvases == 0
    assert recorder.gradients == [] and math.isnan(recorder.param_groups[0]["lr"])
    assert all(p.equal(old) for p, old in zip(denoiser.model.parameters(), before, strict=True))


def test_what_one_token_at_a_time_finds_is_learned_for_one_call(denoiser: ModelDenoiser) -> None:
    """With one answer to each prompt, a canvas without any of its tokens gives it away."""
    pairs = ANSWERS[:2]
    schedule = AdamRecipe(lr=0.01)
    optimizer = adam(denoiser.model.parameters(), schedule)
    imitate(denoiser, kept(pairs), objective(80, 16, "uniform"), schedule, optimizer, torch.Generator(), 0.0)
    for prompt, completion in pairs:
        with torch.no_grad():
            logits = denoiser.model(input_ids=torch.tensor([[*prompt, *[MASK] * LENGTH]])).logits[0, -LENGTH:]
        probability = logits[:, [0, 1, 2, 3]].softmax(dim=-1)[range(LENGTH), list(completion)]
        assert float(probability.prod()) > 0.9


# --- runs

OBJECTIVE = 'objective={kind="expert-iteration", num_iterations=3, batch=8, weighting="uniform"}'
RIGHT = [
    *TASK,
    OBJECTIVE,
    "rollout.prompts_per_step=6",
    "rollout.group_size=1",
    "rollout.temperature=0",
    "optimizer.lr=0.001",
    "optimizer.warmup=5",
    "optimizer.decay=linear",
]


def recipe_of(base: Path, *overrides: str) -> RlRecipe:
    return load_recipe(RlRecipe, None, [*RIGHT, f"base={json.dumps(str(base))}", *overrides])


def test_a_run_of_greedy_single_answers_logs_what_it_learned_from(base: Path, tmp_path: Path) -> None:
    recipe = recipe_of(base, "budget.steps=4")
    run_rl(recipe, tmp_path / "run")
    lines, calls = lines_of(tmp_path / "run"), 0
    (problem,) = build_task(recipe.task).problems("train", 1, seed=0)
    tokens = len(problem.prompt) + recipe.task.completion_length
    for line in lines:
        assert all(math.isfinite(value) for value in line.values())
        assert {"loss", "grad_norm", "right_answers"} < line.keys() and not {"kl", "policy_ratio"} & line.keys()
        assert line["reward_std"] == 0, "of one completion"
        # Three updates of eight answers, and the rollouts' canvases: what budgets count.
        assert line["update_tokens"] == 3 * 8 * tokens
        assert line["denoiser_calls"] - calls == 3 * 8 + line["rollout_tokens"] / tokens
        calls = line["denoiser_calls"]
    assert weights_of(checkpoints(tmp_path / "run")[-1]) != weights_of(checkpoints(base)[-1])


def test_a_run_learns_from_distinct_right_answers_alone(
    base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right: list[tuple[list[int], list[int]]] = []
    add = RightAnswers.add

    def spy(self: RightAnswers, rollout: Rollout, is_right: Tensor, eos_id: int) -> None:
        for row in is_right.nonzero().flatten().tolist():
            pair = rollout.prompt_ids[row].tolist(), rollout.completion_ids[row].tolist()
            right.extend([] if pair in right else [pair])
        add(self, rollout, is_right, eos_id)
        assert len(self) == len(right)

    monkeypatch.setattr(RightAnswers, "add", spy)
    graded: list[bool] = []
    grade = Sudoku.grade

    def note(self: Sudoku, problem: Any, completion: str) -> Grade:
        found = grade(self, problem, completion)
        graded.append(found.is_solved)
        return found

    monkeypatch.setattr(Sudoku, "grade", note)
    run_rl(recipe_of(base, "rollout.group_size=4", "rollout.temperature=1", "budget.steps=3"), tmp_path / "run")
    state = torch.load(checkpoints(tmp_path / "run")[-1] / "optimizer.pt", weights_only=True)["right_answers"]
    found = list(zip(state["prompt_ids"].tolist(), state["completion_ids"].tolist(), strict=True))
    assert sorted(found) == sorted(right)
    assert 0 < len(right) < sum(graded) < len(graded), "some were wrong, and some were found again"
    assert lines_of(tmp_path / "run")[-1]["right_answers"] == len(right)


def test_each_step_has_draws_of_its_own_and_knows_the_updates_before_it(
    base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []

    def spy(*arguments: Any) -> dict[str, float]:
        answers, generator = arguments[1], arguments[5]
        seen.append((generator.initial_seed(), answers.updates))
        return imitate(*arguments)

    monkeypatch.setattr(rl_step, "imitate", spy)
    run_rl(recipe_of(base, "budget.steps=3"), tmp_path / "run")
    assert [updates for _, updates in seen] == [0, 3, 6] and len({seed for seed, _ in seen}) == 3


def test_a_run_goes_on_bit_for_bit(base: Path, tmp_path: Path) -> None:
    def fail_at_three(_: RlState, step: int, calls: int, share: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    speeds = "rollout.speeds={low=0.05, high=1.0}"
    recipe = recipe_of(base, speeds, "objective.capacity=7", "budget.steps=4", "checkpoint.every=2")
    run_rl(recipe, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run_rl(recipe, tmp_path / "again", on_step=fail_at_three)
    run_rl(recipe, tmp_path / "again", resume=True)
    straight = snapshot(tmp_path / "straight")
    assert straight == snapshot(tmp_path / "again")
    assert any("right_answers" in key for key in straight)
    assert lines_of(tmp_path / "straight")[-1]["right_answers"] == 7, "more were found than are kept"


def test_a_run_in_which_nothing_is_right_stays_at_its_base_warns_and_goes_on(
    base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Partial credit is no right answer."""
    monkeypatch.setattr(Sudoku, "grade", lambda *_: Grade(0.9, {"solved": 0.0}))
    run_rl(recipe_of(base, "budget.steps=1"), tmp_path / "run")
    assert weights_of(checkpoints(tmp_path / "run")[-1]) == weights_of(checkpoints(base)[-1])
    (line,) = lines_of(tmp_path / "run")
    assert line["right_answers"] == 0 and line["reward"] == pytest.approx(0.9) and line["update_tokens"] == 0
    assert not {"loss", "grad_norm"} & line.keys()
    assert "warning: no completion was right so far" in capsys.readouterr().out

    recipe = recipe_of(base, "budget.steps=2", "checkpoint.every=1")

    def fail_at_two(_: RlState, step: int, calls: int, share: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_rl(recipe, tmp_path / "again", on_step=fail_at_two)
    run_rl(recipe, tmp_path / "again", resume=True)
    assert [line["right_answers"] for line in lines_of(tmp_path / "again")] == [0, 0]


def test_how_many_are_in_flight_changes_nothing(base: Path, tmp_path: Path) -> None:
    for name, overrides in {"all": (), "two": ("rollout.max_in_flight=2",)}.items():
        run_rl(recipe_of(base, "budget.steps=3", *overrides), tmp_path / name)
    one, other = snapshot(tmp_path / "all"), snapshot(tmp_path / "two")
    assert {key for key in one if one[key] != other[key]} <= {"log", "progress"}
    costs = ("rollout_tokens", "denoiser_calls")  # which canvases meet, and so are shared, is another matter
    for line in (*one["log"], *other["log"]):
        for key in costs:
            line.pop(key, None)
    assert one["log"] == other["log"]


def test_an_adapter_learns_and_its_base_stays(base: Path, tmp_path: Path) -> None:
    run_rl(recipe_of(base, "lora={rank=2, alpha=4}", "budget.steps=2"), tmp_path / "run")
    trained = snapshot(tmp_path / "run")
    run_rl(recipe_of(base, "lora={rank=2, alpha=4}", "budget.steps=3"), tmp_path / "more")
    adapters = {key: value for key, value in trained.items() if "lora" in key}
    others = {key: value for key, value in trained.items() if key.endswith("weight") and key not in adapters}
    more = snapshot(tmp_path / "more")
    assert adapters and all(more[key] != value for key, value in adapters.items())
    assert all(more[key] == value for key, value in others.items())
    assert all(line["right_answers"] > 0 for line in lines_of(tmp_path / "run"))


def test_a_controllers_advantage_is_not_asked_about_a_single_completion(base: Path, tmp_path: Path) -> None:
    """Over a group of one, `leave-one-out` would divide by zero."""
    run_rl(recipe_of(base, "controller.advantage=leave-one-out", "budget.steps=1"), tmp_path / "run")
    assert len(lines_of(tmp_path / "run")) == 1


def test_a_share_of_the_answers_is_learned_from_empty_canvases() -> None:
    targets = next(kept().draw(1, 40, torch.Generator().manual_seed(0)))
    usual, some = (
        draw_noise(targets, "uniform", torch.Generator().manual_seed(1), share).is_masked[:, -LENGTH:]
        for share in (0.0, 0.25)
    )
    assert some[:10].all() and some[10:].equal(usual[10:]) and not usual[:10].all()


def test_the_share_of_empty_canvases_is_the_recipes(denoiser: ModelDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def spy(*arguments: Any) -> Noise:
        seen.append(arguments[3])
        return draw_noise(*arguments)

    monkeypatch.setattr(expert_iteration, "draw_noise", spy)
    recorded(denoiser, objective(2, 4, "uniform").model_copy(update={"empty_share": 0.25}))
    assert seen == [0.25, 0.25]


# --- what cannot be


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            ["rollout.rule={kind='entropy-bound', bound=10}", "rollout.speeds={}"],
            "so rollout.rule.bound 10 has no part in it; leave one of the two out",
        ),
        (["train=joint"], "objective 'expert-iteration' trains a policy alone, and train is 'joint'; use train ="),
        (["train=controller"], "'expert-iteration' trains a policy alone, and train is 'controller'; use train ="),
        (["objective.kl_coef=0.1"], "objective.kl_coef: unknown option"),
        (["objective.nfe_penalty=0.1"], "objective.nfe_penalty: unknown option"),
        (["objective.num_iteration=1"], "did you mean 'num_iterations'?"),
        (["objective.batch=0"], "objective.batch: should be greater than or equal to 1"),
        (["objective.capacity=0"], "objective.capacity: should be greater than or equal to 1"),
        (["objective.weighting=linear"], "objective.weighting"),
        (["objective.kind=expert-iterations"], "did you mean 'expert-iteration'?"),
        (
            ["objective={kind='reinforce'}", "rollout.temperature=1"],
            "rollout.group_size 1 leaves a completion nothing to be compared with; use 2 or more, or objective.kind = "
            "'expert-iteration', which compares none",
        ),
        (
            ["objective={kind='reinforce'}", "rollout.group_size=2"],
            "rollout.temperature 0 draws the same completion every time, from which a policy learns nothing; ",
        ),
        (["task={kind='s1k'}"], "task.kind 's1k' has answers to learn from and none that can be graded"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_sentence(
    settings: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*RIGHT, "base=some/model", "budget.steps=1", *settings]
    with pytest.raises(UserError) as caught:
        load_recipe(RlRecipe, None, overrides)
    assert expected in str(caught.value)
    (tmp_path / "recipe.toml").write_text("")
    with pytest.raises(SystemExit, check=lambda error: error.code == 2):
        main(["rl", str(tmp_path / "recipe.toml"), *overrides, "--out", str(tmp_path / "run")])
    said = capsys.readouterr()
    assert expected in said.err and "Traceback" not in said.err and not (tmp_path / "run").exists()
