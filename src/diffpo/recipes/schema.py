"""The recipes: a complete, closed description of a run. Imports no torch; `recipes/parts.py` turns kinds into parts."""

from collections.abc import Iterable
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from diffpo.core.options import CacheKind, KlEstimator, LossAggregation
from diffpo.recipes.strict import Strict
from diffpo.tasks import countdown, text, walk
from diffpo.tasks.custom_reward import is_reward_name

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
AdvantageKind = Literal["group-centered", "group-std", "batch-std", "leave-one-out"]
Attention = Literal["sdpa", "flash_attention_2", "flex_attention"]


def _own_reward(name: str) -> str:
    if not is_reward_name(name):
        raise ValueError(f"should be a function of your own, FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, got {name!r}")
    return name


def _text_reward(name: str) -> str:
    if name not in get_args(text.Reward) and not is_reward_name(name):
        known = " or ".join(map(repr, get_args(text.Reward)))
        raise ValueError(
            f"should be {known}, or a function of your own, FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, got {name!r}"
        )
    return name


class GameSettings(Strict):
    """What the tasks in characters have in common."""

    reward: Annotated[str, AfterValidator(_own_reward)] | None = None
    """A function of one's own, file.py:function or package.module:function; None: the task's."""


class SudokuTask(GameSettings):
    kind: Literal["sudoku"] = "sudoku"
    """The one task whose kind may be left out."""
    size: Literal[4, 6] = 4
    min_clues: Count | None = None
    max_clues: Count | None = None
    cell_credit: Share = 0.0
    """What a wrong grid that keeps its clues earns, times its share of right cells."""

    @property
    def completion_length(self) -> int:
        return self.size * self.size

    def problems(self) -> Iterable[str]:
        if self.min_clues is not None and self.max_clues is not None and self.min_clues > self.max_clues:
            yield f"min_clues {self.min_clues} is above max_clues {self.max_clues}; swap them"
        for name, clues in (("min_clues", self.min_clues), ("max_clues", self.max_clues)):
            if clues is not None and clues >= self.completion_length:
                yield f"{name} {clues} leaves no empty cell of {self.completion_length}; lower it"


class CountdownTask(GameSettings):
    kind: Literal["countdown"]
    max_number: Annotated[int, Field(ge=countdown.NUMBERS[0], le=countdown.NUMBERS[1])] = 9
    max_target: Annotated[int, Field(ge=countdown.TARGETS[0], le=countdown.TARGETS[1])] = 99
    operators: countdown.Operators = "+-*/"
    """Those of the answers to learn from; with them every target can be reached."""
    number_credit: Share = 0.0
    """What an expression of the right numbers earns that is not worth the target."""

    @property
    def completion_length(self) -> int:
        return countdown.longest_answer(self.max_number)


class WalkTask(GameSettings):
    kind: Literal["walk"]
    successors: Annotated[int, Field(ge=walk.SUCCESSORS[0], le=walk.SUCCESSORS[1])] = 2
    """Legal nodes for each step."""
    length: Annotated[int, Field(ge=walk.LENGTHS[0], le=walk.LENGTHS[1])] = 8
    step_credit: Share = 0.0
    """What a walk that is not legal throughout earns, times its share of legal steps."""

    @property
    def completion_length(self) -> int:
        return self.length


class SourceSettings(Strict):
    """What the tasks put in words have in common."""

    source: str | None = None
    """A file, a folder with train and test files, or owner/name[@revision][:configuration]; None: the published one."""
    completion_length: Count = 256
    max_prompt_tokens: Count | None = None
    """Of a prompt in the model's frame; longer ones are left out. None: the model's positions less the completion."""
    instructions: str | None = None
    """What stands before each question; None: the task's own text."""


class TextSettings(SourceSettings):
    """Those of them whose answers can be graded."""

    test_source: str | None = None
    """The same for test rows; None: those of `source`, or the published ones where that is None too."""
    few_shot: Annotated[int, Field(ge=0, le=text.MAX_FEW_SHOT)] = 0
    """Train rows that are shown before each question."""
    reward: Annotated[str, AfterValidator(_text_reward)] = "correct"
    """correct: 1 or 0; d1: d1's recipe with its flaws mended; or file.py:function, package.module:function."""


class Gsm8kTask(TextSettings):
    kind: Literal["gsm8k"]


class Math500Task(TextSettings):
    kind: Literal["math500"]


class CountdownD1Task(TextSettings):
    kind: Literal["countdown-d1"]


class SudokuD1Task(TextSettings):
    """d1's split, by puzzle."""

    kind: Literal["sudoku-d1"]


class SudokuSpgTask(TextSettings):
    """SPG's split, by solution grid."""

    kind: Literal["sudoku-spg"]


class S1kTask(SourceSettings):
    """Reasoning traces to learn from; nothing of it can be graded."""

    kind: Literal["s1k"]


TaskRecipe = Annotated[
    SudokuTask
    | CountdownTask
    | WalkTask
    | Gsm8kTask
    | Math500Task
    | CountdownD1Task
    | SudokuD1Task
    | SudokuSpgTask
    | S1kTask,
    Field(discriminator="kind"),
]


class EntropyBoundRule(Strict):
    kind: Literal["entropy-bound"] = "entropy-bound"
    bound: NonNegative = 0.1
    subtract_max: bool = True


class ConfidenceRule(Strict):
    kind: Literal["confidence"] = "confidence"
    threshold: Share = 0.9


class TopKRule(Strict):
    kind: Literal["top-k"] = "top-k"
    k: Count = 1


class LowConfidenceRule(Strict):
    kind: Literal["low-confidence"] = "low-confidence"
    k: Count = 1


RuleRecipe = Annotated[EntropyBoundRule | ConfidenceRule | TopKRule | LowConfidenceRule, Field(discriminator="kind")]


class MeanFieldEstimator(Strict):
    kind: Literal["mean-field"] = "mean-field"
    prompt_mask_rate: Annotated[float, Field(ge=0, lt=1)] = 0.15


class TwoTimesMeanFieldEstimator(Strict):
    kind: Literal["two-times-mean-field"] = "two-times-mean-field"


class ManyTimesMeanFieldEstimator(Strict):
    kind: Literal["many-times-mean-field"] = "many-times-mean-field"
    boundaries: Annotated[int, Field(ge=2)] = 4
    """Canvases for each rollout, the fully masked one among them; 2 is two-times-mean-field."""


class ExactEstimator(Strict):
    kind: Literal["exact"] = "exact"


class CoupledEstimator(Strict):
    kind: Literal["coupled"] = "coupled"
    min_rate: Share = 0.2
    max_rate: Share = 0.8
    weighting: Literal["plain", "published"] = "plain"
    """plain: a token's log-probability where it is masked; published: DiffuCoder's weighted sum with mean-field."""

    def problems(self) -> Iterable[str]:
        if self.min_rate > self.max_rate:
            yield f"min_rate {self.min_rate} is above max_rate {self.max_rate}; swap them"


class MaskDraws(Strict):
    """What the bounds have in common."""

    draws: Count = 2
    antithetic: bool = True
    """Half of the masks are complements of the others."""

    def problems(self) -> Iterable[str]:
        if self.antithetic and self.draws % 2:
            yield f"draws {self.draws} is odd, but antithetic masks come in pairs; make it even or antithetic = false"


class ElboEstimator(MaskDraws):
    kind: Literal["elbo"] = "elbo"


class EuboEstimator(MaskDraws):
    """SPG: the ELBO, but for completions of negative advantage a mixture with an upper bound."""

    kind: Literal["eubo"] = "eubo"
    beta: Annotated[float, Field(ge=1)] = 1.5
    mix: Share = 0.5


EstimatorRecipe = Annotated[
    MeanFieldEstimator
    | TwoTimesMeanFieldEstimator
    | ManyTimesMeanFieldEstimator
    | ExactEstimator
    | CoupledEstimator
    | ElboEstimator
    | EuboEstimator,
    Field(discriminator="kind"),
]


class RolloutRecipe(Strict):
    prompts_per_step: Count = 16
    group_size: Annotated[int, Field(ge=2)] = 8
    temperature: NonNegative = 1.0
    block_length: Count | None = None
    """None: one block, the whole completion."""
    max_in_flight: Count | None = None
    """Completions in flight at a time; one that is done makes room for the next. None: all at once."""
    cache: CacheKind = "none"
    """Keys and values kept within a block, approximately: dual: of all but the block; prefix: of what is before it."""
    rule: RuleRecipe = EntropyBoundRule()

    def problems(self) -> Iterable[str]:
        if isinstance(self.rule, LowConfidenceRule):
            yield (
                "rule.kind: 'low-confidence' looks at the drawn token, so its log-probabilities are not those of the "
                "rollout; train with 'entropy-bound', 'confidence' or 'top-k' and keep it for evaluation"
            )


class UpdateSettings(Strict):
    """What all objectives have in common."""

    nfe_penalty: Share = 0.0
    """What a solved problem loses of its reward at one call per token (gated speed); 0: accuracy only."""
    num_iterations: Count = 2
    micro_batch_size: Count | None = None
    """Completions of one forward and backward pass, in each process; None: all that it has."""
    drop_zero_std_groups: bool = False
    """Leave prompts whose completions all earned the same out of the update, KL included: DAPO's filter."""


class AdvantageSettings(UpdateSettings):
    """What objectives have in common that credit completions by their advantage."""

    loss_aggregation: LossAggregation = "token-mean"
    advantage: AdvantageKind = "group-centered"
    kl_coef: NonNegative = 0.0
    kl_estimator: KlEstimator = "full"


class ClippedSurrogateObjective(AdvantageSettings):
    """diffu-GRPO; with `importance_cap` DiFFPO; on coupled masks coupled-GRPO."""

    kind: Literal["clipped-surrogate"] = "clipped-surrogate"
    """The one objective whose kind may be left out."""
    loss_aggregation: LossAggregation = "sequence-mean"
    advantage: AdvantageKind = "group-std"
    kl_coef: NonNegative = 0.05
    clip: Positive = 0.2
    importance_cap: Positive | None = None
    """C of the truncated importance weight surrogate / behaviour; None: no correction."""
    importance_floor: NonNegative = 0.0
    """The weight is truncated from below, too."""
    importance_on: Literal["all", "positive"] = "all"
    """positive: completions whose advantage is not positive keep weight 1."""

    def problems(self) -> Iterable[str]:
        if self.importance_cap is None and (self.importance_floor > 0 or self.importance_on != "all"):
            yield "importance_floor and importance_on shape importance weights, and without importance_cap there are none; set it"
        if self.importance_cap is not None and self.importance_floor > self.importance_cap:
            yield f"importance_floor {self.importance_floor} is above importance_cap {self.importance_cap}; swap them"


class ReinforceObjective(AdvantageSettings):
    """REINFORCE leave-one-out; on the `eubo` estimator SPG."""

    kind: Literal["reinforce"]
    advantage: AdvantageKind = "leave-one-out"
    num_iterations: Count = 1


class WeightedLikelihoodObjective(AdvantageSettings):
    """wd1."""

    kind: Literal["weighted-likelihood"]
    psi: Positive = 1.0
    """How sharply weights follow the advantage."""


class TargetSettings(UpdateSettings):
    """DMPO's target, the base tilted by the reward. It holds on to the base by itself, so there is no KL term."""

    alpha: Positive = 0.04
    proximal: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Step from the policy (0) to the tilted base (1)."""
    min_ess: Annotated[float, Field(gt=0, le=1)] | None = None
    """Shorten each prompt's step until its weights' effective sample size is this share of the group."""

    @property
    def advantage(self) -> AdvantageKind:
        return "group-centered"

    @property
    def kl_coef(self) -> float:
        return 0.0

    @property
    def kl_estimator(self) -> KlEstimator:
        return "full"


class DistributionMatchingObjective(TargetSettings):
    """DMPO's weighted denoising cross-entropy."""

    kind: Literal["distribution-matching"]
    baseline: Literal["none", "mean", "unbias", "neg"] = "neg"
    """What is subtracted from the weights."""

    @property
    def loss_aggregation(self) -> LossAggregation:
        return "token-mean"


class WddoObjective(TargetSettings):
    """DMPO's weighted discriminator."""

    kind: Literal["wddo"]
    beta: Positive = 1.0
    fake: Positive = 1.0
    """Weight of the samples that the discriminator should reject."""

    @property
    def loss_aggregation(self) -> LossAggregation:
        return "sequence-mean"


ObjectiveRecipe = Annotated[
    ClippedSurrogateObjective
    | ReinforceObjective
    | WeightedLikelihoodObjective
    | DistributionMatchingObjective
    | WddoObjective,
    Field(discriminator="kind"),
]


class AdamRecipe(Strict):
    lr: Positive
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.95
    weight_decay: NonNegative = 0.0
    grad_clip: Positive = 1.0
    warmup: Annotated[int, Field(ge=0)] = 0
    """Updates over which the learning rate rises from 0."""
    decay: Literal["none", "linear"] = "none"
    """linear: the rate falls to 0 as the budget is spent, that of each stage where the sampler settles at the end."""


class PolicyOptimizerRecipe(AdamRecipe):
    kind: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonalised updates for the blocks' matrices, at ten times `lr`; AdamW for the rest."""


class LoraRecipe(Strict):
    """Train a low-rank adapter on all matrices of the blocks instead of the model itself; needs peft."""

    rank: Count = 128
    alpha: Count = 64
    """What the adapter adds is scaled by alpha / rank."""
    base_bits: Literal[4] | None = None
    """4: keep the model under the adapter in 4 bits, a third of the memory of bfloat16; needs bitsandbytes."""


class GreedyStageRecipe(Strict):
    """The end of a joint run, in which the policy rests and the bounds learn from greedy rollouts."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Of the run's budget."""
    nfe_penalty: Share = 0.3
    lr: Positive = 3e-3


class ControllerRecipe(Strict):
    initial_bound: Positive = 0.3
    initial_spread: Positive = 1.0
    hidden: Count = 64
    nfe_penalty: Share = 0.3
    """As `objective.nfe_penalty`, for the credit of the bounds."""
    coef: Positive = 1.0
    clip: Positive = 0.2
    advantage: AdvantageKind = "batch-std"
    momentum: Share = 0.05
    """How fast the running statistics that standardise its features follow the model."""
    optimizer: AdamRecipe = AdamRecipe(lr=3e-3)
    greedy_stage: GreedyStageRecipe | None = None


class BudgetRecipe(Strict):
    """A run ends at the first limit it reaches."""

    steps: Count | None = None
    denoiser_calls: Count | None = None

    def problems(self) -> Iterable[str]:
        if self.steps is None and self.denoiser_calls is None:
            yield "neither steps nor denoiser_calls is given, so the run would not end; set one"


class CheckpointRecipe(Strict):
    every: Count = 20
    keep: Count = 2


class DeviceSettings(Strict):
    """Where the model is, and how its numbers are kept."""

    threads: Count | None = None
    """Torch threads; None: torch's own choice. Another number may change the last bits of a result."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a CUDA device if there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights; an adapter's own are float32 beside bfloat16."""
    gradient_checkpointing: bool = False
    """Keep one activation for each block, and compute the others again: less memory, a third more arithmetic."""
    attention: Attention = "sdpa"
    """Kernels: torch's own, or others that transformers knows, for CUDA."""
    compile: bool = False
    """Compile the blocks by torch.compile, which takes minutes at first; on a CPU it gains nothing (docs/log.md)."""


class RlRecipe(DeviceSettings):
    seed: int = 0
    base: str
    """Model to start from, which also is what the KL term holds on to: a run, a folder, or ORG/NAME[@REVISION]."""
    task: TaskRecipe = SudokuTask()
    train: Literal["policy", "controller", "joint"] = "policy"
    lora: LoraRecipe | None = None
    rollout: RolloutRecipe = RolloutRecipe()
    estimator: EstimatorRecipe = TwoTimesMeanFieldEstimator()
    objective: ObjectiveRecipe = ClippedSurrogateObjective()
    optimizer: PolicyOptimizerRecipe = PolicyOptimizerRecipe(lr=1e-4)
    controller: ControllerRecipe = ControllerRecipe()
    budget: BudgetRecipe
    checkpoint: CheckpointRecipe = CheckpointRecipe()

    def problems(self) -> Iterable[str]:
        yield from grading_problems("RL", self.task)
        yield from block_problems("rollout.block_length", self.rollout.block_length, self.task)
        yield from cache_problems("rollout.", self.rollout.cache, self.rollout.block_length, self.task)
        yield from kernel_problems("rollout.", self.rollout.cache, self.attention)
        if self.train != "policy" and not isinstance(self.rollout.rule, EntropyBoundRule):
            yield (
                f"train = '{self.train}' trains entropy bounds, which rollout.rule '{self.rollout.rule.kind}' does not "
                "have; use kind = 'entropy-bound' or train = 'policy'"
            )
        if self.controller.greedy_stage and self.train != "joint":
            yield (
                f"controller.greedy_stage is the end of a joint run, and train = '{self.train}' is none; "
                "leave it out or use train = 'joint'"
            )
        if self.lora is not None and self.train == "controller":
            yield "lora trains the model, and train = 'controller' leaves it alone; leave lora out"
        yield from pairing_problems(self.objective, self.estimator)
        if self.rollout.temperature == 0 and self.train != "controller":
            yield (
                "rollout.temperature 0 draws the same completion every time, from which a policy learns nothing; "
                "raise it, or train the controller alone (train = 'controller')"
            )


class TinyModel(Strict):
    """LLaDA's architecture at any size; the vocabulary is the task's alphabet."""

    d_model: Count = 128
    n_layers: Count = 4
    n_heads: Count = 4
    mlp_hidden_size: Count = 352
    rope_theta: Positive = 100.0
    """The published 500000 is for thousands of positions; over tens it turns too slowly to tell them apart."""

    def problems(self) -> Iterable[str]:
        if self.d_model % self.n_heads:
            yield f"d_model {self.d_model} is no multiple of n_heads {self.n_heads}; change one of them"
        elif self.d_model // self.n_heads % 2:
            yield f"d_model / n_heads is {self.d_model // self.n_heads}, but rotary positions need an even number"


class EarlyStopping(Strict):
    """End SFT at the first check where the model solves this share of validation problems, greedily."""

    accuracy: Annotated[float, Field(gt=0, le=1)] = 1.0
    bound: NonNegative = 0.0
    """The entropy bound of the checks; 0: one token per call. Fewer calls are quicker checks, and a stricter test."""
    problems_per_check: Count = 128
    start: Annotated[int, Field(ge=0)] = 0
    every: Count = 10


class SftRecipe(DeviceSettings):
    seed: int = 0
    base: str | None = None
    """Model to go on from, as in RL; None: a fresh one of `model`'s size."""
    lora: LoraRecipe | None = None
    task: TaskRecipe = SudokuTask()
    model: TinyModel = TinyModel()
    sequence_length: Count | None = None
    """Tokens of a prompt with its completion; None: a prompt, then a canvas of `task.completion_length`."""
    too_long: Literal["cut", "skip"] = "cut"
    """What becomes of an answer for which `sequence_length` has no room: cut off at its end, or left out."""
    batch: Count = 128
    micro_batch_size: Count | None = None
    """Rows that the denoiser is shown at once; None: the whole batch."""
    steps: Count = 400
    """At most; `early_stopping` may end the run before."""
    weighting: Literal["elbo", "uniform"] = "elbo"
    """Weight of a masked token: L / (masked tokens of its row), as in d1 and LLaDA, or the same for all."""
    early_stopping: EarlyStopping | None = None
    optimizer: PolicyOptimizerRecipe = PolicyOptimizerRecipe(lr=1e-3, warmup=20)
    checkpoint: CheckpointRecipe = CheckpointRecipe()

    def problems(self) -> Iterable[str]:
        if self.lora is not None and self.base is None:
            yield "lora adapts a model that is there, and without base there is none; set base, or leave lora out"
        if self.early_stopping is not None:
            yield from grading_problems("early_stopping", self.task)
        if self.sequence_length is None and self.too_long != "cut":
            yield "too_long is about sequence_length, which is not given; set it, or leave too_long out"
        if self.sequence_length is not None and getattr(self.task, "max_prompt_tokens", None) is not None:
            yield "sequence_length limits prompts by itself; leave task.max_prompt_tokens out"


class EvalRecipe(DeviceSettings):
    """Greedy decoding of the same problems under every rule, and under the learned sampler where there is one."""

    seed: int = 0
    model: str
    task: TaskRecipe | None = None
    """None: the task the model was trained on."""
    split: Literal["train", "validation", "test"] = "test"
    count: Annotated[int, Field(ge=2)] = 500
    batch: Count = 256
    max_in_flight: Count | None = None
    """Completions of a batch in flight at a time; one that is done makes room for the next. None: all at once."""
    block_length: Count | None = None
    cache: CacheKind = "none"
    """As `rollout.cache` in RL: quicker, and not what the model itself would say."""
    bounds: tuple[NonNegative, ...] = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
    rules: tuple[RuleRecipe, ...] = ()
    """Rules besides the entropy bounds."""

    def problems(self) -> Iterable[str]:
        if self.task is not None:
            yield from grading_problems("evaluation", self.task)
            yield from cache_problems("", self.cache, self.block_length, self.task)
        yield from kernel_problems("", self.cache, self.attention)


def base_bits(recipe: RlRecipe | SftRecipe) -> Literal[4] | None:
    return recipe.lora.base_bits if recipe.lora is not None else None


def gives_token_probabilities(estimator: EstimatorRecipe) -> bool:
    """Whether each token is read on one canvas, so that surrogate / behaviour is a ratio of probabilities."""
    match estimator:
        case MaskDraws():
            return False
        case CoupledEstimator():
            return estimator.weighting == "plain"
    return True


def pairing_problems(objective: ObjectiveRecipe, estimator: EstimatorRecipe) -> Iterable[str]:
    """Objectives and estimators that make no sense together."""
    has_cap = isinstance(objective, ClippedSurrogateObjective) and objective.importance_cap is not None
    if has_cap and not gives_token_probabilities(estimator):
        yield (
            f"objective.importance_cap compares each token's probability with the one it was drawn with, and estimator "
            f"'{estimator.kind}' gives a weighted sum of several readings instead; leave importance_cap out, or "
            "use an estimator that reads each token once"
        )
    if isinstance(estimator, EuboEstimator) and isinstance(objective, WeightedLikelihoodObjective | TargetSettings):
        yield (
            f"estimator 'eubo' chooses its bound by the sign of the advantage, which objective '{objective.kind}' does "
            "not multiply with; use estimator 'elbo', or objective 'reinforce' (SPG)"
        )
    is_published = isinstance(estimator, CoupledEstimator) and estimator.weighting == "published"
    if isinstance(objective, TargetSettings) and is_published:
        yield (
            f"objective '{objective.kind}' compares likelihoods of whole completions, and estimator 'coupled' with the "
            "published weighting gives none (its weights add up to 3/2); use weighting = 'plain', or estimator 'elbo'"
        )


def grading_problems(name: str, task: TaskRecipe) -> Iterable[str]:
    if isinstance(task, S1kTask):
        yield (
            f"task.kind 's1k' has answers to learn from and none that can be graded, which {name} needs; "
            "choose another task"
        )


def block_problems(name: str, block_length: int | None, task: TaskRecipe) -> Iterable[str]:
    length = task.completion_length
    if block_length is not None and length % block_length:
        divisors = ", ".join(str(d) for d in range(1, length + 1) if length % d == 0)
        yield f"{name} {block_length} does not divide the completion length {length}; use one of {divisors}"


def kernel_problems(prefix: str, cache: CacheKind, attention: Attention) -> Iterable[str]:
    if cache != "none" and attention != "sdpa":
        yield (
            f"{prefix}cache '{cache}' needs attention = 'sdpa', and it is '{attention}'; change it, or set "
            f"{prefix}cache = 'none'"
        )


def cache_problems(prefix: str, cache: CacheKind, block_length: int | None, task: TaskRecipe) -> Iterable[str]:
    length = task.completion_length
    if cache != "none" and (block_length or length) >= length:
        yield (
            f"{prefix}cache '{cache}' renews what it keeps at the beginning of each block, and the completion is one "
            f"block; set {prefix}block_length below {length}, or {prefix}cache = 'none'"
        )
