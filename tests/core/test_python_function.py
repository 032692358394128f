"""Functions that are handed over: their recorded names, and fingerprints that tell one from another."""

import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from diffpo.core.python_function import fingerprint, is_python_name, recorded_name, short_name, source_of
from diffpo.core.user_code import load_user_code


def of_module(completions: list[str]) -> list[float]:
    return [1.0 for _ in completions]


class Scaled:
    def __init__(self, scale: float) -> None:
        self.scale, self.seen = scale, list[str]()

    def __call__(self, completions: list[str]) -> list[float]:
        self.seen += completions
        return [self.scale for _ in completions]


def made(bonus: float) -> Callable[..., Any]:
    log: list[float] = []

    def paid(completions: list[str]) -> list[float]:
        log.append(bonus)
        return [bonus for _ in completions]

    return paid


def from_cell(source: str) -> Callable[..., Any]:
    """The function `f` as a console defines it: its module is `__main__`, and its source is not known."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(textwrap.dedent(source), names)
    found: Callable[..., Any] = names["f"]
    return found


def test_functions_of_modules_and_files_are_named_as_they_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_user_code(recorded_name(of_module), "reward", "function") is of_module
    (tmp_path / "own_rewards.py").write_text("def f(completions):\n    return [1.0 for _ in completions]\n")
    monkeypatch.syspath_prepend(tmp_path)
    import own_rewards  # type: ignore[import-not-found]

    assert recorded_name(own_rewards.f) == f"{tmp_path}/own_rewards.py:f"
    monkeypatch.chdir(tmp_path)
    assert recorded_name(own_rewards.f) == "own_rewards.py:f"
    assert load_user_code("own_rewards.py:f", "reward", "function")(["a"]) == [1.0]


@pytest.mark.parametrize(
    ("function", "called"),
    [(made(1.0), "paid"), (lambda c: c, "lambda"), (Scaled(1.0), "Scaled"), (partial(of_module), "of_module")],
)
def test_what_no_file_holds_has_a_name_of_its_own(function: Callable[..., Any], called: str) -> None:
    name = recorded_name(function)
    assert is_python_name(name) and short_name(name) == called and name.startswith(f"python:{called}#")
    assert (f"{called}" in source_of(function)) and name == recorded_name(function)


def test_a_fingerprint_is_of_the_code_and_not_of_its_form() -> None:
    plain, commented, other = (
        from_cell(f"def f(completions):{comment}\n  return [{value} for _ in completions]")
        for comment, value in (("", 1.0), ("  # one each", 1.0), ("", 2.0))
    )
    assert fingerprint(plain) == fingerprint(commented) != fingerprint(other)
    assert source_of(plain) == ""
    twice = [lambda c: [len(text) for text in c], lambda c: [len(text) + 1 for text in c]]
    assert fingerprint(twice[0]) != fingerprint(twice[1]), "two lambdas of one line"


def test_a_fingerprint_tells_caught_values_and_not_what_fills_up() -> None:
    half, other = made(0.5), made(0.25)
    before = fingerprint(half)
    half(["a"])
    assert fingerprint(half) == before == fingerprint(made(0.5)) != fingerprint(other)
    scaled = Scaled(2.0)
    before = fingerprint(scaled)
    scaled(["a"])
    assert fingerprint(scaled) == before == fingerprint(Scaled(2.0)) != fingerprint(Scaled(3.0))
    halves = [partial(of_module, completions=text) for text in (["a"], ["b"])]
    assert fingerprint(halves[0]) == fingerprint(halves[1]) != fingerprint(of_module)


def test_a_comment_makes_no_other_function(tmp_path: Path) -> None:
    """Of functions whose source is known it is the source that counts, as its meaning is the same in every Python."""
    sources = {"bare": "    return [1.0]\n", "told": "    # one\n    return [ 1.0 ]\n", "other": "    return [2.0]\n"}
    found = {}
    for name, body in sources.items():
        file = tmp_path / f"{name}.py"
        file.write_text(f"def f(completions):\n{body}")
        found[name] = fingerprint(load_user_code(f"{file}:f", "reward", "function"))
    assert found["bare"] == found["told"] != found["other"]
