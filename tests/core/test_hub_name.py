"""Hub names and their parts."""

import pytest

from diffpo.core.hub_name import HubName, parse_hub_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GSAI-ML/LLaDA-8B-Instruct", HubName("GSAI-ML/LLaDA-8B-Instruct")),
        ("a/b_c.d@v1.0", HubName("a/b_c.d", "v1.0")),
        ("a/b@refs/pr/3", HubName("a/b", "refs/pr/3")),
        ("openai/gsm8k:main", HubName("openai/gsm8k", None, "main")),
        ("openai/gsm8k@refs/pr/1:main", HubName("openai/gsm8k", "refs/pr/1", "main")),
    ],
)
def test_a_hub_name_has_up_to_three_parts(text: str, expected: HubName) -> None:
    assert parse_hub_name(text) == expected


PATHS = ["", "name", "./a/b", "/a/b", "../a", "a/b/c", "~/a", "a/", "a b/c", "a/../b", "a@b/c"]
INCOMPLETE = ["a/b@", "a/b@c d", "a/b@/c", "a/b@c@d", "a/b:", "a/b:c/d", "a/b:c@d"]


@pytest.mark.parametrize("text", [*PATHS, *INCOMPLETE])
def test_other_texts_are_no_hub_names(text: str) -> None:
    assert parse_hub_name(text) is None
