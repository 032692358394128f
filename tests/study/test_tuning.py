"""A study that tunes its arms first, on a tiny model: what is tried, what is chosen, what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from diffpo.core.errors import NonFiniteLossError, Stopped, UserError
from diffpo.recipes import dump_recipe, load_recipe
from diffpo.recipes.tables import StudyRecipe
from diffpo.study import harness
from diffpo.study.harness import run_study
from diffpo.study.plan import Selection, StudyPaths, StudyRun, check, rl_recipe, study_runs
from diffpo.study.results import RUNS, read_results
from diffpo.study.tuning import TUNED, area_at_end, chosen_settings, settings_tried, tuning_study, with_chosen

BASE = """
batch = 16
steps = 30
weighting = "uniform"
task = {kind = "walk", length = 4}
model = {d_model = 16, n_layers = 1, n_heads = 2, mlp_hidden_size = 24}
optimizer.lr = 0.01
"""
RL = """
base = "overridden"
rollout = {prompts_per_step = 2, group_size = 4, rule = {kind = "entropy-bound", bound = 0.1}}
task = {kind = "sudoku", min_clues = 8}
budget.steps = 3
checkpoint.every = 3
"""
STUDY = """
name = "tiny"
kind = "arms"
seeds = [0]
budget = 120
base_per_seed = true
evaluation = {count = 8, batch = 8, bounds = [0.0, 1.0]}

[tune]
seeds = [100, 101]
grid = [["optimizer.lr=1e-4", "optimizer.lr=1e-3"], ["rollout.rule.bound=0.1", "rollout.rule.bound=10"]]
budget = 60
count = 6

[[tasks]]
name = "walk"
base = "base.toml"
rl = ["task.step_credit=0.5"]

[[arms]]
name = "mf"
recipe = "rl.toml"
overrides = ['estimator={kind="mean-field", prompt_mask_rate=0.0}']

[[arms]]
name = "leftmost"
recipe = "rl.toml"
overrides = ['rollout.rule={kind="leftmost", k=1}']
grid = [["optimizer.lr=1e-4", "optimizer.lr=1e-3"]]

[[arms]]
name = "fixed"
recipe = "rl.toml"
grid = []
"""
GRID = [
    ("optimizer.lr=1e-4", "rollout.rule.bound=0.1"),
    ("optimizer.lr=1e-4", "rollout.rule.bound=10"),
    ("optimizer.lr=1e-3", "rollout.rule.bound=0.1"),
    ("optimizer.lr=1e-3", "rollout.rule.bound=10"),
]


def write_recipes(folder: Path) -> None:
    for name, text in {"base": BASE, "rl": RL, "study": STUDY}.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_recipes(tmp_path)
    return tmp_path


def study(*overrides: str) -> StudyRecipe:
    return load_recipe(StudyRecipe, "study.toml", overrides)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results and the work folder of the whole study, run once."""
    root = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_recipes(root)
        run_study(study(), root / "results", root / "work")
    return root


def test_every_setting_is_tried_on_every_tuning_seed_and_the_best_is_reported(done: Path) -> None:
    tried = read_results(done / "results" / "tune" / RUNS)
    assert len(tried) == (4 + 2) * 2 and {line["seed"] for line in tried} == {100, 101}
    assert {line["settings"]["measured"]["split"] for line in tried} == {"validation"}
    assert {len(line["clusters"]) for line in tried} == {6}
    assert {line["settings"]["base"]["seed"] for line in tried} == {100, 101}, "a base for each seed"

    record = json.loads((done / "results" / TUNED).read_text())
    assert (record["seeds"], record["budget"], record["study"]) == ([100, 101], 60, "tiny")
    chosen = {one["arm"]: one for one in record["chosen"]}
    assert list(chosen) == ["mf", "leftmost"]
    for one in record["chosen"]:
        areas = [sum(each["by_seed"]) / 2 for each in one["tried"]]
        assert one["area"] == pytest.approx(max(areas), abs=1e-4)
        assert one["overrides"] == one["tried"][areas.index(max(areas))]["overrides"]
    assert [tuple(each["overrides"]) for each in chosen["mf"]["tried"]] == GRID

    lines = {line["arm"]: line for line in read_results(done / "results" / RUNS)}
    assert set(lines) == {"mf", "leftmost", "fixed"}
    for arm, one in chosen.items():
        rl, (lr, *bound) = lines[arm]["settings"]["rl"], one["overrides"]
        assert rl["optimizer"]["lr"] == float(lr.split("=")[1])
        assert not bound or rl["rollout"]["rule"]["bound"] == float(bound[0].split("=")[1])
        assert lines[arm]["settings"]["base"]["seed"] == rl["seed"] == 0
        assert lines[arm]["settings"]["measured"]["split"] == "test"
    assert lines["fixed"]["settings"]["rl"]["optimizer"]["lr"] == 1e-4
    table = (done / "results" / "table.md").read_text()
    assert table.count("area at equal") == 3
    bound = lines["mf"]["settings"]["rl"]["rollout"]["rule"]["bound"]
    assert f"| entropy-bound, bound {bound} |" in table and "| fixed | 0.0001 | entropy-bound, bound 0.1 |" in table


def test_a_tuned_study_has_nothing_to_do_and_a_larger_grid_tries_what_is_new(
    done: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done / "results", here / "results")
    shutil.copytree(done / "work", here / "work")
    jobs: list[str] = []
    monkeypatch.setattr(harness, "perform", lambda recipe, job, paths: jobs.append(str(job)))
    run_study(study(), here / "results", here / "work")
    assert jobs == []
    grid = 'tune.grid=[["optimizer.lr=1e-4", "optimizer.lr=1e-3"], ["rollout.rule.bound=0.1"]]'
    run_study(study(grid), here / "results", here / "work", tune_only=True)
    assert jobs == [], "a smaller grid needs nothing, and nothing is mixed"


def test_only_what_is_selected_is_tuned(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[str] = []

    def stop(recipe: Any, job: Any, paths: Any) -> None:
        jobs.append(str(job))
        raise KeyboardInterrupt

    monkeypatch.setattr(harness, "perform", stop)
    with pytest.raises(Stopped):
        run_study(study(), here / "results", here / "work", selection=Selection(arms=("fixed",)))
    assert jobs == ["walk base of seed 0"], "an arm that is not tuned needs no tuning"
    with pytest.raises(Stopped):
        run_study(study(), here / "results", here / "work", selection=Selection(arms=("leftmost",)))
    assert jobs[1:] == ["walk base of seed 100"]


def test_what_diverged_is_not_chosen_and_an_arm_of_which_all_did_is_named(
    done: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done / "work" / "tune" / "bases", here / "work" / "tune" / "bases")
    bad: set[str] = set()
    perform = harness.perform

    def diverging(recipe: Any, job: Any, paths: Any) -> None:
        if job.run is not None and any(word in job.run.arm for word in bad):
            raise NonFiniteLossError("the loss is nan")
        perform(recipe, job, paths)

    monkeypatch.setattr(harness, "perform", diverging)
    bad.add("lr-1e-3")
    only = Selection(arms=("leftmost",))
    run_study(study(), here / "results", here / "work", selection=only, tune_only=True)
    (one,) = json.loads((here / "results" / TUNED).read_text())["chosen"]
    assert one["overrides"] == ["optimizer.lr=1e-4"] and one["tried"][1]["by_seed"] == []
    shutil.rmtree(here / "results")
    bad.add("lr-1e-4")
    with pytest.raises(UserError, match="no setting of leftmost on walk has a result for every tuning seed; change"):
        run_study(study(), here / "results", here / "work", selection=only)


def line(arm: str, seed: int, *points: tuple[float, float]) -> dict[str, Any]:
    rules = [{"rule": f"entropy bound {i}", "nfe": nfe, "accuracy": acc} for i, (nfe, acc) in enumerate(points)]
    rules.append({"rule": "temperature 1", "nfe": 1.0, "accuracy": 1.0})
    return {"task": "walk", "arm": arm, "seed": seed, "completion_length": 4, "points": [{"rules": rules}]}


def test_settings_are_chosen_by_the_mean_area_over_seeds_by_hand(here: Path) -> None:
    recipe = study()
    tune = recipe.tune
    assert tune is not None
    names = [arm.name for arm in tuning_study(recipe, tune).arms][:4]
    assert names[1] == "mf--optimizer.lr-1e-4--rollout.rule.bound-10"
    assert area_at_end(line("a", 0, (2.0, 0.5), (4.0, 1.0))) == pytest.approx(0.25)  # from 2 to 4 calls it solves half
    results = [
        line(names[0], 100, (1.0, 0.9)), line(names[0], 101, (1.0, 0.1)),
        line(names[1], 100, (1.0, 0.6)), line(names[1], 101, (1.0, 0.6)),
        line(names[2], 100, (1.0, 1.0)),  # its other seed diverged
        line(names[3], 100, (2.0, 1.0)), line(names[3], 101, (2.0, 1.0)),
    ]  # fmt: skip
    (tuned,) = chosen_settings(recipe, tune, results, ("mf",), None)
    assert [len(tried.by_seed) for tried in tuned.tried] == [2, 2, 1, 2]
    assert [tuned.tried[i].score for i in (0, 1, 3)] == pytest.approx([0.5, 0.6, 0.5])
    assert tuned.chosen == 1
    found = with_chosen(recipe, [tuned])
    assert found.tune is None and load_recipe(StudyRecipe, written(here, found)) == found, "a worker reads it"
    rl = rl_recipe(found, StudyRun("walk", "mf", 0), StudyPaths(here / "work"))
    assert rl.rollout.rule.bound == 10 and rl.optimizer.lr == 1e-4  # type: ignore[union-attr]


def written(folder: Path, recipe: StudyRecipe) -> str:
    (folder / "dumped.toml").write_text(dump_recipe(recipe), encoding="utf-8")
    return str(folder / "dumped.toml")


def test_a_study_without_a_grid_has_nothing_to_tune(here: Path) -> None:
    text = STUDY[: STUDY.index("[tune]")] + STUDY[STUDY.index("[[tasks]]") :]
    (here / "study.toml").write_text(text, encoding="utf-8")
    with pytest.raises(
        UserError, match=r"study tiny has nothing to tune; give it a \[tune\] table, or leave --tune-only"
    ):
        run_study(study(), here / "results", here / "work", tune_only=True)


def test_an_arms_own_grid_comes_before_the_studys(here: Path) -> None:
    recipe = study()
    assert recipe.tune is not None
    found = [settings_tried(arm, recipe.tune) for arm in recipe.arms]
    assert found == [GRID, [("optimizer.lr=1e-4",), ("optimizer.lr=1e-3",)], []]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tune.seeds=[0, 100]", "0 would be tuned on and reported; tune on other seeds than those in seeds"),
        ("seeds=[100]", "tune.seeds: 100 would be tuned on and reported"),
        ("tune.seeds=[]", "seeds: none is given"),
        ("tune.grid=[[]]", "grid: a list is empty"),
        ("evaluation.split=validation", "tuning is on validation problems; report on split = 'test'"),
        ("kind=likelihood", "reports no accuracy to tune by; leave it out"),
    ],
)
def test_what_cannot_be_tuned_by_is_refused(override: str, said: str, here: Path) -> None:
    with pytest.raises(UserError, match=said.replace("[", r"\[")):
        study(override)


def test_a_setting_that_cannot_run_is_named_before_anything_is_trained(here: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)nothing was trained.*mf--optimizer.lr-0.*on task walk"):
        run_study(study('tune.grid=[["optimizer.lr=0"]]'), here / "results", here / "work")
    assert not (here / "work").exists() or not list((here / "work").rglob("recipe.toml"))


@pytest.mark.slow
def test_every_setting_of_the_built_in_study_can_run(tmp_path: Path) -> None:
    recipe = load_recipe(StudyRecipe, "study-full")
    assert recipe.tune is not None and len(recipe.evaluation.bounds) >= 20
    tuning = tuning_study(recipe, recipe.tune)
    check(tuning, study_runs(tuning, Selection()), StudyPaths(tmp_path))
    for arm in recipe.arms:
        tried = {override for overrides in settings_tried(arm, recipe.tune) for override in overrides}
        assert len({override for override in tried if ".lr=" in override}) >= 2, "every arm has a rate to choose"
        is_quick = {"rollout.rule.bound=100", "controller.initial_bound=10", "controller.initial_bound=1.0"} & tried
        has_no_bound = any(name in arm.name for name in ("justgrpo", "any-speed", "policy", "planner"))
        assert is_quick or has_no_bound, "one call included"
