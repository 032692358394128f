"""`diffpo sample`: a completion shown while it is drawn, its text alone, and a conversation."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tests.helpers.chat_templates import LLADA, tokenizer_with

from diffpo.cli import show_completion
from diffpo.cli.live_canvas import COLOURS, ENDED, LiveCanvas, canvas_texts
from diffpo.cli.show_completion import run_chat, run_sample
from diffpo.core.conversation import Prompt, Turn
from diffpo.core.errors import UserError
from diffpo.core.rollout import Rollout
from diffpo.evaluation.completing import draw_completions
from diffpo.evaluation.sample_settings import SampleSettings
from diffpo.models.loading import make_denoiser
from diffpo.models.tokenizer import char_tokenizer
from diffpo.recipes.tables import DeviceSettings, TinyModel
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import Policy
from diffpo.sampling.rules import EntropyBound, TopK
from diffpo.training.sft import tiny_llada

SMALL = TinyModel(d_model=16, n_layers=1, n_heads=2, mlp_hidden_size=16)
LENGTH = 12
DRAWN = SampleSettings(LENGTH, entropy_bound=0.0, temperature=1.0, seed=3)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def policy() -> Policy:
    """A model without training that writes letters and many line breaks, and has no chat template."""
    tokenizer = char_tokenizer("ab\n")
    return Policy(make_denoiser(tiny_llada(SMALL, tokenizer, 0), tokenizer), tokenizer)


@pytest.fixture(scope="module")
def chatting() -> Policy:
    tokenizer = tokenizer_with(LLADA)
    return Policy(make_denoiser(tiny_llada(SMALL, tokenizer, 0), tokenizer), tokenizer)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Callable[[Policy], None]:
    """Return a function that makes a policy what any model's name stands for."""
    return lambda policy: monkeypatch.setattr(show_completion, "load", lambda *_: policy)


def drawn(policy: Policy, decoding: Decoding, view: LiveCanvas | None = None) -> Rollout:
    return draw_completions(policy, ["ab"], decoding, 3, view.observe if view else None)


@pytest.mark.parametrize("block_length", [LENGTH, 4])
def test_what_each_call_commits_is_known_when_the_next_begins(policy: Policy, block_length: int) -> None:
    decoding = Decoding(TopK(2), LENGTH, block_length, temperature=1.0)
    view = LiveCanvas(policy.tokenizer, LENGTH, {})
    rollout = drawn(policy, decoding, view)
    ids, calls = rollout.completion_ids[0].tolist(), rollout.unmask_step[0].tolist()
    is_known = [call < int(rollout.nfe) - 1 for call in calls]
    assert sum(is_known) >= 2
    assert view._token == [token if known else None for token, known in zip(ids, is_known, strict=True)]
    assert [view._call[i] for i, known in enumerate(is_known) if known] == (
        [call for call, known in zip(calls, is_known, strict=True) if known]
    )
    assert torch.equal(rollout.completion_ids, drawn(policy, decoding).completion_ids)


def test_tokens_stand_at_their_places_with_line_breaks_and_marks(policy: Policy) -> None:
    a, line_break = policy.tokenizer.convert_tokens_to_ids(["a", "\n"])
    end = policy.tokenizer.eos_token_id
    assert canvas_texts(policy.tokenizer, [a, None, line_break, a, None, end], {end: ENDED}) == (
        ["a", "_", "\n", "a", "_", "·"]
    )


def frames_of(text: str) -> list[str]:
    """Return what a terminal shows between two moves of its cursor, without colours."""
    return [re.sub("\x1b\\[[?0-9;]*[a-z]", "", frame) for frame in re.split("\x1b\\[[0-9]*[AK]|\r", text)]


@pytest.mark.parametrize("columns", [80, 7])
def test_a_terminal_shows_it_live_and_keeps_the_text(
    columns: int, policy: Policy, loaded: Callable[[Policy], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "xterm-256color")
    loaded(policy)
    with redirect_stdout(Terminal()) as stdout:
        run_sample("any", "ab", DRAWN, DeviceSettings())
    shown = stdout.getvalue()
    frames = frames_of(shown)
    assert any(f"{'_' * min(columns, LENGTH)}" in frame for frame in frames) and any("call 1" in f for f in frames)
    live = [frame for frame in frames if "call " in frame]
    assert len(live) == 12 and max(len(line) for frame in live for line in frame.split("\n")) <= columns
    rollout = drawn(policy, Decoding(EntropyBound(0.0), LENGTH, LENGTH, 1.0))
    ends = dict.fromkeys(policy.denoiser.stop_ids, ENDED)
    text = "".join(canvas_texts(policy.tokenizer, rollout.completion_ids[0].tolist(), ends))
    assert "\n" in text
    codes = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36}
    letters = [(mark, call) for mark, call in zip(text, rollout.unmask_step[0].tolist(), strict=False) if mark in "ab"]
    for mark, call in letters[:1]:
        assert f"\x1b[{codes[COLOURS[call % len(COLOURS)]]}m{mark}\x1b[0m" in shown
    assert f"{text}\n{int(rollout.nfe)} denoiser calls" in "".join(frames_of(shown))


def test_elsewhere_each_call_is_a_line(
    policy: Policy, loaded: Callable[[Policy], None], capsys: pytest.CaptureFixture[str]
) -> None:
    loaded(policy)
    run_sample("any", "ab", DRAWN, DeviceSettings())
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"{len(lines)} denoiser calls, entropy bound 0"
    canvases = [line[6:].replace("<|pad|>", "P") for line in lines]
    assert {len(canvas) for canvas in canvases} == {LENGTH} and "↵" in canvases[-1] and "\x1b" not in "".join(lines)
    for before, after in pairwise(canvases):
        assert all(old in ("_", new) for old, new in zip(before, after, strict=True))


def test_quiet_prints_the_text_alone(
    policy: Policy, loaded: Callable[[Policy], None], capsys: pytest.CaptureFixture[str]
) -> None:
    loaded(policy)
    run_sample("any", "ab", replace(DRAWN, is_quiet=True), DeviceSettings())
    ids = drawn(policy, Decoding(EntropyBound(0.0), LENGTH, LENGTH, 1.0)).completion_ids[0].tolist()
    kept = ids[: ids.index(policy.tokenizer.eos_token_id)] if policy.tokenizer.eos_token_id in ids else ids
    assert capsys.readouterr().out == policy.tokenizer.decode(kept) + "\n"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Prompt, int]]:
    """What the model is asked, with the seed."""
    found: list[tuple[Prompt, int]] = []

    def draw(policy: Policy, prompts: list[Prompt], decoding: Decoding, seed: int, *rest: object) -> Rollout:
        found.append((prompts[0], seed))
        return draw_completions(policy, prompts, decoding, seed)

    monkeypatch.setattr(show_completion, "draw_completions", draw)
    return found


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> Iterator[str]:
    """Let a user type these lines; returns what is left of them."""
    left = iter(lines)

    def read(prompt: str) -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    return left


def test_a_conversation_is_kept_until_it_is_forgotten(
    chatting: Policy,
    loaded: Callable[[Policy], None],
    asked: list[tuple[Prompt, int]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaded(chatting)
    left = typed(monkeypatch, "1+1?", " ", "and 2?", "/new", "who?", "/exit", "never")
    run_chat("any", "Be brief.", SampleSettings(4, 10.0, temperature=1.0, seed=7, is_quiet=True), DeviceSettings())
    system = Turn("system", "Be brief.")
    (one, two, three) = asked
    assert one == ((system, Turn("user", "1+1?")), 7)
    assert not isinstance(two[0], str)
    *before, reply, last = two[0]
    assert tuple(before) == one[0] and reply[0] == "assistant" and last == Turn("user", "and 2?") and two[1] == 8
    assert three == ((system, Turn("user", "who?")), 9)
    assert list(left) == ["never"]


def test_a_turn_without_room_is_told_and_forgotten(
    chatting: Policy,
    loaded: Callable[[Policy], None],
    asked: list[tuple[Prompt, int]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaded(chatting)
    monkeypatch.setattr(Policy, "most_tokens", 64)
    typed(monkeypatch, "1" * 100, "1?")
    run_chat("any", None, SampleSettings(4, 10.0, is_quiet=True), DeviceSettings())
    assert "tokens and its completion 4, and the model takes 64 together; shorten it" in capsys.readouterr().out
    assert asked[1][0] == (Turn("user", "1?"),)


def test_a_model_without_a_template_does_not_chat(policy: Policy, loaded: Callable[[Policy], None]) -> None:
    loaded(policy)
    with pytest.raises(UserError, match="any has no chat template, so there is no conversation with it"):
        run_chat("any", None, SampleSettings(4), DeviceSettings())
