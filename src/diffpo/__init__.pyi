# The public names of diffpo. `__init__.py` loads each from here when it is first used; editors and mypy read it too.

__version__: str
__all__: list[str]

# recipes and the loops that take them
from .recipes import dump_recipe as dump_recipe, load_recipe as load_recipe
from .recipes.tables import (
    EvalRecipe as EvalRecipe,
    RlRecipe as RlRecipe,
    SftRecipe as SftRecipe,
    StudyRecipe as StudyRecipe,
)
from .recipes.tasks import build_task as build_task
from .training.rl import run_rl as run_rl
from .training.sft import run_sft as run_sft
from .evaluation.run import run_eval as run_eval
from .study.harness import run_study as run_study
from .report.page import write_report as write_report

# a trained model and what it draws
from .sampling.policy import (
    Policy as Policy,
    load as load,
    save as save,
)
from .sampling.controller import Controller as Controller
from .models.denoiser import Denoiser as Denoiser, ModelDenoiser as ModelDenoiser
from .evaluation.completing import Completion as Completion, complete as complete
from .evaluation.loop import Outcome as Outcome, evaluate as evaluate
from .sampling.decoding import Decoding as Decoding
from .sampling.loop import sample as sample
from .core.rollout import Rollout as Rollout

# rules: which positions does a denoiser call commit?
from .sampling.rules import (
    ConfidenceThreshold as ConfidenceThreshold,
    EntropyBound as EntropyBound,
    LowConfidence as LowConfidence,
    Rule as Rule,
    TopK as TopK,
)

# estimators: on which canvases is each token scored?
from .likelihood.masks import (
    Coupled as Coupled,
    Elbo as Elbo,
    Eubo as Eubo,
)
from .likelihood.scoring_plan import Estimator as Estimator, ScoringPlan as ScoringPlan
from .likelihood.trajectory import (
    Exact as Exact,
    ManyTimesMeanField as ManyTimesMeanField,
    MeanField as MeanField,
    TwoTimesMeanField as TwoTimesMeanField,
)

# advantages and objectives: what is each completion worth, and what is the loss?
from .objective.advantages import (
    batch_standardized as batch_standardized,
    group_centered as group_centered,
    group_standardized as group_standardized,
    leave_one_out as leave_one_out,
)
from .objective.base import (
    Credit as Credit,
    Groups as Groups,
    Objective as Objective,
    PolicyLoss as PolicyLoss,
    token_loss as token_loss,
)
from .objective.clipped import ClippedSurrogate as ClippedSurrogate
from .objective.dmpo import (
    DistributionMatching as DistributionMatching,
    Target as Target,
    Wddo as Wddo,
)
from .objective.policy_gradient import Reinforce as Reinforce, WeightedLikelihood as WeightedLikelihood

# tasks: problems and their graders
from .tasks.base import (
    Grade as Grade,
    Problem as Problem,
    Task as Task,
)
from .tasks.countdown import Countdown as Countdown
from .tasks.sudoku import Sudoku as Sudoku
from .tasks.text import TextTask as TextTask
from .tasks.walk import Walk as Walk

# errors
from .core.errors import NonFiniteLossError as NonFiniteLossError, UserError as UserError
