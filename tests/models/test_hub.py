"""Models of the hub: the cached copy is used, else a download without its Python; errors are one sentence."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tests.helpers.published import LLADA, write_folder

from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.models import hub
from diffpo.models.hub import fetch, is_hub_name
from diffpo.models.model_paths import model_folder
from diffpo.sampling.controller import Controller
from diffpo.sampling.controller_files import save_controller
from diffpo.sampling.policy import load

NAME = "GSAI-ML/LLaDA-8B-Instruct"


class FakeHub:
    """A stand-in for the hub: it records what it is asked and answers as it is told."""

    def __init__(self) -> None:
        self.cached: Path | None = None
        self.online: Path | None = None
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[], None] = lambda: None

    def download(self, name: str, **options: Any) -> str:
        self.asked.append({"name": name, **options})
        folder = self.cached if options.get("local_files_only") else self.online
        if folder is None:
            raise LocalEntryNotFoundError("not cached")
        return str(folder)

    def info(self, *_arguments: Any, **_options: Any) -> None:
        self.answer()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    fake = FakeHub()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "snapshot_download", fake.download)
    monkeypatch.setattr(HfApi, "repo_info", fake.info)
    return fake


def unreachable() -> None:
    raise ConnectionError("Name or service not known")


def test_what_is_a_name_and_what_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert all(map(is_hub_name, [NAME, "apple/DiffuCoder-7B-cpGRPO", "a/b_c.d"]))
    assert all(map(is_hub_name, [f"{NAME}@main", f"{NAME}@v1.0", "a/b@refs/pr/3"]))
    assert not any(map(is_hub_name, ["runs/base@main", "a/b@", "a@b/c", "a/b@c d", "a/b@/c", "a/b@c@d"]))
    paths = ["runs/base", "base", "./a/b", "/a/b", "../a", "a/b/c", "~/a", "a/", "a b/c", "a/../b"]
    assert not any(map(is_hub_name, paths))


def test_a_cached_model_is_loaded_without_asking(fake: FakeHub, tmp_path: Path) -> None:
    fake.cached, fake.answer = tmp_path / "cache", unreachable
    write_folder(fake.cached, LLADA)
    policy = load(NAME)
    denoiser = policy.denoiser
    controller = policy.controller
    assert (denoiser.mask_id, controller) == (260, None)


@pytest.mark.parametrize("lost", ["config.json", "tokenizer.json", "model-00002-of-00002.safetensors"])
def test_half_a_cached_model_is_completed(lost: str, fake: FakeHub, tmp_path: Path) -> None:
    fake.cached, fake.online = tmp_path / "cache", tmp_path / "whole"
    for folder in (fake.cached, fake.online):
        write_folder(folder, LLADA, num_shards=2)
    (fake.cached / lost).unlink()
    assert model_folder(Path(NAME)) == fake.online


def test_a_models_python_is_not_even_fetched(fake: FakeHub, tmp_path: Path) -> None:
    fake.online = tmp_path
    model_folder(Path(NAME))
    assert [asked["name"] for asked in fake.asked] == [NAME, NAME]
    for asked in fake.asked:
        assert asked["repo_type"] == "model"
        assert not any(pattern.endswith(("py", "*", "bin")) for pattern in asked["allow_patterns"])


def test_a_revision_is_asked_for_by_itself_and_stays_in_the_name(fake: FakeHub, tmp_path: Path) -> None:
    fake.cached = tmp_path / "cache"
    write_folder(fake.cached, LLADA)
    denoiser = load(f"{NAME}@refs/pr/3").denoiser
    load(NAME)
    assert [(asked["name"], asked["revision"]) for asked in fake.asked] == [(NAME, "refs/pr/3"), (NAME, None)]
    assert denoiser.model.name_or_path == f"{NAME}@refs/pr/3", "by which an adapter finds its base"


def test_a_revision_that_is_not_cached_is_fetched(fake: FakeHub, tmp_path: Path) -> None:
    fake.online = tmp_path
    assert model_folder(Path(f"{NAME}@v2")) == tmp_path
    assert [asked["revision"] for asked in fake.asked] == ["v2", "v2"]


def test_a_revision_that_is_not_there_and_one_out_of_reach(fake: FakeHub) -> None:
    def unknown() -> None:
        raise RevisionNotFoundError.__new__(RevisionNotFoundError)

    fake.answer = unknown
    with pytest.raises(UserError, match=f"the model {NAME} on the hub has no revision v9; name a branch, a tag or a"):
        load(f"{NAME}@v9")
    fake.answer = unreachable
    with pytest.raises(UserError, match=f"run `hf download {NAME} --revision v9 --local-dir LLaDA-8B-Instruct`"):
        load(f"{NAME}@v9")


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_hub_out_of_reach_is_one_sentence_with_the_way_out(
    kind: hub.Kind, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://me:secret@hub.example")
    fake.answer = unreachable
    with pytest.raises(UserError) as caught:
        fetch("openai/gsm8k", kind, ["*.json"], lambda _: True)
    message = str(caught.value)
    assert message.startswith("the data set openai/gsm8k" if kind == "dataset" else "the model openai/gsm8k")
    option = " --repo-type dataset" if kind == "dataset" else ""
    assert f"run `hf download openai/gsm8k{option} --local-dir gsm8k`" in message
    assert "ConnectionError" in message
    assert "\n" not in message
    assert "https://***@hub.example" in message and "secret" not in message


def test_a_hub_that_is_silent_is_given_up_in_time(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.ANSWER_WITHIN < 5
    monkeypatch.setattr(hub, "ANSWER_WITHIN", 0.2)
    fake.answer = lambda: time.sleep(30)
    started = time.perf_counter()
    with pytest.raises(UserError, match="cannot be reached \\(TimeoutError\\)"):
        load(NAME)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("kind", [RepositoryNotFoundError, HFValidationError])
def test_a_name_that_the_hub_does_not_know(kind: type[Exception], fake: FakeHub) -> None:
    def unknown() -> None:
        raise kind.__new__(kind)

    fake.answer = unknown
    with pytest.raises(UserError, match="neither a folder here nor a model on the hub; check the name"):
        load(NAME)


@pytest.fixture
def sums(tmp_path: Path) -> str:
    """The override for a task whose data are here."""
    file = tmp_path / "sums.jsonl"
    rows = [{"question": f"What is {i} + 1?", "answer": f"#### {i + 1}"} for i in range(200)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"task={{kind='gsm8k', source='{file}', completion_length=16, instructions=''}}"


def code_of(*arguments: str) -> object:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code


def test_a_hub_model_is_evaluated_and_sampled_by_the_learned_sampler_beside_it(
    fake: FakeHub, sums: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.cached, fake.answer = tmp_path / "cache", unreachable
    write_folder(fake.cached, LLADA)
    save_controller(Controller(initial_bound=4.0, hidden=8), fake.cached)
    assert code_of("eval", NAME, sums, "count=3", "bounds=[9.0]", "threads=1") == 0
    record = json.loads((tmp_path / "eval-LLaDA-8B-Instruct.json").read_text())
    assert (record["arm"], record["task"], record["learned"]["n"]) == ("LLaDA-8B-Instruct", "gsm8k", 3)
    assert len(record["learned"]["bounds"]) == 3
    assert code_of("eval", NAME, sums, "count=3", "bounds=[9.0]", "threads=1", "--out", "mine.json") == 0
    assert json.loads((tmp_path / "mine.json").read_text()) == record
    assert code_of("eval", f"{NAME}@refs/pr/3", sums, "count=3", "bounds=[9.0]", "threads=1") == 0
    record |= {"arm": "LLaDA-8B-Instruct@refs-pr-3"}
    assert json.loads((tmp_path / "eval-LLaDA-8B-Instruct@refs-pr-3.json").read_text()) == record
    for given, bound in (([], "4"), (["--entropy-bound", "0"], "0")):
        capfd.readouterr()
        assert code_of("sample", NAME, "--prompt", "Hello", "--length", "8", *given) == 0
        out = capfd.readouterr().out
        assert out.rstrip().endswith(f"denoiser calls, entropy bound {bound}")
    assert "8 denoiser calls" in out, "one token at a time"


def test_what_a_hub_model_does_not_say_must_be_given(fake: FakeHub, capfd: pytest.CaptureFixture[str]) -> None:
    """Before anything is fetched."""
    assert code_of("eval", NAME) == 2
    assert code_of("sample", NAME, "--prompt", "?") == 2
    task, length = capfd.readouterr().err.splitlines()
    assert task.startswith(f"diffpo: no recipe.toml says which task {NAME} was trained on; give task.size=4 or 6, or")
    assert length.endswith("was trained on; give --length, the tokens of the completion")
    assert fake.asked == []


def test_a_prompt_longer_than_the_model_has_room_for_is_no_sample(
    fake: FakeHub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.cached = tmp_path / "cache"
    write_folder(fake.cached, LLADA)
    assert code_of("sample", NAME, "--prompt", "x" * 7, "--length", "4090") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "the prompt has 7 tokens and its completion 4090, and the model takes 4096 together; shorten it" in line


def test_the_command_says_it_and_ends_with_2(fake: FakeHub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fake.answer = unreachable
    (tmp_path / "rl.toml").write_text(f'base = "{NAME}"\nbudget.steps = 1\n')
    with pytest.raises(SystemExit) as caught:
        main(["rl", "rl.toml", "--out", "run"])
    assert caught.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"diffpo: the model {NAME} is neither a folder here nor cached, and the hub")
    assert not (tmp_path / "run").exists()
