"""The arithmetic and the memory traffic of forward and backward passes, optimiser steps and draws.

Operators run one after another, so times add up: products take the longer of their arithmetic and the reading of their
weights, all else its reading and writing, and each operator at least the time of its start.
"""

from dataclasses import dataclass

from diffpo.models.denoiser import FULL_LOGITS_MAX_VOCAB
from diffpo.runs.dry_run.accelerators import Accelerator, Number
from diffpo.runs.dry_run.size import Size
from diffpo.runs.muon import ITERATIONS

FLOAT32 = 4
ATTENTION_BACKWARD = 2.5
"""Arithmetic of attention's backward pass over that of its forward pass, whose scores are made again."""


@dataclass(frozen=True)
class PerLayer:
    """What a block's operators other than products move and are, forward and backward: bytes for each number of a
    token's state and of its feed-forward part, and how many operators there are. Counted on the code by a test."""

    width: Number
    hidden: Number
    operators: int
    backward_width: Number
    backward_hidden: Number
    backward_operators: int


PLAIN = {4: PerLayer(153, 20, 30, 358, 36, 61), 2: PerLayer(169, 10, 38, 336, 18, 71)}
"""A block's, by the bytes of the model's numbers."""
ADAPTED = {4: PerLayer(253, 60, 58, 437, 64, 92), 2: PerLayer(325, 64, 80, 492, 70, 123)}
"""The same with an adapter on its seven matrices, of any rank: its sums are as large as the matrices' outputs."""
SCORED_BYTES = 24
"""Bytes moved for each logit of which a log-probability is taken: logits, their softmax, and what a gradient takes."""
DRAWN_BYTES = 100
"""Bytes moved for each logit that a rollout draws from: softmax, cumulative sums in float64, and the rule's score."""
CALL_OPERATORS = 250
"""Operators of a call of the denoising loop besides the blocks'."""
COMPLETION_OPERATORS = 60
"""What a completion takes beside its calls, told in operators: its text, its noise and a quick grader. Fitted on the
tiny model; slow graders are not counted."""
DRAW_OPERATORS = 6
"""The same of each of its calls: finding equal canvases, drawing, committing. Fitted likewise."""
ADAM_BYTES = 28
"""Bytes that AdamW reads and writes for each trained number: the number, its gradient and two moments."""
MUON_BYTES = 68
"""The same of Muon: momentum, direction, the stacked directions and the update, and its gradient's."""
GRADIENT_BYTES = 16
"""Bytes that clearing, adding up, measuring and clipping move for each gradient's number."""


@dataclass(frozen=True)
class Model:
    """A model's size, and how it is trained and computed."""

    size: Size
    width: int
    """Bytes of a number."""
    adapter: int = 0
    """Numbers of a float32 adapter; 0 without one."""
    is_checkpointed: bool = False

    @property
    def layer(self) -> PerLayer:
        """What a block's operators other than products move."""
        return (ADAPTED if self.adapter else PLAIN)[self.width]

    @property
    def weight_bytes(self) -> Number:
        """Bytes of the weights that a call reads: all but the embedding, whose rows are looked up."""
        size = self.size
        return (size.parameters - size.vocabulary * size.width) * self.width + self.adapter * FLOAT32


@dataclass(frozen=True)
class Call:
    """Canvases that a denoiser is shown at a time, or several times."""

    canvases: Number
    tokens: Number
    """Tokens of each that are computed."""
    outputs: Number
    """Positions of each whose logits are wanted; the last block computes no others."""
    context: Number
    """Tokens that each token attends to."""
    times: Number = 1.0
    """How many such calls there are."""


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a pass, by part."""

    matrices: Number
    attention: Number
    head: Number
    adapter: Number

    @property
    def total(self) -> Number:
        """All of them."""
        return self.matrices + self.attention + self.head + self.adapter


def forward_flops(model: Model, call: Call) -> Flops:
    """Return the operations of one forward pass: two for each weight and token, and those of attention's products.

    The last block computes keys and values for all tokens, and the rest for `outputs`.
    """
    size = model.size
    tokens, outputs = call.canvases * call.tokens, call.canvases * call.outputs
    each = size.block_weights / size.layers
    keys_and_values = size.width * size.cached / size.layers
    whole = (size.layers - 1) * tokens
    last = keys_and_values * tokens + (each - keys_and_values) * outputs
    return Flops(
        matrices=2 * (each * whole + last),
        attention=4 * size.width * call.context * (whole + outputs),
        head=2 * size.width * size.vocabulary * outputs,
        adapter=2 * model.adapter / size.layers * (whole + outputs),
    )


def backward_flops(model: Model, call: Call) -> Flops:
    """Return the operations of one backward pass; frozen matrices need no gradients of their own.

    With gradient checkpointing the blocks are computed once more. A large vocabulary's logits are never kept: they are
    made again, but for a frozen head, whose gradient comes with the forward pass.
    """
    forward = forward_flops(model, call)
    again = 1 if model.is_checkpointed else 0
    own = 1 if model.adapter else 2
    head = own + (1 if own == 2 and model.size.vocabulary > FULL_LOGITS_MAX_VOCAB else 0)
    return Flops(
        matrices=(own + again) * forward.matrices,
        attention=(ATTENTION_BACKWARD + again) * forward.attention,
        head=head * forward.head,
        adapter=(2 + again) * forward.adapter,
    )


def products_seconds(model: Model, flops: Flops, weight_bytes: Number, device: Accelerator) -> Number:
    """Return the seconds of a pass's products; an adapter's are float32."""
    own = (flops.matrices + flops.head) / device.rate(model.width) + flops.adapter / device.rate(FLOAT32)
    own += flops.attention / (device.attention or device.rate(model.width))
    return max(own, weight_bytes / device.memory_bandwidth)


def forward_seconds(model: Model, call: Call, device: Accelerator, head_bytes: Number = SCORED_BYTES) -> Number:
    """Return the seconds of a call's forward passes; `head_bytes` are moved for each logit."""
    size, layer = model.size, model.layer
    tokens, outputs = call.canvases * call.tokens, call.canvases * call.outputs
    if not tokens:  # a pilot whose updates had nothing to learn from
        return 0
    layers = (size.layers - 1) + outputs / tokens
    moved = tokens * layers * (layer.width * size.width + layer.hidden * size.hidden)
    moved += outputs * size.vocabulary * head_bytes
    started = size.layers * layer.operators * device.operator_seconds
    products = products_seconds(model, forward_flops(model, call), model.weight_bytes, device)
    return call.times * (products + moved / device.memory_bandwidth + started)


def backward_seconds(model: Model, call: Call, device: Accelerator) -> Number:
    """Return the seconds of a call's backward passes."""
    size, layer = model.size, model.layer
    tokens, outputs = call.canvases * call.tokens, call.canvases * call.outputs
    again = 1 if model.is_checkpointed else 0
    if not tokens:
        return 0
    layers = (size.layers - 1) + outputs / tokens
    wide, narrow = layer.backward_width + again * layer.width, layer.backward_hidden + again * layer.hidden
    moved = tokens * layers * (wide * size.width + narrow * size.hidden)
    moved += outputs * size.vocabulary * SCORED_BYTES
    started = size.layers * (layer.backward_operators + again * layer.operators) * device.operator_seconds
    read = (1 + again) * model.weight_bytes + size.trained * FLOAT32 * 2  # gradients are added to those that are there
    products = products_seconds(model, backward_flops(model, call), read, device)
    return call.times * (products + moved / device.memory_bandwidth + started)


def adamw_bytes(numbers: Number, has_masters: bool) -> Number:
    """Return the bytes that an optimiser step moves for so many trained numbers."""
    return numbers * (ADAM_BYTES + GRADIENT_BYTES + (6 if has_masters else 0))


def muon_flops(rows: Number, columns: Number) -> Number:
    """Return the operations of Muon's orthogonalisation of one matrix.

    It multiplies the shorter side's Gram matrices, and a matrix that is nearly square in each iteration.
    """
    short, long = min(rows, columns), max(rows, columns)
    wide, square = 2.0 * short * short * long, 2.0 * short**3
    if 4 * short > 3 * long:
        return ITERATIONS * (2 * wide + square)
    return 2 * wide + square * (ITERATIONS + (ITERATIONS - 1) + 2 * (ITERATIONS - 1))


def muon_step_flops(model: Model) -> Number:
    """Return the operations of Muon on all matrices of the blocks, or on an adapter's factors of each."""
    size = model.size
    keys = size.cached / size.layers / 2
    sides: list[Number] = [size.width, size.width, keys, keys, size.hidden, size.hidden, size.hidden]
    shapes: list[tuple[Number, Number]] = [(size.width, side) for side in sides]
    if model.adapter:
        rank = model.adapter / size.layers / sum(rows + columns for rows, columns in shapes)
        shapes = [(rank, side) for shape in shapes for side in shape]
    return size.layers * sum(muon_flops(rows, columns) for rows, columns in shapes)


def optimiser_seconds(model: Model, device: Accelerator, is_muon: bool, shard: int = 1) -> Number:
    """Return the seconds of one optimiser step of a device, which changes a shard of what is trained."""
    size, has_masters = model.size, model.width < FLOAT32 and not model.adapter
    matrices = size.trained_matrices if is_muon else 0
    moved = adamw_bytes(size.trained - matrices, has_masters) + MUON_BYTES * matrices
    seconds = moved / device.memory_bandwidth
    if is_muon:
        seconds += muon_step_flops(model) / device.rate(FLOAT32)
    return seconds / shard
