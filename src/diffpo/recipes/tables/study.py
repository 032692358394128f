"""The recipe of a study: which arms meet which tasks, with which seeds, at which budget. Imports no torch."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from diffpo.core.options import DENSE_BOUNDS
from diffpo.recipes.strict import Strict
from diffpo.recipes.tables.estimators import (
    EstimatorRecipe,
    ManyTimesMeanFieldEstimator,
    MeanFieldEstimator,
    SampledExactEstimator,
    TwoTimesMeanFieldEstimator,
    gives_token_probabilities,
)
from diffpo.recipes.tables.fields import Bounds, Count, Duration, Location, NonNegative, Seed

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9+._-]*$")]
"""Names folders, and is listed with commas on the command line."""
BASE = "base"
"""The model before training, in studies of likelihoods."""


class StudyTask(Strict):
    """A task with the base model that every arm starts from."""

    name: Name
    """What the task is called in results, tables and --tasks."""
    base: Location
    """An SFT recipe: a file or a built-in name. Its task is the task of the arms."""
    overrides: tuple[str, ...] = ()
    """Changes to the SFT recipe: batch=64."""
    rl: tuple[str, ...] = ()
    """Overrides of every arm's recipe on this task: task.step_credit=0.3."""


class StudyChoice(Strict):
    """What was chosen for an arm on one task: more overrides of its recipe."""

    task: Name
    """The task's name."""
    overrides: tuple[str, ...]
    """Changes to the arm's recipe there."""


class StudyArm(Strict):
    """One way to train: an RL recipe, a file or a built-in name, with overrides."""

    name: Name
    """What the arm is called in results, tables and --arms."""
    recipe: str
    """An RL recipe: a file or a built-in name."""
    overrides: tuple[str, ...] = ()
    """Changes to the recipe: train=joint."""
    grid: tuple[tuple[str, ...], ...] | None = None
    """What tuning tries: of each list one override. Not set: `tune.grid`; []: nothing, the arm stays as it is."""
    chosen: tuple[StudyChoice, ...] = ()
    """Overrides on some tasks alone, as tuning chooses them."""


class StudyTuning(Strict):
    """How what an arm tries is chosen: on other seeds and other problems than those reported, one run for each."""

    seeds: tuple[Seed, ...] = (100, 101)
    """Seeds of the tuning runs; none that is reported."""
    grid: tuple[tuple[str, ...], ...] = ()
    """Of each list one override: [["optimizer.lr=4e-5", "optimizer.lr=1.2e-4"], ["rollout.rule.bound=0.1", ...]]."""
    budget: Duration | None = None
    """Denoiser calls of each run. Not set: those of the study."""
    count: Annotated[int, Field(ge=2, le=2**20)] = 200
    """Validation problems."""

    def problems(self) -> Iterable[str]:
        if not self.seeds:
            yield "seeds: none is given; name at least one"
        if any(not choices for choices in self.grid):
            yield "grid: a list is empty; leave it out, or give it overrides to choose from"


class StudyEvaluation(Strict):
    """How the points of a trajectory are measured: on the same problems for all arms and seeds."""

    every: Annotated[float, Field(gt=0, le=0.25)] = 0.25
    """Share of the budget between two points; the base and the end are points too."""
    seed: Seed = 0
    """Chooses the problems."""
    split: Literal["validation", "test"] = "test"
    """Which problems are answered."""
    count: Annotated[int, Field(ge=2, le=2**20)] = 200
    """How many problems are answered."""
    batch: Count = 200
    """Completions decoded at a time."""
    bounds: Bounds = DENSE_BOUNDS
    """Fixed entropy bounds at the base and at the end, decoded greedily."""
    bounds_between: Bounds | None = None
    """Those at the points between, which tables and figures of trajectories show. Not set: `bounds`."""
    validation_count: Annotated[int, Field(ge=0, le=2**20)] = 200
    """Validation problems, answered at the base and at the end, which choose constants. None with split validation."""
    sampled_bound: NonNegative = 0.1
    """Entropy bound of the completions at temperature 1, one for each problem."""

    @property
    def num_validation(self) -> int:
        """How many validation problems choose constants: none where figures are of that split themselves."""
        return 0 if self.split == "validation" else self.validation_count

    @property
    def grid_between(self) -> tuple[float, ...]:
        """The fixed bounds that every point has."""
        return self.bounds if self.bounds_between is None else self.bounds_between

    def problems(self) -> Iterable[str]:
        if missing := [bound for bound in self.grid_between if bound not in self.bounds]:
            yield f"bounds_between: {', '.join(f'{bound:g}' for bound in missing)} is not in bounds; add it there"


class StudyMismatch(Strict):
    """How the distance of a surrogate from the behaviour is measured: on rollouts at temperature 1, one a problem."""

    seed: Seed = 0
    """Chooses the problems, which are the same for all models and seeds."""
    split: Literal["train", "validation", "test"] = "test"
    """Which problems the rollouts are on."""
    count: Annotated[int, Field(ge=2, le=2**20)] = 128
    """How many problems, with a rollout each."""
    bound: NonNegative = 0.1
    """Entropy bound of the rollouts."""
    draws: Count = 8
    """Draws of the estimator for each rollout, averaged."""
    estimators: tuple[EstimatorRecipe, ...] = (
        MeanFieldEstimator(prompt_mask_rate=0.0),
        TwoTimesMeanFieldEstimator(),
        ManyTimesMeanFieldEstimator(boundaries=4),
    )
    """The surrogates whose distance is measured."""

    def problems(self) -> Iterable[str]:
        for estimator in self.estimators:
            if isinstance(estimator, SampledExactEstimator):
                yield (
                    "estimators: 'sampled-exact' reads each token on the canvas that it was drawn from or not at all, "
                    "so there is no distance to measure; leave it out"
                )
            elif not gives_token_probabilities(estimator):
                yield (
                    f"estimators: '{estimator.kind}' scores a token on several canvases, so there is no one "
                    "conditional to compare with the true one; leave it out"
                )


class StudyRecipe(Strict):
    """Many runs that are compared: arms times tasks times seeds."""

    name: Name
    """The study's name; its runs go to runs/study-NAME."""
    kind: Literal["arms", "likelihood"]
    """arms: what training gains; likelihood: how far the surrogates are from the behaviour, before and after it."""
    tasks: tuple[StudyTask, ...]
    """What the arms are trained on."""
    arms: tuple[StudyArm, ...]
    """The ways to train that are compared."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Each arm is trained once with each, on each task."""
    budget: Duration
    """Denoiser calls of each run."""
    base_per_seed: bool = False
    """Whether each seed has a base of its own, trained with that seed; else all seeds of a task start from one."""
    tune: StudyTuning | None = None
    """What is tuned, before the runs that are reported. Not set: nothing."""
    evaluation: StudyEvaluation = StudyEvaluation()
    mismatch: StudyMismatch = StudyMismatch()

    def problems(self) -> Iterable[str]:
        parts: tuple[tuple[str, tuple[object, ...]], ...] = (
            ("tasks", tuple(task.name for task in self.tasks)),
            ("arms", tuple(arm.name for arm in self.arms)),
            ("seeds", self.seeds),
        )
        for what, names in parts:
            if not names:
                yield f"{what}: none is given; name at least one"
            for name in sorted({str(name) for name in names if names.count(name) > 1}):
                yield f"{what}: {name} is there twice; rename one or leave it out"
        if self.tune is not None:
            yield from self._tuning_problems(self.tune)
        if any(arm.name == BASE for arm in self.arms):
            yield f"arms: '{BASE}' is the model before training; choose another name"

    def _tuning_problems(self, tune: StudyTuning) -> Iterable[str]:
        if self.kind != "arms":
            yield f"tune: a study of kind '{self.kind}' reports no accuracy to tune by; leave it out"
        if both := sorted(set(tune.seeds) & set(self.seeds)):
            yield (
                f"tune.seeds: {', '.join(map(str, both))} would be tuned on and reported; tune on other seeds than "
                "those in seeds"
            )
        if self.evaluation.split == "validation":
            yield "evaluation.split: tuning is on validation problems; report on split = 'test'"
        if any(arm.grid is not None and not all(arm.grid) for arm in self.arms):
            yield "arms: a list of a grid is empty; leave it out, or give it overrides to choose from"


def estimator_name(estimator: EstimatorRecipe) -> str:
    """Return the name of an estimator in result lines, tables and figures."""
    if isinstance(estimator, ManyTimesMeanFieldEstimator):
        return f"{estimator.kind} {estimator.boundaries}"
    return estimator.kind
