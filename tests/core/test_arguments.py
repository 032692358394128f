"""What a call is given is checked, whatever its type; of prompts each is named."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpo.api.completed import prompts_of
from diffpo.core.arguments import (
    given_count,
    given_path,
    given_resume,
    given_seed,
    given_switch,
    given_temperature,
)
from diffpo.core.errors import UserError

WRONG: list[tuple[Callable[..., Any], tuple[object, ...], str]] = [
    (given_path, (b"run", "out"), "out is b'run'; give a path, a text or a pathlib.Path"),
    (given_path, ("", "out"), "out is empty; give a path ('.' is the current folder)"),
    (given_path, ("a\0", "out"), "out has a NUL character, which no path has; leave it out"),
    (given_resume, ("yes",), "resume is 'yes'; give True, False, or 'auto', which goes on only where there is a run"),
    (given_resume, (1,), "resume is 1; give True, False, or 'auto', which goes on only where there is a run"),
    (given_switch, (1, "extend"), "extend is 1; give True or False"),
    (given_count, (True, "length"), "length is True; give a whole number, at least 1"),
    (given_count, (0, "length"), "length is 0; give a whole number, at least 1"),
    (given_seed, (-1,), "seed is -1; give a whole number from 0 to 2**63 - 1"),
    (given_temperature, (math.nan,), "temperature is nan; give a finite number from 0 up"),
    (given_temperature, ([1],), "temperature is a list; give a finite number from 0 up"),
    (prompts_of, (None,), "prompts is None; give a text, or a list of texts or of conversations"),
    (prompts_of, ({"a"},), "prompts is a set; give a text, or a list of texts or of conversations"),
    (prompts_of, (["a", ""],), "prompts[1] is empty; give at least one character"),
    *(
        (prompts_of, ([[{"role": "user", "content": "1"}, message]],), f"prompts[0][1] {told}")
        for message, told in (
            ({"role": "boss", "content": "1"}, "has the role 'boss'; give one of system, user, assistant"),
            ({"role": "asistant", "content": "1"}, "has the role 'asistant'; give one of system, user, assistant; did"),
            ({"content": "1"}, "has no 'role'; give one of"),
            ({"role": "user"}, "has no 'content'; give a text"),
            ({"role": "user", "content": None}, "has the content None; give a text"),
            ({"role": "user", "content": ""}, "has an empty 'content'; give a text"),
        )
    ),
    (given_seed, (np.bool_(True),), "seed is a bool; give a whole number"),
    (given_count, (np.float64(2), "length"), "length is np.float64(2.0); give a whole number, at"),
    (given_count, (np.array([1, 2]), "length"), "length is a ndarray; give a whole number, at least 1"),
    *(
        (prompts_of, (prompts,), f"{told}; give a text, or a list of messages, each with 'role' (system, user, assist")
        for prompts, told in (
            (["a", 5], "prompts[1] is 5"),
            ([None], "prompts[0] is None"),
            ([{"role": "user", "content": "1"}], "prompts[0] is a dict"),
            ([[]], "prompts[0] is a list"),
        )
    ),
]


@pytest.mark.parametrize(("check", "given", "told"), WRONG, ids=[f"{case[0].__name__} {case[1]}" for case in WRONG])
def test_what_is_wrong_is_one_sentence(check: Callable[..., Any], given: tuple[object, ...], told: str) -> None:
    with pytest.raises(UserError) as caught:
        check(*given)
    assert str(caught.value).startswith(told)


def test_what_is_right_comes_back() -> None:
    assert given_path("runs/a", "out") == given_path(Path("runs/a"), "out") == Path("runs/a")
    assert [given_resume(value) for value in (True, False, "auto")] == [True, False, "auto"]
    assert given_switch(False, "extend") is False
    assert (given_count(np.int64(3), "length"), given_seed(np.uint8(4))) == (3, 4)
    assert type(given_count(np.int64(3), "length")) is int
    assert (given_count(1, "length"), given_seed(0), given_temperature(0)) == (1, 0, 0.0)
