# The public names of diffpo. `__init__.py` loads each from here when it is first used; editors and mypy read it too.

__version__: str
__all__: list[str]

# recipes and the loops that take them
# errors
from .api.completed import Completion as Completion
from .api.completed import complete as complete
from .api.evaluated import evaluate as evaluate
from .api.trained_run import TrainedRun as TrainedRun
from .api.trained_run import train as train
from .core.errors import NonFiniteLossError as NonFiniteLossError
from .core.errors import UserError as UserError
from .core.rollout import Rollout as Rollout
from .evaluation.fit_sampler import run_fit_sampler as run_fit_sampler
from .evaluation.loop import Outcome as Outcome
from .evaluation.loop import evaluate_decodings as evaluate_decodings
from .evaluation.measurement import Measurement as Measurement
from .evaluation.run import run_eval as run_eval

# estimators: on which canvases is each token scored?
from .likelihood.masks import (
    Coupled as Coupled,
)
from .likelihood.masks import (
    Elbo as Elbo,
)
from .likelihood.masks import (
    Eubo as Eubo,
)
from .likelihood.sampled import SampledExact as SampledExact
from .likelihood.scoring_plan import Estimator as Estimator
from .likelihood.scoring_plan import ScoringPlan as ScoringPlan
from .likelihood.trajectory import (
    Exact as Exact,
)
from .likelihood.trajectory import (
    ManyTimesMeanField as ManyTimesMeanField,
)
from .likelihood.trajectory import (
    MeanField as MeanField,
)
from .likelihood.trajectory import (
    TwoTimesMeanField as TwoTimesMeanField,
)
from .models.denoiser import Denoiser as Denoiser
from .models.denoiser import ModelDenoiser as ModelDenoiser

# advantages and objectives: what is each completion worth, and what is the loss?
from .objective.advantages import (
    batch_standardized as batch_standardized,
)
from .objective.advantages import (
    group_centered as group_centered,
)
from .objective.advantages import (
    group_standardized as group_standardized,
)
from .objective.advantages import (
    leave_one_out as leave_one_out,
)
from .objective.base import (
    Credit as Credit,
)
from .objective.base import (
    Groups as Groups,
)
from .objective.base import (
    Objective as Objective,
)
from .objective.base import (
    PolicyLoss as PolicyLoss,
)
from .objective.base import (
    token_loss as token_loss,
)
from .objective.clipped import ClippedSurrogate as ClippedSurrogate
from .objective.dmpo import (
    DistributionMatching as DistributionMatching,
)
from .objective.dmpo import (
    Target as Target,
)
from .objective.dmpo import (
    Wddo as Wddo,
)
from .objective.policy_gradient import Reinforce as Reinforce
from .objective.policy_gradient import WeightedLikelihood as WeightedLikelihood
from .recipes import dump_recipe as dump_recipe
from .recipes import load_recipe as load_recipe
from .recipes.tables import (
    EvalRecipe as EvalRecipe,
)
from .recipes.tables import (
    RlRecipe as RlRecipe,
)
from .recipes.tables import (
    SamplerRecipe as SamplerRecipe,
)
from .recipes.tables import (
    SftRecipe as SftRecipe,
)
from .recipes.tables import (
    StudyRecipe as StudyRecipe,
)
from .recipes.tasks import build_task as build_task
from .report.write import write_report as write_report
from .sampling.commit_policy import CommitPolicy as CommitPolicy
from .sampling.commit_rules import ConfidenceCommit as ConfidenceCommit
from .sampling.commit_rules import PlannerCommit as PlannerCommit
from .sampling.controller import Controller as Controller
from .sampling.decoding import Decoding as Decoding
from .sampling.loop import sample as sample

# a trained model and what it draws
from .sampling.policy import (
    Policy as Policy,
)
from .sampling.policy import (
    load as load,
)
from .sampling.policy import (
    save as save,
)
from .sampling.prices import PricedSampler as PricedSampler
from .sampling.risk_rules import CommitRisk as CommitRisk

# rules: which positions does a denoiser call commit?
from .sampling.rules import (
    CappedSum as CappedSum,
)
from .sampling.rules import (
    ConfidenceThreshold as ConfidenceThreshold,
)
from .sampling.rules import (
    EntropyBound as EntropyBound,
)
from .sampling.rules import (
    Leftmost as Leftmost,
)
from .sampling.rules import (
    LowConfidence as LowConfidence,
)
from .sampling.rules import (
    Margin as Margin,
)
from .sampling.rules import (
    Rule as Rule,
)
from .sampling.rules import (
    TopK as TopK,
)

# two ways to train, compared by their frontiers
from .statistics.comparison import (
    FrontierDifference as FrontierDifference,
)
from .statistics.comparison import (
    Frontiers as Frontiers,
)
from .statistics.comparison import (
    compare_frontiers as compare_frontiers,
)
from .study.harness import run_study as run_study

# tasks: problems and their graders
from .tasks.base import (
    Grade as Grade,
)
from .tasks.base import (
    Problem as Problem,
)
from .tasks.base import (
    Task as Task,
)
from .tasks.countdown import Countdown as Countdown
from .tasks.sudoku import Sudoku as Sudoku
from .tasks.text import TextTask as TextTask
from .tasks.walk import Walk as Walk
from .training.rl import run_rl as run_rl
from .training.sft import run_sft as run_sft
