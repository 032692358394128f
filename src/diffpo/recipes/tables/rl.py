"""The recipe of reinforcement learning: `diffpo rl`."""

from collections.abc import Iterable
from typing import Literal

from diffpo.recipes.tables.budget import BudgetRecipe, CheckpointRecipe
from diffpo.recipes.tables.controller import ControllerRecipe
from diffpo.recipes.tables.device import DeviceSettings
from diffpo.recipes.tables.estimators import EstimatorRecipe, TwoTimesMeanFieldEstimator
from diffpo.recipes.tables.fields import Location, Seed
from diffpo.recipes.tables.objectives import (
    ClippedSurrogateObjective,
    ExpertIterationObjective,
    ObjectiveRecipe,
    pairing_problems,
)
from diffpo.recipes.tables.optimizer import LoraRecipe, PolicyOptimizerRecipe
from diffpo.recipes.tables.parallel import ParallelRecipe
from diffpo.recipes.tables.rollout import RolloutRecipe, block_problems, cache_problems, kernel_problems
from diffpo.recipes.tables.rules import EntropyBoundRule
from diffpo.recipes.tables.tasks import SudokuTask, TaskRecipe, grading_problems
from diffpo.recipes.tables.tracking import Track, tracking_problems

DEFAULT_BOUND = EntropyBoundRule().bound


class RlRecipe(DeviceSettings):
    """Reinforcement learning of a denoiser, its controller or both."""

    seed: Seed = 0
    """Of all that is random in the run."""
    base: Location
    """Model to start from, which also is the reference of the KL term: a run, a folder, or ORG/NAME[@REVISION]."""
    task: TaskRecipe = SudokuTask()
    """Where problems come from, and what an answer earns."""
    train: Literal["policy", "controller", "joint"] = "policy"
    """What learns: the denoiser, its learned sampler, or both together."""
    lora: LoraRecipe | None = None
    """What is trained in place of the whole model. Not set: the whole model is."""
    rollout: RolloutRecipe = RolloutRecipe()
    estimator: EstimatorRecipe = TwoTimesMeanFieldEstimator()
    """What stands in for a completion's likelihood."""
    objective: ObjectiveRecipe = ClippedSurrogateObjective()
    """From rewards to a loss."""
    optimizer: PolicyOptimizerRecipe = PolicyOptimizerRecipe(lr=1e-4)
    """How the model's weights are changed."""
    controller: ControllerRecipe = ControllerRecipe()
    """The learned sampler that is trained."""
    budget: BudgetRecipe
    checkpoint: CheckpointRecipe = CheckpointRecipe()
    parallel: ParallelRecipe = ParallelRecipe()
    track: Track = ()
    """Where metrics go besides `metrics.jsonl`, under TRL's names: some of `tensorboard`, `wandb`, `trackio`."""

    def problems(self) -> Iterable[str]:
        yield from tracking_problems(self.track)
        yield from grading_problems("RL", self.task)
        yield from block_problems("rollout.block_length", self.rollout.block_length, self.task)
        yield from cache_problems("rollout.", self.rollout.cache, self.rollout.block_length, self.task)
        yield from kernel_problems("rollout.", self.rollout.cache, self.attention)
        if self.train != "policy" and self.controller.is_commit_policy:
            if self.rollout.rule != EntropyBoundRule():
                yield (
                    f"controller.kind = '{self.controller.kind}' decides which tokens a call commits, so rollout.rule "
                    "has no part in it; leave rollout.rule out"
                )
        elif self.train != "policy" and not isinstance(self.rollout.rule, EntropyBoundRule):
            yield (
                f"train = '{self.train}' trains entropy bounds, which rollout.rule '{self.rollout.rule.kind}' does not "
                "have; use kind = 'entropy-bound' or train = 'policy'"
            )
        if self.rollout.speeds is not None and self.train != "policy":
            yield (
                f"rollout.speeds draws the entropy bounds that train = '{self.train}' would learn; "
                "use train = 'policy', or leave rollout.speeds out"
            )
        rule = self.rollout.rule
        if self.rollout.speeds is not None and isinstance(rule, EntropyBoundRule) and rule.bound != DEFAULT_BOUND:
            yield (
                f"rollout.speeds draws the bound of each prompt, so rollout.rule.bound {rule.bound:g} has no part in "
                "it; leave one of the two out"
            )
        if self.controller.is_commit_policy and self.train == "policy":
            yield (
                f"controller.kind = '{self.controller.kind}' is trained with train = 'controller' or 'joint', and it "
                "is 'policy'; change it, or leave controller.kind out"
            )
        if self.controller.greedy_stage and self.train != "joint":
            yield (
                f"controller.greedy_stage is the end of a joint run, and train = '{self.train}' is none; "
                "leave it out or use train = 'joint'"
            )
        if self.controller.objective == "shared" and self.train != "joint":
            yield (
                "controller.objective = 'shared' makes the bound a token of the policy's loss, which train = "
                f"'{self.train}' does not train together with it; use train = 'joint' or objective = 'own'"
            )
        if self.controller.objective == "shared" and self.controller.greedy_stage:
            yield (
                "controller.greedy_stage trains the controller alone, and with objective = 'shared' it has no loss of "
                "its own; leave it out or use objective = 'own'"
            )
        if self.lora is not None and self.train == "controller":
            yield "lora trains the model, and train = 'controller' leaves it alone; leave lora out"
        if isinstance(self.objective, ExpertIterationObjective):
            if self.train != "policy":
                yield (
                    f"objective 'expert-iteration' trains a policy alone, and train is '{self.train}'; "
                    "use train = 'policy', or another objective"
                )
            return
        yield from pairing_problems(self.objective, self.estimator)
        if self.rollout.group_size < 2:
            yield (
                "rollout.group_size 1 leaves a completion nothing to be compared with; use 2 or more, or "
                "objective.kind = 'expert-iteration', which compares none"
            )
        if self.rollout.temperature == 0 and self.train != "controller":
            yield (
                "rollout.temperature 0 draws the same completion every time, from which a policy learns nothing; "
                "raise it, or train the controller alone (train = 'controller')"
            )
