"""What is played back: the calls, clues and mistakes of grids, the tokens of texts, and by which rule."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers.report_runs import fake_run

from diffpo.report.data import Arm, PlaybackCompletion, ReportedRun
from diffpo.report.page import render
from diffpo.report.playback import MOST_TOKENS, Board, player
from diffpo.report.sentences import rules
from diffpo.report.sources import read_run

GRID = PlaybackCompletion("." * 35 + "1=", "1" * 36, "1" * 35 + "2", tuple(range(36)), (), 36, False, None, 1)
TEXT = PlaybackCompletion(
    "How many?", "a b", "b", (1, 0, 2), (), 3, False, 0.5, tokens=("a", " b", "<|end|>"), special=(2,)
)


def board(found: PlaybackCompletion) -> Board:
    played = player([Arm("d1", playback=(found,))], {})
    assert played is not None
    (play,) = (*played.grids, *played.texts)
    (only,) = play.boards
    assert only is not None
    return only


def test_a_box_of_six_by_six_is_two_rows_high() -> None:
    found = board(GRID)
    assert (found.verdict, found.columns) == ("1 wrong", 6)
    assert [i for i in range(36) if "box-right" in found.cells[i].classes] == list(range(2, 36, 6))
    assert [i for i in range(36) if "box-below" in found.cells[i].classes] == [*range(6, 12), *range(18, 24)]
    last = found.cells[35]
    assert (last.classes, last.given, last.description) == ("clue wrong", "1", "call 36, a clue, should be 2")
    assert found.cells[0].given == ""


def test_of_a_solved_grid_nothing_is_wrong_and_text_has_no_wrong_tokens() -> None:
    assert not any("wrong" in cell.classes for cell in board(replace(GRID, is_solved=True)).cells)
    found = board(TEXT)
    assert found.columns is None and found.verdict == "wrong"
    assert board(replace(TEXT, is_solved=True)).verdict == "right"
    assert board(replace(TEXT, answer="")).verdict == "not solved", "without an answer nothing is right or wrong"
    assert not any("wrong" in cell.classes for cell in found.cells)


@pytest.mark.parametrize("change", [{"clues": None}, {"prompt": "Solve " + "." * 36}, {"prompt": "." * 35 + "\u202e"}])
def test_what_is_no_grid_is_text(change: dict[str, str | None]) -> None:
    assert board(replace(GRID, **change)).columns is None  # type: ignore[arg-type]


def test_tokens_are_shown_by_what_they_add_and_special_ones_by_their_name() -> None:
    found = board(TEXT)
    assert [(str(cell.text), cell.call, cell.classes) for cell in found.cells] == [
        ("a", 2, "first"),
        (" b", 1, "first"),
        ("&lt;|end|&gt;", 3, "special first"),
    ]


def test_equal_special_tokens_of_one_call_stand_as_one_and_others_do_not() -> None:
    ends = replace(TEXT, tokens=("x", "x", *["<e>"] * 4), special=(2, 3, 4, 5), unmask_step=(0, 0, 1, 1, 1, 2))
    found = board(ends)
    assert [str(cell.text) for cell in found.cells] == ["x", "x", "&lt;e&gt; \N{MULTIPLICATION SIGN}3", "&lt;e&gt;"]
    assert [cell.call for cell in found.cells] == [1, 1, 2, 3]
    assert ["first" in cell.classes for cell in found.cells] == [True, False, True, True]


def test_a_record_without_tokens_is_cut_into_characters_where_these_are_tokens() -> None:
    found = board(replace(TEXT, tokens=(), special=()))
    assert [str(cell.text) for cell in found.cells] == ["a", " ", "b"]
    found = board(replace(TEXT, tokens=(), special=(), unmask_step=(1, 0)))
    assert [(str(cell.text), cell.call) for cell in found.cells] == [("", 2), ("a b", 1)]
    assert board(replace(TEXT, tokens=(), special=(), unmask_step=())).cells == ()


def test_a_very_long_completion_is_cut_and_it_is_said() -> None:
    length = MOST_TOKENS + 7
    found = board(replace(TEXT, tokens=("x",) * length, special=(), unmask_step=(0,) * length))
    assert (len(found.cells), found.left_out) == (MOST_TOKENS, 7)


def test_one_clock_runs_for_all_and_a_missing_completion_leaves_its_place() -> None:
    other = replace(GRID, prompt="1" + "." * 35, nfe=40)
    played = player([Arm("base"), Arm("d1", playback=(GRID, other)), Arm("x", playback=(GRID,))], {})
    assert played is not None
    assert (played.arms, played.calls) == (("d1", "x"), 40)
    assert [[found is not None for found in play.boards] for play in played.grids] == [[True, True], [True, False]]
    assert played.solved(0, played.grids) == "0 of 2" and player([Arm("base")], {}) is None
    assert played.shades[1] == 0.0
    assert played.shades[36] == pytest.approx(0.971), "log(36) / log(40): one scale for all"
    assert played.ramp == [1, 2, 4, 8, 16, 32, 36]


def test_the_rule_is_named_and_another_than_that_of_the_figures_is_told() -> None:
    def named(completion: PlaybackCompletion, rule: str) -> str:
        played = player([Arm("d1", playback=(completion,))], {"d1": rule})
        assert played is not None
        assert played.has_other_rules == ("not the rule above" in played.rules["d1"])
        return played.rules["d1"]

    assert named(replace(TEXT, rule="top-k 2"), "top-k 2") == "top-k 2"
    assert named(replace(TEXT, rule="top-k 2"), "top-k 4") == "top-k 2 (not the rule above)"
    assert named(replace(TEXT, rule="learned"), "learned") == "its learned sampler"
    assert named(TEXT, "entropy bound 0.5") == "entropy bound 0.5", "a record of before has the bound alone"
    assert named(TEXT, "entropy bound 1") == "entropy bound 0.5 (not the rule above)"
    assert named(replace(TEXT, entropy_bound=None), "x") == "a rule that the record does not name"


def test_the_page_plays_back_the_rules_of_its_figures(tmp_path: Path) -> None:
    run = read_run(fake_run(tmp_path / "demo"))
    played = player(run.arms, rules(run.arms))
    assert played is not None and not played.has_other_rules
    assert played.rules == {"base": "entropy bound 0.2", "d1": "entropy bound 0.2", "DiFFPO": "its learned sampler"}
    assert [play.title for play in played.grids] == ["5 clues"]
    html = render(run)
    assert "answered by the rules of the figures at the top" in html.replace("\n", " ")
    assert "They are shown, not measured" in html
    assert html.count('class="board by-4"') == 3 and html.count(" wrong</span>") == 2
    assert html.count('data-given="') == 3 * 6


def test_which_prompts_are_shown_is_said_as_far_as_the_record_says_it() -> None:
    def choice(*completions: PlaybackCompletion) -> str:
        found = player(
            [Arm("d1", playback=tuple(replace(c, prompt=f"{i}" * 36) for i, c in enumerate(completions)))], {}
        )
        assert found is not None
        return found.choice

    easy, hard = (replace(GRID, difficulty=f"{clues} clues") for clues in (9, 4))
    assert choice(easy, hard) == "The first puzzle of each of 2 difficulties of the evaluation"
    assert choice(easy, hard, hard) == choice(easy) == choice(GRID, GRID) == "The first puzzles of the evaluation"
    text = replace(TEXT, difficulty="level 1")
    assert choice(text, replace(text, difficulty="level 2")) == (
        "The first prompt of each of 2 difficulties of the evaluation (as the column level of the data names them)"
    )
    assert choice(TEXT, TEXT) == "The first prompts of the evaluation"


def test_the_right_answer_of_a_text_is_shown_and_that_of_a_grid_is_in_its_cells() -> None:
    def answers(*completions: PlaybackCompletion) -> list[str]:
        arms = [Arm(f"a{i}", playback=(completion,)) for i, completion in enumerate(completions)]
        found = player(arms, {})
        assert found is not None
        (play,) = (*found.grids, *found.texts)
        return list(map(str, play.answers))

    assert answers(TEXT, TEXT) == ["b"]
    assert answers(TEXT, replace(TEXT, answer="<c>")) == ["b", "&lt;c&gt;"]
    assert answers(replace(TEXT, answer="")) == answers(GRID) == []
    html = render(ReportedRun("r", (Arm("d1", playback=(TEXT,)),)))
    assert 'Right answer: <bdi class="text">b</bdi>' in html and '<span class="bad">wrong</span>' in html
