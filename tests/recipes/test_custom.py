"""Parts of the user's own: their options are as strict as built-in ones, and every mistake is told before a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.recipes import Strict, diff_recipes, dump_recipe, load_recipe
from diffpo.recipes.dump import show_changes, stored_changes
from diffpo.recipes.parts import build_advantage, build_estimator, build_objective, build_rule
from diffpo.recipes.stored import sampled_length, stored_task
from diffpo.recipes.tables import CustomObjective, CustomRule, EvalRecipe, RlRecipe, RolloutRecipe, SftRecipe
from diffpo.recipes.tasks import build_task

CODE = '''
from dataclasses import dataclass, field
from typing import Any, Literal

with open(__file__ + ".log", "a") as log:
    log.write("run")


@dataclass(frozen=True)
class Margin:
    least: float
    mode: Literal["soft", "hard"] = "soft"
    names: tuple[str, ...] = ()
    known: Any = field(default=None, init=False)
    is_exact = True

    def __post_init__(self):
        if self.least > 5:
            raise ValueError(f"least {self.least} is too much")

    def score(self, logits, drawn): ...

    def select(self, score, is_candidate, row_bound=None): ...


class Peeking(Margin):
    is_exact = False


class Vague(Margin):
    is_exact = "yes"


class Narrow(Margin):
    def select(self, score): ...


class Plain:
    """No dataclass: its options are the keywords of __init__."""

    def __init__(self, count: int, *, share: float = 0.5, **rest: int) -> None:
        self.count, self.share = count, share

    def draw(self, rollout, generator): ...

    def __call__(self, rollout, draw, mask_id): ...


@dataclass
class Loss:
    beta: float = 1.0
    names: list[str] = field(default_factory=lambda: ["x"])
    requires = "old"

    def credit(self, groups): ...

    def __call__(self, logp, old_logp, behaviour_logp, credit, is_scored): ...


@dataclass(frozen=True)
class Letters:
    completion_length: int = 4
    name = "letters"
    alphabet = "abc"

    def problems(self, split, count, seed):
        return []

    def grade(self, problem, completion): ...


class Sizeless(Letters):
    @property
    def name(self):
        raise RuntimeError("who knows")


def halved(reward):
    return reward / 2


def two(reward, more): ...


@dataclass
class Scaled:
    scale: float

    def __call__(self, reward):
        return reward * self.scale


class Doubled(Scaled):
    def __init__(self):
        self.scale = 2
'''
BAD = """
import torch
from dataclasses import dataclass
from diffpo.sampling.rules import Rule

class Base:
    is_exact = True
    def score(self, logits, drawn): ...
    def select(self, score, is_candidate, row_bound=None): ...

class Untyped(Base):
    def __init__(self, least=3): ...

@dataclass
class Tensors(Base):
    weight: torch.Tensor

@dataclass
class Taken(Base):
    kind: str

@dataclass
class Hidden(Base):
    _least: float = 1.0

@dataclass
class Nullable(Base):
    least: float | None = 3.0

@dataclass
class Unknown(Base):
    least: "Foat" = 3.0

class Bare:
    is_exact = True
    def score(self, logits, drawn): ...

class Inherited(Rule):
    is_exact = True
    def score(self, logits, drawn): ...

class Indefinite:
    def score(self, logits, drawn): ...
    def select(self, score, is_candidate, row_bound=None): ...

@dataclass
class Loss:
    num_iterations: int = 3
    requires = "none"
    def credit(self, groups): ...
    def __call__(self, logp, old_logp, behaviour_logp, credit, is_scored): ...

def function(logits): ...
"""
RL = ["base=some/model", "budget.steps=1"]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.py"
    file.write_text(CODE)
    return file


def rl(*overrides: str) -> RlRecipe:
    return load_recipe(RlRecipe, None, [*RL, *overrides])


def mistakes(*overrides: str, recipe: type[Strict] = RlRecipe) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_recipe(recipe, None, [*(RL if recipe is RlRecipe else ["model=m"]), *overrides])
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_every_part_can_be_a_class_of_your_own(own: Path) -> None:
    recipe = rl(
        f"rollout.rule={{kind='{own}:Margin', least=1, names=['a']}}",
        f"estimator={{kind='{own}:Plain', count=3}}",
        f"objective={{kind='{own}:Loss', beta=2, kl_coef=0.1, num_iterations=4, advantage='{own}:halved'}}",
        f"controller.advantage={{kind='{own}:Scaled', scale=3}}",
        f"task={{kind='{own}:Letters', completion_length=6}}",
        "rollout.block_length=3",
    )
    rule, estimator = build_rule(recipe.rollout.rule), build_estimator(recipe.estimator)
    assert repr(rule) == "Margin(least=1.0, mode='soft', names=('a',), known=None)"
    assert vars(estimator) == {"count": 3, "share": 0.5}
    assert isinstance(recipe.objective, CustomObjective)
    assert vars(build_objective(recipe.objective)) == {"beta": 2.0, "names": ["x"]}
    assert (recipe.objective.num_iterations, recipe.objective.loss_aggregation) == (4, "token-mean")
    reward = torch.tensor([[1.0, 2.0]])
    assert build_advantage(recipe.objective.advantage)(reward).tolist() == [[0.5, 1.0]]
    assert build_advantage(recipe.controller.advantage)(reward).tolist() == [[3.0, 6.0]]
    assert build_advantage(f"{own}:Doubled")(reward).tolist() == [[2.0, 4.0]]
    assert build_task(recipe.task).completion_length == recipe.task.completion_length == 6
    assert Path(f"{own}.log").read_text() == "run", "a file is run once"


def test_a_recipe_with_classes_of_your_own_is_written_and_read_back(own: Path, tmp_path: Path) -> None:
    recipe = rl(
        f"rollout.rule={{kind='{own}:Margin', least=1, names=['a']}}",
        f"task.kind={own}:Letters",
        f"objective.advantage={{kind='{own}:Scaled', scale=3}}",
    )
    file = tmp_path / "recipe.toml"
    file.write_text(dump_recipe(recipe))
    again = load_recipe(RlRecipe, str(file))
    assert again == recipe and diff_recipes(recipe, again) == []
    assert again != rl(f"rollout.rule={{kind='{own}:Margin', least=2, names=['a']}}", f"task.kind={own}:Letters")
    assert 'kind = "' + f'{own}:Margin"\nleast = 1.0\nmode = "soft"\nnames = ["a"]' in file.read_text()


def test_a_class_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "parts_here").mkdir()
    (tmp_path / "parts_here" / "some.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    assert repr(build_rule(rl("rollout.rule={kind='parts_here.some:Margin', least=1}").rollout.rule)).startswith("Mar")


def test_evaluations_take_rules_of_your_own_exact_or_not(own: Path) -> None:
    recipe = load_recipe(EvalRecipe, None, ["model=m", f"rules=[{{kind='{own}:Peeking', least=1}}]"])
    assert build_rule(recipe.rules[0]).is_exact is False


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "rollout.rule={{kind='{own}:Margin', leest=1, mode='mild'}}",
            [
                "rollout.rule.leest: unknown option; did you mean 'least'? (known: kind, least, mode, names)",
                "rollout.rule.mode: should be 'soft' or 'hard', got 'mild'",
            ],
        ),
        ("rollout.rule.kind={own}:Margin", ["rollout.rule.least: required, but missing"]),
        (
            "rollout.rule={{kind='{own}:Margin', least='much'}}",
            ["rollout.rule.least: should be a valid number, got 'much'"],
        ),
        (
            "rollout.rule={{kind='{own}:Margin', least=6}}",
            [
                "rollout.rule: {own}:Margin cannot be made with these options (ValueError: least 6.0 is too much); "
                "change them, or mend the class"
            ],
        ),
        (
            "rollout.rule={{kind='{own}:Narrow', least=1}}",
            [
                "rollout.rule: {own}:Narrow: select takes (score), and is called with (score, is_candidate, "
                "row_bound); change its parameters"
            ],
        ),
        (
            "rollout.rule={{kind='{own}:Vague', least=1}}",
            ["rollout.rule: {own}:Vague: is_exact should be a valid boolean, got 'yes'"],
        ),
        (
            "rollout.rule={{kind='{own}:Peeking', least=1}}",
            [
                "rollout: rule.kind: {own}:Peeking is not exact, so its log-probabilities are not those of the "
                "rollout; train with a rule that is, and keep it for evaluation"
            ],
        ),
        (
            "rollout.rule={{kind='{own}:Letters'}}",
            ["rollout.rule.kind: {own}:Letters lacks score, select; add it, as rules have score, select, is_exact"],
        ),
        (
            "rollout.rule={{kind='{own}:Absent'}}",
            [
                "rollout.rule.kind: the rule {own}:Absent names a class that {own} does not have, Absent; it has "
                "Margin, Peeking, Vague, Narrow, Plain, Loss, Letters, Sizeless, Scaled, Doubled"
            ],
        ),
        (
            "rollout.rule={{kind='{own}.py:Absent'}}",
            [
                "rollout.rule.kind: the rule's file {own}.py is not there; did you mean '{own}'?; give FILE.py:CLASS "
                "or PACKAGE.MODULE:CLASS"
            ],
        ),
        (
            "rollout.rule={{kind='no_such_package.rules:Margin'}}",
            [
                "rollout.rule.kind: the rule no_such_package.rules:Margin cannot be imported (ModuleNotFoundError: "
                "No module named 'no_such_package'); mend no_such_package.rules, or name another"
            ],
        ),
        (
            "rollout.rule={{kind='entropi-bound'}}",
            [
                "rollout.rule.kind: should be 'entropy-bound' or 'capped-sum' or 'confidence' or 'margin' or "
                "'leftmost' or 'top-k' or 'low-confidence' or a "
                "class of your own (FILE.py:CLASS or PACKAGE.MODULE:CLASS), got 'entropi-bound'; "
                "did you mean 'entropy-bound'?"
            ],
        ),
        (
            "task={{kind='{own}:Letters', completion_length=0}}",
            ["task: {own}:Letters: completion_length should be greater than or equal to 1, got 0"],
        ),
        (
            "task={{kind='{own}:Sizeless'}}",
            ["task: {own}:Sizeless: name cannot be told (RuntimeError: who knows); mend it"],
        ),
        (
            "objective.advantage={own}:Scaled",
            [
                "objective.advantage: {own}:Scaled needs options (scale); give them in a table, "
                "{{kind = '{own}:Scaled', ...}}"
            ],
        ),
        (
            "objective.advantage={own}:two",
            [
                "objective.advantage: {own}:two: __call__ takes (reward, more), and is called with (reward); "
                "change its parameters"
            ],
        ),
        (
            "objective.advantage={{scale=2}}",
            [
                "objective.advantage.kind: should be a class of your own (FILE.py:CLASS or PACKAGE.MODULE:CLASS), "
                "but missing"
            ],
        ),
    ],
)
def test_what_is_wrong_with_the_options_of_a_class_is_told(override: str, told: list[str], own: Path) -> None:
    assert mistakes(override.format(own=own)) == [line.format(own=own) for line in told]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Untyped", "takes least without a type, so a recipe cannot check it; give it one"),
        ("Tensors", "field weight is a Tensor, which a recipe cannot give; use numbers, texts, tuples"),
        ("Taken", "has a field kind, a name that its table uses for something else; rename it"),
        ("Hidden", "has a field _least, a name that its table uses for something else; rename it"),
        ("Nullable", "field least may be None, which TOML cannot say, so None must be its default"),
        ("Unknown", "cannot be told (NameError: name 'Foat' is not defined); mend their types"),
        ("Bare", "lacks select; add it, as rules have score, select, is_exact"),
        ("Inherited", "lacks select; add it, as rules have score, select, is_exact"),
        ("Indefinite", "lacks is_exact; add it, as rules have it"),
        ("function", "is a function, and a table is of a class; name one"),
    ],
)
def test_a_class_that_no_recipe_can_describe_is_refused(name: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(BAD)
    (line,) = mistakes(f"rollout.rule.kind={file}:{name}")
    assert line.startswith("rollout.rule") and f"{file}:{name}" in line and told in line


def test_an_objective_cannot_take_the_name_of_a_run_wide_option(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(BAD)
    (line,) = mistakes(f"objective.kind={file}:Loss")
    assert line == (
        f"objective.kind: {file}:Loss has a field num_iterations, a name that its table uses for something else; "
        "rename it"
    )


def test_the_controller_needs_a_rule_with_entropy_bounds(own: Path) -> None:
    (line,) = mistakes(f"rollout.rule={{kind='{own}:Margin', least=1}}", "train=joint")
    assert f"entropy bounds, which rollout.rule '{own}:Margin' does not have" in line


def test_a_table_made_in_python_names_a_class_that_was_loaded() -> None:
    with pytest.raises(ValueError, match="names no class that was loaded"):
        CustomRule(kind="a.py:B")
    with pytest.raises(ValueError, match="rule"):
        RolloutRecipe.model_validate({"rule": {"kind": "no-such-rule"}})


def test_a_broken_class_ends_the_command_before_a_model_is_asked_for(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["rl", "d1", "base=absent", f"rollout.rule.kind={own}:Absent", "--out", str(tmp_path / "run")])
    assert caught.value.code == 2 and not (tmp_path / "run").exists()
    assert "names a class that" in capsys.readouterr().err


@pytest.fixture
def stored(own: Path, tmp_path: Path) -> Callable[..., Path]:
    """Stores a recipe as a run does, and forgets that its code was run."""

    def store(recipe: Strict) -> Path:
        file = tmp_path / "run" / "recipe.toml"
        file.parent.mkdir(exist_ok=True)
        (file.parent / "config.json").write_text("{}")
        file.write_text(dump_recipe(recipe).replace(str(own), str(tmp_path / "theirs.py")))
        (tmp_path / "theirs.py").write_text(CODE)
        return file

    return store


def test_a_stored_recipe_runs_no_code_that_the_given_one_does_not_name(
    stored: Callable[..., Path], own: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs.py"
    file = stored(rl(f"rollout.rule={{kind='{own}:Margin', least=1}}", f"objective.advantage={own}:halved"))
    assert show_changes(stored_changes(file, rl("seed=3"))) == [
        "seed: 0 -> 3",
        'rollout.rule.kind: "' + f'{theirs}:Margin" -> "entropy-bound"',
        "rollout.rule.least: 1.0 -> (not set)",
        'rollout.rule.mode: "soft" -> (not set)',
        "rollout.rule.names: [] -> (not set)",
        f'objective.advantage: "{theirs}:halved" -> "group-std"',
    ]
    assert not Path(f"{theirs}.log").exists(), "nothing was run"
    same = rl(f"rollout.rule={{kind='{theirs}:Margin', least=1}}", f"objective.advantage={theirs}:halved")
    assert stored_changes(file, same) == {}
    file.write_text(file.read_text().replace("temperature = 1.0\n", ""))
    assert stored_changes(file, same) == {}, "what an older recipe does not have is today's default"


@pytest.mark.parametrize("length", [None, 9])
def test_a_stored_task_of_your_own_is_not_run(
    stored: Callable[..., Path], own: Path, tmp_path: Path, length: int | None
) -> None:
    theirs = tmp_path / "theirs.py"
    file = stored(load_recipe(SftRecipe, None, [f"task.kind={own}:Letters"]))
    told = f"{file} names a task of your own, {theirs}:Letters, whose code only you can start; give "
    with pytest.raises(UserError) as caught:
        stored_task(file.parent)
    assert str(caught.value) == f"{told}task.kind={theirs}:Letters with the task's options"
    if length is None:
        with pytest.raises(UserError) as caught:
            sampled_length(file.parent, None)
        assert str(caught.value) == f"{told}--length, the tokens of the completion"
    assert not Path(f"{theirs}.log").exists(), "nothing was run"


def test_a_stored_task_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    for text, told in {
        "task = 3": "task: should be a table, got 3",
        "[task]\nsize = 5": "task.size: should be 4 or 6, got 5",
        "[task": "Expected",
    }.items():
        (tmp_path / "recipe.toml").write_text(text)
        with pytest.raises(UserError, match=r"does not say which task: .*; give task\.size") as caught:
            stored_task(tmp_path)
        assert told in str(caught.value)


NESTED = """
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Inner:
    a: int = 1


@dataclass(frozen=True)
class Nested:
    inner: Inner = Inner()
    is_exact: ClassVar[bool] = True

    def score(self, logits, drawn): ...

    def select(self, score, is_candidate, row_bound=None): ...


class Leaves(Nested):
    def __init__(self) -> None:
        raise SystemExit(0)


class NoMethod(Nested):
    score = 5
"""


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    file = tmp_path / "nested.py"
    file.write_text(NESTED)
    return file


def test_a_field_may_be_a_dataclass_and_is_read_back(nested: Path, tmp_path: Path) -> None:
    recipe = rl(f"rollout.rule={{kind='{nested}:Nested', inner={{a=2}}}}")
    rule: Any = build_rule(recipe.rollout.rule)
    assert rule.inner.a == 2
    stored = tmp_path / "recipe.toml"
    stored.write_text(dump_recipe(recipe))
    assert load_recipe(RlRecipe, str(stored)) == recipe
    (mistake,) = mistakes(f"rollout.rule={{kind='{nested}:Nested', inner={{a='much'}}}}")
    assert "rollout.rule.inner.a" in mistake


@pytest.mark.parametrize(("name", "told"), [("Leaves", "SystemExit"), ("NoMethod", "score is no method")])
def test_a_class_that_ends_the_process_or_has_no_methods_is_refused(name: str, told: str, nested: Path) -> None:
    (mistake,) = mistakes(f"rollout.rule={{kind='{nested}:{name}'}}")
    assert told in mistake
