"""lm-eval with `--model diffpo`: the figure of `diffpo eval`, and what is said where there is none."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.helpers.published import LLADA, write_folder

from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.evaluation.loop import evaluation_problems
from diffpo.models.chat import encode_prompt
from diffpo.recipes import load_recipe
from diffpo.recipes.parts import build_task
from diffpo.recipes.stored import stored_task
from diffpo.recipes.tables import EvalRecipe

COUNT = 60


@pytest.fixture
def harness() -> Any:
    pytest.importorskip("lm_eval", reason="pip install 'diffpo[lm-eval]'")
    from diffpo.evaluation import lm_harness

    return lm_harness


def write_task(folder: Path, base: Path) -> None:
    """Write the problems that `diffpo eval` draws by the same settings as a local task of lm-eval's."""
    recipe = load_recipe(EvalRecipe, None, [f"model={json.dumps(str(base))}", f"count={COUNT}", "seed=3"])
    problems, _ = evaluation_problems(build_task(stored_task(base)), recipe)
    rows = [{"prompt": problem.prompt, "answer": problem.answer} for problem in problems]
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "local.yaml").write_text(
        "task: local_sudoku\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {json.dumps(str(folder / 'rows.jsonl'))}}}}}\n"
        "test_split: test\n"
        "output_type: generate_until\n"
        'doc_to_text: "{{prompt}}"\n'
        'doc_to_target: "{{answer}}"\n'
        'generation_kwargs: {until: ["\\n\\n"], do_sample: false}\n'
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("bound", [0.0, 0.1, 5.0])
def test_accuracy_is_that_of_diffpo_eval(
    harness: Any, base: Path, tmp_path: Path, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    write_task(tmp_path / "tasks", base)
    record = tmp_path / "eval.json"
    with pytest.raises(SystemExit) as ended:
        words = [f"count={COUNT}", "seed=3", f"bounds=[{bound}]", "validation_count=0", "threads=1"]
        main(["eval", str(base), *words, "--out", str(record)])
    assert ended.value.code == 0
    (point,) = json.loads(record.read_text())["points"]

    where = ["--tasks", "local_sudoku", "--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        asked = f"pretrained={base},entropy_bound={bound},threads=1"
        main(["lm-eval", "--model_args", asked, *where, "--batch_size", "16"])
    assert ended.value.code in (None, 0)
    (file,) = tmp_path.rglob("results_*.json")
    found = json.loads(file.read_text())["results"]["local_sudoku"]["exact_match,none"]
    assert 0 < point["accuracy"] < 1 or bound == 5.0
    assert found == point["accuracy"]


def request(prompt: str, **asked: Any) -> SimpleNamespace:
    return SimpleNamespace(args=(prompt, asked))


@pytest.fixture
def prompts(base: Path) -> list[str]:
    return [problem.prompt for problem in build_task(stored_task(base)).problems("test", 3, seed=1)]


def test_requests_are_answered_as_by_sample(harness: Any, base: Path, prompts: list[str], tmp_path: Path) -> None:
    from diffpo import EntropyBound, complete

    expected = [found.text for found in complete(str(base), prompts, rule=EntropyBound(0.1))]
    model = harness.DiffpoLM(str(base), entropy_bound=0.1, threads=1, batch_size="2")
    assert model.generate_until([request(prompt, until=[]) for prompt in prompts]) == expected
    digit = expected[0][5]
    cut = model.generate_until([request(prompts[0], until=["x", digit])])
    assert cut == [expected[0].partition(digit)[0]] and cut != [expected[0]]
    short = model.generate_until([request(prompts[0], max_gen_toks=4), request(prompts[1], max_gen_toks=16)])
    assert [len(text) for text in short] == [4, 16]
    fixed = harness.DiffpoLM(str(base), length=8, threads=1)
    assert [len(text) for text in fixed.generate_until([request(prompts[0], max_gen_toks=4)])] == [8]
    assert model.generate_until([]) == []


def test_a_temperature_draws_by_the_seed(harness: Any, base: Path, prompts: list[str]) -> None:
    def drawn(seed: int) -> list[str]:
        model = harness.DiffpoLM(str(base), seed=seed, threads=1)
        found: list[str] = model.generate_until(
            [request(prompt, do_sample=True, temperature=2.0) for prompt in prompts]
        )
        return found

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_chat_is_encoded_by_the_template_and_no_text_becomes_a_token(harness: Any, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    write_folder(folder, LLADA)
    model = harness.DiffpoLM(str(folder), length=4, threads=1)
    tokenizer = model._policy.tokenizer
    if not tokenizer.chat_template:
        tokenizer.chat_template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    text = f"say {tokenizer.eos_token}"
    sent = model.apply_chat_template([{"role": "user", "content": text}])
    ids = model._encode(sent)
    assert ids == encode_prompt(tokenizer, text) and tokenizer.mask_token_id not in ids
    with pytest.raises(UserError, match="begins the answer itself"):
        model.apply_chat_template([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], False)
    with pytest.raises(UserError, match="role 'tool'"):
        model._encode(json.dumps([{"role": "tool", "content": "x"}]))


def test_what_cannot_be_measured_is_one_sentence(harness: Any, base: Path, prompts: list[str]) -> None:
    model = harness.DiffpoLM(str(base), threads=1)
    for method in (model.loglikelihood, model.loglikelihood_rolling):
        with pytest.raises(UserError, match=r"no exact likelihood .* generate_until"):
            method([request("a", until=[])])
    with pytest.raises(UserError, match="has no chat template; leave --apply_chat_template out"):
        model.apply_chat_template([{"role": "user", "content": "a"}])
    with pytest.raises(UserError, match="empty"):
        model.generate_until([request("")])
    with pytest.raises(UserError, match="unknown 'entropybound'; did you mean 'entropy_bound'"):
        harness.DiffpoLM(str(base), entropybound=1.0)
    with pytest.raises(UserError, match="leave entropy_bound out"):
        harness.DiffpoLM(str(base), entropy_bound=1.0, price=0.1)
    with pytest.raises(UserError, match="dtype"):
        harness.DiffpoLM(str(base), dtype="float99")
    assert [harness.device_of(name) for name in (None, "cuda:0", "cpu")] == ["auto", "auto", "cpu"]
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=3"):
        harness.DiffpoLM(str(base), device="cuda:3")


def test_the_command_is_lm_evals(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(harness, "cli_evaluate", lambda: seen.append(sys.argv))
    before = sys.argv
    for words in (["--tasks", "a"], ["run", "--model", "hf"], ["ls", "tasks"], ["--model=hf"]):
        harness.run_harness(words)
    assert seen == [
        ["lm_eval", "--tasks", "a", "--model", "diffpo"],
        ["lm_eval", "run", "--model", "hf"],
        ["lm_eval", "ls", "tasks"],
        ["lm_eval", "--model=hf"],
    ]
    assert sys.argv is before


def test_without_the_harness_it_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("diffpo.cli.lm_eval_command.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        main(["lm-eval", "--tasks", "gsm8k"])
    assert ended.value.code == 2
    assert "pip install 'diffpo[lm-eval]'; or use diffpo eval" in capsys.readouterr().err
