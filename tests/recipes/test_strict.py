"""The recipe loader: everything wrong is said at once, and what is written reads back the same."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from diffpo.core.errors import UserError
from diffpo.recipes import Strict, diff_recipes, dump_recipe, files, load_recipe


class TopK(Strict):
    kind: Literal["top_k"]
    k: int = Field(default=1, ge=1)


class EntropyBound(Strict):
    kind: Literal["entropy_bound"]
    entropy_bound: float = Field(ge=0)


class Sampler(Strict):
    length: int = Field(default=16, ge=1)
    block_length: int = Field(default=16, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    rule: Annotated[TopK | EntropyBound, Field(discriminator="kind")] = TopK(kind="top_k")

    def problems(self) -> Iterator[str]:
        if self.length % self.block_length:
            yield f"length {self.length} cannot be divided by block_length {self.block_length}"


class Optimizer(Strict):
    lr: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    schedule: Literal["constant", "cosine"] = "constant"
    weights: dict[str, float] = Field(default_factory=dict)


class Run(Strict):
    name: str = "run"
    seed: int = 0
    is_logged: bool = False
    data: Path | None = None
    sampler: Sampler = Sampler(temperature=0.7)
    optimizer: Optimizer
    rules: tuple[TopK | EntropyBound, ...] = ()

    def problems(self) -> Iterator[str]:
        if self.sampler.temperature == 0 and self.seed:
            yield "a seed changes nothing at temperature 0"


def read(tmp_path: Path, text: str, *overrides: str) -> Run:
    file = tmp_path / "run.toml"
    file.write_text(text, encoding="utf-8")
    return load_recipe(Run, str(file), overrides)


def mistakes(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text, *overrides)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


GOOD = "[optimizer]\nlr = 3e-4\n"


def test_a_good_recipe_is_read_with_its_types(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        'data = "some/where"\n[optimizer]\nlr = 1\nbetas = [0, 0.5]\n'
        '[sampler.rule]\nkind = "entropy_bound"\nentropy_bound = 1\n[[rules]]\nkind = "top_k"\nk = 3\n',
    )
    assert recipe.data == Path("some/where")
    assert recipe.optimizer.lr == 1.0
    assert isinstance(recipe.optimizer.lr, float)
    assert recipe.optimizer.betas == (0.0, 0.5)
    assert recipe.sampler.rule == EntropyBound(kind="entropy_bound", entropy_bound=1.0)
    assert recipe.rules == (TopK(kind="top_k", k=3),)


def test_every_mistake_is_listed_at_once(tmp_path: Path) -> None:
    text = """
        sede = 3
        [sampler]
        tmeperature = 0.5
        length = 16
        block_length = 5
        rule = {kind = "entropy_bund", entropy_bound = 0.1}
        [optimizer]
        lr = nan
        betas = [0.9, "x"]
        schedule = "cosin"
        [[rules]]
        kind = "top_k"
        k = 0
        [[rules]]
        k = 2
    """
    assert mistakes(tmp_path, text) == [
        "sede: unknown option; did you mean 'seed'? (known: name, seed, is_logged, data, sampler, optimizer, rules)",
        "sampler.tmeperature: unknown option; did you mean 'temperature'? "
        "(known: length, block_length, temperature, rule)",
        "sampler.rule.kind: should be 'top_k' or 'entropy_bound', got 'entropy_bund'; did you mean 'entropy_bound'?",
        "sampler: length 16 cannot be divided by block_length 5",
        "optimizer.lr: should be a finite number, got nan",
        "optimizer.betas[1]: should be a valid number, got 'x'",
        "optimizer.schedule: should be 'constant' or 'cosine', got 'cosin'; did you mean 'cosine'?",
        "rules[0].k: should be greater than or equal to 1, got 0",
        "rules[1].kind: should be 'top_k' or 'entropy_bound', but missing",
    ]


def test_joint_checks_of_an_outer_table_see_through_mistakes_in_an_inner_one(tmp_path: Path) -> None:
    text = "seed = 1\n[sampler]\ntemperature = 0\nlength = 0\n[optimizer]\nlr = 1\n"
    assert mistakes(tmp_path, text) == [
        "sampler.length: should be greater than or equal to 1, got 0",
        "a seed changes nothing at temperature 0",
    ]


def test_an_option_that_was_probably_meant_is_not_judged_by_its_default(tmp_path: Path) -> None:
    only = mistakes(tmp_path, "[sampler]\nlength = 18\nblok_length = 6\n[optimizer]\nlr = 1\n")
    assert len(only) == 1
    assert only[0].startswith("sampler.blok_length: unknown option; did you mean 'block_length'?")
    assert "lr: required" not in "".join(mistakes(tmp_path, "[optimizer]\nlrr = 1\n"))


@pytest.mark.parametrize(
    ("override", "mistake"),
    [
        ("seed=true", "seed: should be a valid integer, got true"),
        ("seed=1.0", "seed: should be a valid integer, got 1.0"),
        ('seed="7"', "seed: should be a valid integer, got '7'"),
        ("optimizer.lr=fast", "optimizer.lr: should be a valid number, got 'fast'"),
        ("optimizer.lr=true", "optimizer.lr: should be a valid number, got true"),
        ("optimizer.lr=inf", "optimizer.lr: should be a finite number, got inf"),
        ("optimizer.lr=0", "optimizer.lr: should be greater than 0, got 0"),
        ("is_logged=1", "is_logged: should be a valid boolean, got 1"),
        ("name=3", "name: should be a valid string, got 3"),
        ("name=2026-11-20", None),
        ("sampler=3", "sampler: should be a table, got 3"),
        ("rules=3", "rules: should be an array of tables, got 3"),
        ("optimizer.weights.a=true", "optimizer.weights.a: should be a valid number, got true"),
        ("optimizer.lr.x=1", "optimizer.lr.x=1: optimizer.lr is a value, not a table"),
        ("seed", "seed: an override looks like table.key=value"),
        (".seed=1", ".seed=1: an override looks like table.key=value"),
    ],
)
def test_a_wrong_value_is_one_line(tmp_path: Path, override: str, mistake: str | None) -> None:
    if mistake is None:
        assert read(tmp_path, GOOD, override).name == override.partition("=")[2]
    else:
        assert mistakes(tmp_path, GOOD, override) == [mistake]


def test_overrides_are_toml_values_or_bare_strings_and_the_last_wins(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        "",
        "optimizer.lr=1e-3",
        "optimizer.lr=2e-3",
        'sampler.rule={kind = "top_k", k = 4}',
        "name=1\nseed = 3",
        "is_logged=true",
    )
    assert recipe.optimizer.lr == 2e-3
    assert recipe.sampler.rule == TopK(kind="top_k", k=4)
    assert (recipe.name, recipe.seed, recipe.is_logged) == ("1\nseed = 3", 0, True)


def test_a_table_given_in_part_takes_the_rest_from_its_default(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD, "sampler.length=32").sampler == Sampler(length=32, temperature=0.7)
    assert mistakes(tmp_path, GOOD, "sampler.rule.k=2") == [
        "sampler.rule.kind: should be 'top_k' or 'entropy_bound', but missing"
    ]


def test_a_missing_required_table_and_no_file_at_all() -> None:
    with pytest.raises(UserError, match=r"1 mistake in the overrides:\n  optimizer: required, but missing"):
        load_recipe(Run, None)
    assert load_recipe(Sampler, None) == Sampler()


def test_the_wrong_verb_is_one_line_not_a_list_of_unknown_options(tmp_path: Path) -> None:
    file = tmp_path / "rule.toml"
    file.write_text('kind = "entropy_bound"\nentropy_bound = 1\n', encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_recipe(TopK, str(file))
    assert str(caught.value).splitlines()[1:] == ["  kind: should be 'top_k', got 'entropy_bound'"]


def test_bad_files_and_names(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("seed = 1\nseed = = 2\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"bad\.toml is not valid TOML: .*line 2, column 8"):
        load_recipe(Run, str(file))
    file.write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"bad\.toml is not valid TOML"):
        load_recipe(Run, str(file))
    with pytest.raises(UserError, match=r"cannot read recipe .*none\.toml: No such file"):
        load_recipe(Run, str(tmp_path / "none.toml"))


@pytest.fixture
def built_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """One recipe and one piece."""
    for folder in (*files.FOLDERS, files.PIECES):
        (tmp_path / folder).mkdir()
    (tmp_path / "rl" / "sudoku4-diffpo.toml").write_text(GOOD, encoding="utf-8")
    (tmp_path / "pieces" / "wide.toml").write_text("[sampler]\nblock_length = 8\n", encoding="utf-8")
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    return tmp_path


def test_an_unknown_name_is_told_with_the_nearest_one(built_in: Path) -> None:
    for wrong in ("sudoku-difpo", "wide+sudoku-difpo"):
        with pytest.raises(UserError) as caught:
            load_recipe(Run, wrong)
        assert str(caught.value) == (
            "no recipe is called 'sudoku-difpo'; did you mean 'sudoku4-diffpo'? "
            "(`diffpo recipes` lists them; or give the path of a TOML file)"
        )
    assert load_recipe(Run, "sudoku4-diffpo").optimizer.lr == 3e-4


MINE = """
name = "mine"
[sampler]
temperature = 0.5
rule = { kind = "entropy_bound", entropy_bound = 0.1 }
[optimizer]
lr = 1e-3
weights = { a = 1.0 }
"""


def test_recipes_and_pieces_are_joined_and_the_later_ones_win(built_in: Path) -> None:
    file = built_in / "mine.toml"
    file.write_text(MINE, encoding="utf-8")
    joined = load_recipe(Run, f"sudoku4-diffpo+{file}+wide", ["optimizer.weights.b=2.0"])
    assert (joined.name, joined.sampler.temperature, joined.sampler.block_length) == ("mine", 0.5, 8)
    assert joined.sampler.rule == EntropyBound(kind="entropy_bound", entropy_bound=0.1)
    assert (joined.optimizer.lr, joined.optimizer.weights) == (1e-3, {"a": 1.0, "b": 2.0})
    assert load_recipe(Run, f"{file}+sudoku4-diffpo").optimizer.lr == 3e-4


@pytest.mark.parametrize("names", ["first+wide", "wide+first"])
def test_what_a_recipe_says_for_a_piece_counts_where_that_is_joined(built_in: Path, names: str) -> None:
    (built_in / "pieces" / "narrow.toml").write_text("", encoding="utf-8")
    own = "[with.wide.sampler]\ntemperature = 0.25\nblock_length = 4\n[with.narrow]\nname = 'no'\n"
    (built_in / "rl" / "first.toml").write_text(GOOD + own, encoding="utf-8")
    joined = load_recipe(Run, names)
    assert (joined.sampler.temperature, joined.sampler.block_length) == (0.25, 4)
    alone = load_recipe(Run, "first")
    assert alone == load_recipe(Run, "sudoku4-diffpo") != joined
    later = built_in / "later.toml"
    later.write_text("[sampler]\ntemperature = 0.125\n", encoding="utf-8")
    assert load_recipe(Run, f"{names}+{later}").sampler.temperature == 0.125


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[with.wid]\nname = 'a'\n", "with.wid: no piece is called 'wid'; did you mean 'wide'?"),
        ("with = 3\n", "with should be tables, one for each piece: [with.PIECE.objective]"),
        ("[with]\nwide = 3\n", "with should be tables, one for each piece: [with.PIECE.objective]"),
    ],
)
def test_what_is_said_for_no_piece_is_refused(built_in: Path, text: str, told: str) -> None:
    (built_in / "rl" / "first.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_recipe(Run, "first")
    assert str(caught.value) == f"recipe first: {told}"


def test_a_table_of_another_kind_is_not_mixed_with_the_one_before(built_in: Path) -> None:
    (built_in / "rl" / "first.toml").write_text(MINE, encoding="utf-8")
    rule = built_in / "rule.toml"
    rule.write_text("[sampler.rule]\nkind = 'top_k'\n", encoding="utf-8")
    assert load_recipe(Run, f"first+{rule}").sampler.rule == TopK(kind="top_k", k=1)
    rule.write_text("[sampler.rule]\nentropy_bound = 0.3\n", encoding="utf-8")
    bound = EntropyBound(kind="entropy_bound", entropy_bound=0.3)
    assert load_recipe(Run, f"first+{rule}").sampler.rule == bound


def test_a_file_with_a_plus_in_its_name_is_one_file(built_in: Path) -> None:
    file = built_in / "mine+more.toml"
    file.write_text(MINE, encoding="utf-8")
    assert load_recipe(Run, str(file)).name == "mine"


def test_a_model_built_in_python_is_checked_too() -> None:
    with pytest.raises(ValueError, match="length 16 cannot be divided by block_length 5"):
        Sampler(block_length=5)


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
number = st.floats(allow_nan=False, allow_infinity=False)
rules = st.builds(TopK, kind=st.just("top_k"), k=st.integers(1, 9)) | st.builds(
    EntropyBound, kind=st.just("entropy_bound"), entropy_bound=st.floats(0, 1e30)
)
runs = st.builds(
    Run,
    name=text,
    seed=st.integers(0, 2**63 - 1),
    is_logged=st.booleans(),
    data=st.none() | st.just(Path("a b")),
    sampler=st.builds(Sampler, rule=rules, temperature=st.floats(0.1, 2)),
    optimizer=st.builds(Optimizer, lr=st.floats(1e-12, 1), weights=st.dictionaries(text, number, max_size=3)),
    rules=st.lists(rules, max_size=2).map(tuple),
)


@given(recipe=runs)
def test_what_is_written_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, recipe: Run) -> None:
    file = tmp_path_factory.getbasetemp() / "written.toml"
    file.write_bytes(dump_recipe(recipe).encode())
    again = load_recipe(Run, str(file))
    assert again == recipe
    assert diff_recipes(recipe, again) == []


def test_the_difference_of_two_recipes_names_each_key() -> None:
    old = Run(optimizer=Optimizer(lr=1e-3, weights={"a": 1.0}))
    new = Run(name="other", data=Path("x"), optimizer=Optimizer(lr=2e-3))
    assert diff_recipes(old, new) == [
        'name: "run" -> "other"',
        "optimizer.lr: 0.001 -> 0.002",
        "optimizer.weights.a: 1.0 -> (not set)",
        'data: (not set) -> "x"',
    ]


def test_a_key_that_is_not_set_is_so_whatever_the_recipe_says() -> None:
    table = {"data": "rows.jsonl", "optimizer": {"lr": 1.0}}
    assert load_recipe(Run, table, ["data=x.jsonl"], ["data"]).data is None
    with pytest.raises(UserError) as caught:
        load_recipe(Run, table, (), ["dta", "optimizer.lr", "name"])
    assert str(caught.value).splitlines()[1:] == [
        f"  dta: unknown option; did you mean 'data'? (known: {', '.join(Run.model_fields)})",
        "  name: should have a value, got None; give one, or leave it out",
        "  optimizer.lr: should have a value, got None; give one, or leave it out",
    ]


class Choice(Strict):
    kind: Literal["top_k"]
    copies: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    reward: str | dict[str, float] = "right"


class Chooser(Strict):
    part: Choice | EntropyBound


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("part.copies=0", "part.copies: should be greater than or equal to 1, got 0"),
        ("part.copies=atuo", "part.copies: should be 'auto' or a valid integer, got 'atuo'; did you mean 'auto'?"),
        ("part.reward={a=nan}", "part.reward.a: should be a finite number, got nan"),
        ("part.reward={a='x'}", "part.reward.a: should be a valid number, got 'x'"),
        ("part.reward=3", "part.reward: should be a valid string or a table, got 3"),
        (
            "part.entropy_bound=3",
            "part.entropy_bound: unknown option of kind 'top_k', but one of 'entropy_bound' "
            "(known: kind, copies, reward)",
        ),
    ],
)
def test_of_several_types_one_sentence_tells_what_was_meant(override: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(Chooser, {"part": {"kind": "top_k"}}, [override])
    assert str(caught.value).splitlines()[1:] == [f"  {told}"]


def test_of_many_mistakes_the_first_are_listed() -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(Strict, None, [f"no{n}" for n in range(100)])
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("100 mistakes in") and len(lines) == 32 and lines[-1] == "  and 70 more"


def test_a_key_a_letter_away_wins_over_one_in_another_table() -> None:
    class Inner(Strict):
        bound: float = 0.0

    class Outer(Strict):
        bounds: float = 0.0
        inner: Inner = Inner()

    with pytest.raises(UserError, match=r"bound: unknown option; did you mean 'bounds'\?"):
        load_recipe(Outer, {"bound": 1.0})
