"""`diffpo sample --file`: a file of prompts is completed whole or not at all, and a line that is wrong is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.helpers.chat_templates import LLADA, tokenizer_with

import diffpo
from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.evaluation import sample_file as completing
from diffpo.evaluation.prompt_file import encode_lines, read_prompts
from diffpo.models.chat import encode_prompt, encode_turns
from diffpo.tasks.sudoku import Sudoku

PROMPTS = [problem.prompt for problem in Sudoku(min_clues=13, max_clues=15).problems("test", 3, seed=0)]

Sample = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sample(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Sample:
    """Return a function that runs `diffpo sample` on the tiny model, and returns its exit code and what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, lines: list[object] | None = None) -> tuple[int, str, str]:
        if lines is not None:
            texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
            Path("in.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["sample", str(base), *arguments])
        return int(caught.value.code or 0), *capfd.readouterr()

    return run


def test_each_line_comes_back_with_its_completion(sample: Sample, base: Path) -> None:
    lines: list[object] = [{"prompt": prompt, "of mine": [None, number]} for number, prompt in enumerate(PROMPTS)]
    drawn_how = ("--temperature", "4", "--seed", "5", "--entropy-bound", "0.5")
    options = ["--file", "in.jsonl", "--out", "out.jsonl", *drawn_how]
    code, told, errors = sample(*options, "--batch", "2", lines=[*lines[:1], "  ", *lines[1:]])
    assert (code, errors) == (0, "")
    found = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    drawn = diffpo.complete(base, PROMPTS, temperature=4.0, seed=5, rule=diffpo.EntropyBound(0.5))
    for number, (line, own, expected) in enumerate(zip(lines, found, drawn, strict=True)):
        assert isinstance(line, dict)
        assert own == {**line, "completion": expected.text, "nfe": expected.nfe, "seed": 5 + number}
    mean = sum(completion.nfe for completion in drawn) / 3
    assert told.endswith(f"3 completions, {mean:.2f} denoiser calls each on average\nwrote out.jsonl\n")
    assert sample(*options, "--quiet") == (0, "out.jsonl\n", "")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "in.jsonl:2: not JSON"),
        ('{"prompt": "1", "x": NaN}', "in.jsonl:2: not JSON: NaN is no number of JSON's; write null, or a text"),
        ('{"prompt": "1", "x": [-Infinity]}', "in.jsonl:2: not JSON: -Infinity is no number of JSON's"),
        ('{"prompt": "1", "x": 1e999}', "in.jsonl:2: not JSON: 1e999 is no number of JSON's"),
        ("[1]", "in.jsonl:2: a JSON array"),
        ({"question": "1"}, "in.jsonl:2: field 'prompt' is missing; there are question"),
        ({"prompt": " "}, "in.jsonl:2: field 'prompt' should be a text, or a list of messages"),
        ({"prompt": []}, "in.jsonl:2: field 'prompt' should be a text"),
        ({"prompt": [{"role": "user"}]}, "in.jsonl:2: field prompt[0] has no 'content'; give a text"),
        ({"prompt": [{"role": "<|eot_id|>", "content": "1"}]}, "in.jsonl:2: field prompt[0] has the role '<|eot_id|>'"),
        ({"prompt": [{"role": "user", "content": 1}]}, "in.jsonl:2: field prompt[0] has the content 1; give a text"),
        (
            {"prompt": [{"role": "system", "content": "1"}, {"role": "user", "content": "1"}]},
            "in.jsonl:2: this model's tokenizer knows only the characters of",
        ),
        ('{"prompt": "1", "x": {"y": 1, "y": 2}}', "in.jsonl:2: field 'y' is there twice, with two values; keep one"),
        (
            {"prompt": PROMPTS[0], "nfe": 3},
            "in.jsonl:2: field 'nfe' is there already, and would be replaced; rename it",
        ),
        ({"prompt": "what?"}, "in.jsonl:2: this model's tokenizer knows only the characters of"),
    ],
)
def test_a_line_that_cannot_be_completed_is_named(sample: Sample, line: object, told: str) -> None:
    code, printed, errors = sample(
        *("--file", "in.jsonl", "--out", "out.jsonl", "--quiet"), lines=[{"prompt": PROMPTS[0]}, line]
    )
    assert (code, printed) == (2, "") and errors.startswith(f"diffpo: {told}") and errors.count("\n") == 1
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "what to complete? Give --prompt, or --file and --out"),
        (["--prompt", "1", "--out", "x"], "--out goes with --file"),
        (["--prompt", "1", "--system", "x"], "--system goes with --chat"),
        (["--prompt", "1", "--chat"], "--prompt and --chat both say what to complete"),
        (["--chat", "--length", "4"], "has no chat template, so there is no conversation with it; give --prompt"),
        (["--prompt", "1", "--file", "in.jsonl", "--out", "x"], "--prompt and --file both say what to complete"),
        (["--file", "in.jsonl"], "where to? Give --out"),
        (["--file", "in.jsonl", "--out", "in.jsonl"], "--out in.jsonl is the file of the prompts; choose another"),
        (["--file", "in.jsonl", "--out", "in.jsonl/x"], "cannot write in.jsonl/x"),
        (["--file", "in.jsonl", "--out", "x", "--seed", str(2**63 - 1)], "leaves no seeds for 2 lines"),
        (["--file", "in.txt", "--out", "x"], "in.txt should be a .jsonl file"),
        (["--file", "empty.jsonl", "--out", "x"], "empty.jsonl: the data set is empty"),
        (["--file", "in.jsonl", "--out", "x", "--price", "1"], "has no learned sampler"),
    ],
)
def test_options_that_do_not_go_together_are_one_sentence(sample: Sample, arguments: list[str], told: str) -> None:
    Path("in.txt").write_text("what?\n")
    Path("empty.jsonl").touch()
    code, printed, errors = sample(*arguments, lines=[{"prompt": prompt} for prompt in PROMPTS[:2]])
    assert (code, printed) == (2, "") and told in errors and errors.count("\n") == 1
    assert not Path("x").exists()


def test_a_file_that_is_there_stays_as_it_was_where_drawing_fails(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UserError("no")

    Path("out.jsonl").write_text('{"old": 1}\n')
    monkeypatch.setattr(completing, "decode_text", fail)
    code, _, errors = sample("--file", "in.jsonl", "--out", "out.jsonl", lines=[{"prompt": PROMPTS[0]}])
    assert (code, errors) == (2, "diffpo: no\n") and Path("out.jsonl").read_text() == '{"old": 1}\n'
    Path("out.jsonl").write_text("a table of mine\n")
    assert sample("--file", "in.jsonl", "--out", "out.jsonl")[0] == 2, "no file of this command's"


def test_messages_are_framed_by_the_models_template(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(LLADA)
    turns = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "?"},
    ]
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in ("1+1?", turns)), encoding="utf-8")
    lines = read_prompts(file)
    text, chat = encode_lines(tokenizer, lines, 4096, 8)
    assert text == encode_prompt(tokenizer, "1+1?") and chat == encode_turns(tokenizer, turns, is_answered=False)
    with pytest.raises(UserError, match=rf":2: the prompt has {len(chat)} tokens and its completion 8, and"):
        encode_lines(tokenizer, lines, len(chat) + 7, 8)
