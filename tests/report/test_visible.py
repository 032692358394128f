"""What a model writes shows, character by character, and moves nothing around it."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from diffpo.report.visible import visible, visible_characters


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b\tc", "a b\tc"),
        ("a\nb", 'a<b class="mark">⏎</b>\nb'),
        ("<script>&", "&lt;script&gt;&amp;"),
        ("\0", '<b class="mark">␀</b>'),
        ("\x1b\x7f", '<b class="mark">␛</b><b class="mark">␡</b>'),
        ("\u202e", '<b class="mark">U+202E</b>'),
        ("\u200b\u200b\u200b", '<b class="mark">U+200B\N{MULTIPLICATION SIGN}3</b>'),
        ("\ud800", '<b class="mark">U+D800</b>'),
        ("\xa0\u3164", '<b class="mark">U+00A0</b><b class="mark">U+3164</b>'),
        ("é数🙂", "é数🙂"),
    ],
)
def test_characters_that_do_not_show_are_named(text: str, shown: str) -> None:
    assert visible(text) == Markup(shown)


@given(st.text(st.characters(categories=["L", "N", "Cc", "Cf", "Cs", "Zs", "Zl", "Zp"])))
def test_nothing_that_is_left_turns_a_line_round_or_is_unseen(text: str) -> None:
    for found in (str(visible(text)).replace("\n", "").replace("\t", ""), visible_characters(text.strip())):
        left = {unicodedata.category(character) for character in found if character not in "\n\t"}
        assert not left & {"Cc", "Cf", "Cs", "Zl", "Zp"}
