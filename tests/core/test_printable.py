"""What others have written reaches no terminal as it is: no control sequence, no password."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest

from diffpo.core.output import guarded_streams, say, show, warn
from diffpo.core.printable import printable
from diffpo.runs.progress import ProgressBar

EVIL = "a\x1b[31m\x1b]0;t\x07\x9b2J\r\x00\u202eb\u2066\u2028\ud800\x7f"
SAFE = r"a\x1b[31m\x1b]0;t\x07\x9b2J\r\x00\u202eb\u2066\u2028\ud800\x7f"
"""Colours, a title, C1, a carriage return, NUL, marks that turn the line round, half a surrogate pair, DEL."""


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_what_does_not_print_is_escaped_and_the_rest_stays() -> None:
    assert printable(EVIL) == SAFE
    same = "Ünïcode 漢字 \u3000\xa0 🙂\n\ttab \\x1b"
    assert printable(same) == same


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://me:pass@hub.example/x", "at https://***@hub.example/x"),
        ("https://token@h and http://a:b@c@h:9", "https://***@h and http://***@h:9"),
        ("https://h/me@x https://h?q=a@b me@x", "https://h/me@x https://h?q=a@b me@x"),
        ("Bearer hf_abcdefghijklmnopqrst\\n", "Bearer ***\\n"),
    ],
)
def test_passwords_are_hidden(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_password_of_the_environment_is_hidden_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://me:secret-word@hub.example")
    monkeypatch.setenv("https_proxy", "http://proxy.example:8080")
    monkeypatch.setenv("HF_TOKEN", "a-token")
    assert printable("nonnumeric port: 'secret-word@hub', Bearer a-token") == "nonnumeric port: '***@hub', Bearer ***"
    assert printable("http://proxy.example:8080") == "http://proxy.example:8080"


def test_all_that_prints_escapes() -> None:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        show(EVIL)
        say(EVIL)
        warn(EVIL)
    assert (out.getvalue(), err.getvalue()) == (f"{SAFE}\n{SAFE}\n", f"{SAFE}\n")


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_progress_escapes_labels_metrics_and_warnings(kind: type[io.StringIO]) -> None:
    with redirect_stdout(kind()) as out, ProgressBar(f"[red]{EVIL}", 2, min_gap=0.0) as bar:
        bar.update(1, note=EVIL)
        bar.warn("of {name}", name=EVIL)
    for part in ("\x1b]0", "\x9b", "\u202e", "\ud800", "\x07"):
        assert part not in out.getvalue()
    assert r"\u202e" in out.getvalue()


def test_what_libraries_print_to_stderr_is_escaped_but_for_their_progress_bars(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with redirect_stderr(io.StringIO()) as err:
        with guarded_streams():
            for text in ("\rbar 1/2", "\n", "\x1b[A", EVIL):
                print(text, end="", file=sys.stderr)
        sys.excepthook(ValueError, ValueError(EVIL), None)
    assert err.getvalue() == f"\rbar 1/2\n\x1b[A{SAFE}ValueError: {SAFE}\n"
