"""SFT: the loss against enumeration, rows of one length together, micro-batches, and s1K, which nothing can grade."""

import json
import math
from collections import Counter
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pytest
import torch
from pyarrow import parquet
from tests.helpers import oracle
from tests.helpers.chat_templates import EOS, EOT, LLADA, QWEN, tokenizer_with
from torch import Tensor

from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.model_paths import METRICS
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import EvalRecipe, RlRecipe, S1kTask, SftRecipe
from diffpo.recipes.tasks import build_task
from diffpo.tasks import text
from diffpo.tasks.base import Grade, Problem, Split
from diffpo.tasks.datasets import Row, read_rows
from diffpo.tasks.s1k import S1K, divide
from diffpo.tasks.text import TextTask
from diffpo.training import sft_data
from diffpo.training.sft import Noise, backward, denoising_loss, draw_noise, run_sft
from diffpo.training.sft_data import Targets, draw_sequences

Weighting = Literal["elbo", "uniform"]

# --- the loss

MASK, WIDTH, LENGTHS = 4, 5, (1, 2, 4)
TARGETS = Targets(
    torch.tensor([[0, 1, 2, 3, 1], [3, 3, 1, 0, 2], [2, 0, 1, 1, 3]]),
    torch.tensor([[False, True, True, True, True], [True] * WIDTH, [True] * WIDTH]),
    torch.tensor(LENGTHS),
)


@pytest.fixture(scope="module")
def denoiser() -> ModelDenoiser:
    return oracle.tiny_llada(vocab=5, mask_id=MASK)


def losses(denoiser: ModelDenoiser, row: int, masked: tuple[int, ...]) -> list[float]:
    """-log p of the masked tokens of a row, each from the model's own logits of the canvas, in float64."""
    canvas = TARGETS.ids[row : row + 1].clone()
    canvas[0, list(masked)] = MASK
    with torch.no_grad():
        logits = denoiser.model(input_ids=canvas, attention_mask=TARGETS.visible[row : row + 1]).logits[0]
    logits[:, MASK] = oracle.FORBIDDEN_LOGIT
    return [-oracle.log_softmax(logits[at].tolist())[int(TARGETS.ids[row, at])] for at in masked]


def masks_of(length: int) -> list[tuple[int, ...]]:
    """Every non-empty set of a completion's positions, which are the last ones."""
    places = range(WIDTH - length, WIDTH)
    return [chosen for size in range(1, length + 1) for chosen in combinations(places, size)]


def as_mask(masked: tuple[int, ...]) -> Tensor:
    return torch.tensor([at in masked for at in range(WIDTH)])


@pytest.mark.parametrize("weighting", ["elbo", "uniform"])
def test_every_set_of_answer_tokens_is_masked_as_often_as_it_should(weighting: Weighting) -> None:
    """P(S) = 1 / L_i / (L_i over |S|), for each row by its own length."""
    copies = 4000
    many = TARGETS.rows(torch.arange(len(LENGTHS)).repeat(copies))
    noise = draw_noise(many, weighting, torch.Generator().manual_seed(0))
    seen: Counter[tuple[int, tuple[int, ...]]] = Counter()
    for number, mask in enumerate(noise.is_masked.tolist()):
        seen[number % len(LENGTHS), tuple(at for at in range(WIDTH) if mask[at])] += 1
    probability = {
        (row, masked): 1 / length / math.comb(length, len(masked))
        for row, length in enumerate(LENGTHS)
        for masked in masks_of(length)
    }
    assert seen.keys() == probability.keys()
    for key, share in probability.items():
        assert seen[key] / copies == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / copies)), key


def test_the_numbers_of_masked_tokens_are_spread_over_the_batch() -> None:
    alike = TARGETS.rows(torch.full((4,), 2))
    for seed in range(5):
        noise = draw_noise(alike, "elbo", torch.Generator().manual_seed(seed))
        assert sorted(noise.is_masked.sum(dim=1).tolist()) == [1, 2, 3, 4]


def test_elbo_is_the_mean_over_all_orders_of_each_rows_log_likelihood(denoiser: ModelDenoiser) -> None:
    """For each row by its own length: mean over orders of -log p / L_i, then over rows."""
    expected = 0.0
    for row, length in enumerate(LENGTHS):
        places = range(WIDTH - length, WIDTH)
        orders = list(permutations(places))
        total = sum(losses(denoiser, row, order[step:])[0] for order in orders for step in range(length))
        expected += total / len(orders) / length / len(LENGTHS)

    weight: dict[tuple[int, int], float] = {}
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        noise = draw_noise(TARGETS, "elbo", generator)
        assert noise.total == len(LENGTHS)
        for row, mask in enumerate(noise.is_masked):
            weight[row, int(mask.sum())] = float(noise.weight[row])
    found = 0.0
    for row, length in enumerate(LENGTHS):
        for masked in masks_of(length):
            noise = Noise(as_mask(masked)[None], torch.tensor([weight[row, len(masked)]]), len(LENGTHS))
            with torch.no_grad():
                share = denoising_loss(denoiser, TARGETS.rows(torch.tensor([row])), noise)
            found += float(share) / length / math.comb(length, len(masked))
    assert found == pytest.approx(expected, rel=1e-5)


def test_uniform_is_the_mean_over_the_masked_tokens_of_the_batch(denoiser: ModelDenoiser) -> None:
    noise = draw_noise(TARGETS, "uniform", torch.Generator().manual_seed(2))
    each = [losses(denoiser, row, tuple(mask.nonzero().flatten().tolist())) for row, mask in enumerate(noise.is_masked)]
    assert len({len(row) for row in each}) > 1
    expected = sum(map(sum, each)) / sum(map(len, each))
    assert float(denoising_loss(denoiser, TARGETS, noise).detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weighting", ["elbo", "uniform"])
@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_micro_batches_give_the_gradient_of_the_whole_batch(
    denoiser: ModelDenoiser, weighting: Weighting, micro_batch_size: int
) -> None:
    noise = draw_noise(TARGETS, weighting, torch.Generator().manual_seed(2))
    assert len(set(noise.is_masked.sum(dim=1).tolist())) > 1
    found = []
    for rows in (3, micro_batch_size):
        denoiser.model.zero_grad()
        loss = backward(denoiser, TARGETS, noise, rows)
        found.append((loss, {name: p.grad for name, p in denoiser.model.named_parameters()}))
    (whole, gradient), (sum_of_parts, gradients) = found
    assert sum_of_parts == pytest.approx(whole, rel=1e-6)
    for name, value in gradient.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-4, atol=1e-4 * float(value.abs().max()))
    assert denoiser.usage.canvases >= 6


def test_a_process_without_rows_adds_nothing(denoiser: ModelDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = torch.arange(1)
    noise = draw_noise(TARGETS.rows(alone), "elbo", torch.Generator().manual_seed(0))
    denoiser.model.zero_grad()
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert backward(denoiser, TARGETS.rows(alone), noise, 3) == 0, "the row is the other's"
    assert all(p.grad is None for p in denoiser.model.parameters())


# --- rows of one length


@dataclass(frozen=True)
class Listed:
    """The same problems over and over."""

    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    name: str = "listed"
    alphabet: str = "abc"
    completion_length: int = 8

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        size = len(self.prompts)
        return [Problem(f"{i % size}", self.prompts[i % size], self.answers[i % size], "") for i in range(count)]

    def grade(self, problem: Problem, completion: str) -> Grade:
        return Grade(0.0, {"solved": 0.0})


def conversation(template: str | None, prompt: str, answer: str) -> list[int]:
    """All of it, as the template alone writes it."""
    tokenizer = tokenizer_with(template)
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    whole = tokenizer.apply_chat_template(turns, tokenize=False) if template else prompt + answer
    ids: list[int] = tokenizer.encode(whole, add_special_tokens=False)
    return ids


def prompt_of(template: str | None, prompt: str) -> list[int]:
    tokenizer = tokenizer_with(template)
    turns = [{"role": "user", "content": prompt}]
    whole = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) if template else prompt
    ids: list[int] = tokenizer.encode(whole, add_special_tokens=False)
    return ids


@pytest.mark.parametrize("template", [LLADA, QWEN, None])
def test_prompt_and_completion_fill_the_sequence_in_the_templates_frame(template: str | None) -> None:
    tokenizer, task = tokenizer_with(template), Listed(("hi", "longer?"), ("yes", "no\n"))
    drawn, counts = draw_sequences(tokenizer, task, 4, 0, 100, "cut")
    assert counts == {"cut": 0, "skipped": 0} and bool(drawn.visible.all()) and drawn.ids.shape == (4, 100)
    for row in range(4):
        prompt, answer = task.prompts[row % 2], task.answers[row % 2]
        ids, before = drawn.ids[row].tolist(), prompt_of(template, prompt)
        said = [*tokenizer.encode(answer, add_special_tokens=False), *([EOT] if template else [])]
        assert ids == before + said + [EOS] * (100 - len(before) - len(said)), "the prompt is a prefix of the row"
        assert int(drawn.length[row]) == 100 - len(before), "all that follows the prompt is masked and scored"
        if template and answer == answer.strip():
            assert ids[: len(before) + len(said)] == conversation(template, prompt, answer)[: len(before) + len(said)]


@pytest.mark.parametrize("template", [LLADA, QWEN])
def test_a_long_answer_loses_its_end_and_never_its_prompt(template: str) -> None:
    tokenizer, task = tokenizer_with(template), Listed(("hi",), ("a, b and c",))
    before = prompt_of(template, "hi")
    whole = before + tokenizer.encode("a, b and c", add_special_tokens=False) + [EOT]
    for missing, is_cut in ((0, 0), (1, 1), (5, 1)):
        drawn, counts = draw_sequences(tokenizer, task, 1, 0, len(whole) - missing, "cut")
        assert drawn.ids[0].tolist() == whole[: len(whole) - missing]
        assert counts == {"cut": is_cut, "skipped": 0}
        assert int(drawn.length[0]) == len(whole) - missing - len(before)


def test_rows_without_room_are_skipped_counted_and_replaced() -> None:
    tokenizer = tokenizer_with(None)
    task = Listed(("abcdef", "ab", "abcde", "abc"), ("a", "abcde", "a", "abc"))

    def taken(count: int, too_long: Literal["cut", "skip"]) -> tuple[list[str], dict[str, int]]:
        drawn, counts = draw_sequences(tokenizer, task, count, 0, 6, too_long)
        return [tokenizer.decode(ids).replace("<|endoftext|>", ".") for ids in drawn.ids.tolist()], counts

    assert taken(3, "cut") == (["ababcd", "abcdea", "abcabc"], {"cut": 1, "skipped": 1})
    assert taken(2, "skip") == (["abcdea", "abcabc"], {"cut": 0, "skipped": 2})
    assert taken(3, "skip") == (["abcdea", "abcabc", "abcdea"], {"cut": 0, "skipped": 4})


@pytest.mark.parametrize(
    ("length", "too_long", "message"),
    [
        (4, "cut", "listed: none of 2 train problems fits into sequence_length 4; raise it$"),
        (7, "skip", "fits into sequence_length 7; raise it, or use too_long = 'cut'$"),
    ],
)
def test_data_of_which_nothing_fits(length: int, too_long: Literal["cut", "skip"], message: str) -> None:
    task = Listed(("abcd", "abcde"), ("abcd", "abcd"))
    with pytest.raises(UserError, match=message):
        draw_sequences(tokenizer_with(None), task, 3, 0, length, too_long)


def test_endless_data_are_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sft_data, "MAX_PROBLEMS_TRIED", 10)
    many = Listed(("abcd",) * 99, ("a",) * 99)
    with pytest.raises(UserError, match="none of 12 train problems fits"):
        draw_sequences(tokenizer_with(None), many, 3, 0, 4, "cut")


# --- s1K


ROWS = [
    {"question": f" What is {n} + {n}?", "thinking_trajectories": [f"Twice {n}.\n", "not used"], "attempt": f"{2 * n}."}
    for n in range(60)
]


def jsonl(file: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_a_row_of_s1k_is_a_question_and_a_trace_in_tags(tmp_path: Path) -> None:
    recipe = S1kTask(kind="s1k", source=jsonl(tmp_path / "all.jsonl"), instructions="Do it.", completion_length=99)
    task = build_task(recipe)
    assert (task.name, task.completion_length) == ("s1k", 99)
    problem = next(p for p in task.problems("train", 60, seed=0) if "7 + 7" in p.prompt)
    assert problem.prompt == "Do it.\n\nWhat is 7 + 7?"
    assert problem.answer == "<reasoning>\nTwice 7.\n</reasoning>\n<answer>\n14.\n</answer>"
    assert task.grade(problem, problem.answer).status == "grader_failed"
    own = TextTask(S1K, recipe.source).problems("train", 1, seed=0)[0].prompt
    assert all(tag in own for tag in ("<reasoning>", "</reasoning>", "<answer>", "</answer>"))


def test_files_of_every_kind_give_the_same_rows(tmp_path: Path) -> None:
    fields = [(row["question"], json.dumps(row["thinking_trajectories"]), row["attempt"]) for row in ROWS]
    quoted = [",".join('"{}"'.format(str(value).replace('"', '""')) for value in row) for row in fields]
    (tmp_path / "a.csv").write_text("\n".join(["question,thinking_trajectories,attempt", *quoted]))
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    jsonl(tmp_path / "a.jsonl")
    found = [TextTask(S1K, str(tmp_path / name)).questions("train") for name in ("a.jsonl", "a.csv", "a.parquet")]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("question", None, r"all\.jsonl:2: field 'question' should be text, got None"),
        ("attempt", 3, r"all\.jsonl:2: field 'attempt' should be text, got 3"),
        (
            "thinking_trajectories",
            [],
            r"field 'thinking_trajectories' should be a list of texts .*got \[\]",
        ),
        ("thinking_trajectories", [" "], r"all\.jsonl:2: field 'thinking_trajectories' should be a list of texts"),
        ("thinking_trajectories", [3], r"all\.jsonl:2: field 'thinking_trajectories' should be a list of texts"),
        ("thinking_trajectories", "['a']", r"all\.jsonl:2: field 'thinking_trajectories' should .* a list in JSON"),
        ("thinking_trajectories", {"a": "b"}, r"all\.jsonl:2: field 'thinking_trajectories' should be a list of texts"),
    ],
)
def test_a_broken_row_is_named(field: str, value: object, message: str, tmp_path: Path) -> None:
    source = jsonl(tmp_path / "all.jsonl", [ROWS[0], ROWS[1] | {field: value}])
    with pytest.raises(UserError, match=message):
        TextTask(S1K, source).problems("train", 1, seed=0)
    lacking = [{name: value for name, value in ROWS[0].items() if name != field}]
    with pytest.raises(UserError, match=f"field '{field}' is missing"):
        TextTask(S1K, jsonl(tmp_path / "less.jsonl", lacking)).problems("train", 1, seed=0)


def test_about_a_hundredth_is_held_out_and_there_is_no_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    splits = divide([str(n) for n in range(20_000)])
    assert set(splits.values()) == {"train", "validation"}
    assert list(splits.values()).count("validation") / 20_000 == pytest.approx(3 / 256, abs=0.003)
    asked = []

    def read(source: str, split: Split) -> list[Row]:
        asked.append((source, split))
        return read_rows(jsonl(tmp_path / "all.jsonl"), split)

    monkeypatch.setattr(text, "read_rows", read)
    TextTask(S1K).problems("train", 1, seed=0)
    assert asked == [("simplescaling/s1K", "train")], "the hub's data set has no test split to be asked for"


def test_what_needs_grades_refuses_s1k(tmp_path: Path) -> None:
    sentence = r"task\.kind 's1k' has answers to learn from and none that can be graded, which {} needs; choose another"
    with pytest.raises(UserError, match=sentence.format("RL")):
        load_recipe(RlRecipe, None, ["base=x", "budget.steps=1", "task.kind=s1k"])
    with pytest.raises(UserError, match=sentence.format("evaluation")):
        load_recipe(EvalRecipe, None, ["model=x", "task.kind=s1k"])
    with pytest.raises(UserError, match=sentence.format("early_stopping")):
        load_recipe(SftRecipe, None, ["task.kind=s1k", "early_stopping.accuracy=0.5"])
    with pytest.raises(UserError, match="too_long is about sequence_length, which is not given"):
        load_recipe(SftRecipe, None, ["task.kind=s1k", "too_long=skip"])
    with pytest.raises(UserError, match="sequence_length limits prompts by itself"):
        load_recipe(SftRecipe, None, ["task.kind=s1k", "sequence_length=9", "task.max_prompt_tokens=3"])


def test_a_run_on_s1k_counts_what_it_cuts_and_is_not_evaluated_on_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sft.toml").write_text("")
    shape = ["model.d_model=8", "model.n_layers=1", "model.n_heads=1", "model.mlp_hidden_size=8", "threads=1"]
    task = f"task={{kind='s1k', source={json.dumps(jsonl(tmp_path / 'all.jsonl'))}, instructions='Q:'}}"
    sft = [
        "sft",
        str(tmp_path / "sft.toml"),
        task,
        *shape,
        "batch=4",
        "steps=3",
        "micro_batch_size=3",
        "sequence_length=75",
    ]
    with pytest.raises(SystemExit, check=lambda error: error.code == 0):
        main([*sft, "--out", str(tmp_path / "run")])
    lines = [json.loads(line) for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [0, 0, 0]
    assert 0 < sum(line["cut"] for line in lines) < 12, "rows have 72 to 77 tokens"

    monkeypatch.setattr("diffpo.evaluation.run.load_folder", lambda *_: pytest.fail("a model was loaded"))
    capsys.readouterr()
    with pytest.raises(SystemExit, check=lambda error: error.code == 2):
        main(["eval", str(tmp_path / "run")])
    assert "task.kind 's1k' has answers to learn from" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"none of \d+ train problems fits into sequence_length 17"):
        run_sft(load_recipe(SftRecipe, None, [task, *shape, "sequence_length=17"]), tmp_path / "small")


def test_d1s_recipe_is_as_published() -> None:
    recipe = load_recipe(SftRecipe, "d1-sft")
    assert recipe.task == S1kTask(kind="s1k") and recipe.lora is not None
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.sequence_length, recipe.batch) == (128, 256, 4096, 16)
    assert recipe.steps == pytest.approx(20 * 990 / 16, abs=5)
    assert recipe.weighting == "elbo" and recipe.too_long == "cut" and recipe.dtype == "bfloat16"
    assert (recipe.optimizer.lr, recipe.optimizer.decay, recipe.optimizer.warmup) == (1e-5, "linear", 0)
