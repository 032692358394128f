"""The bill before the run: arithmetic, traffic and collectives by hand, and against what torch counts."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.models.adapters import add_adapter
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.llada import LLaDAConfig, LLaDAModelLM
from diffpo.models.model_paths import METRICS, RECIPE
from diffpo.recipes import dump_recipe, load_recipe
from diffpo.recipes.tables import RlRecipe
from diffpo.runs.dry_run.accelerators import ACCELERATORS, Accelerator, named_accelerator, with_rates
from diffpo.runs.dry_run.bill import rollout_calls, update_call
from diffpo.runs.dry_run.communication import (
    Layout,
    Traffic,
    all_gather_seconds,
    all_reduce_seconds,
    communication_seconds,
    replica_bandwidth,
    shard_bandwidth,
)
from diffpo.runs.dry_run.cost import (
    ADAPTED,
    ATTENTION_BACKWARD,
    FLOAT32,
    PLAIN,
    Call,
    Model,
    backward_flops,
    forward_flops,
    forward_seconds,
    muon_flops,
    optimiser_seconds,
)
from diffpo.runs.dry_run.pilot import read_pilot
from diffpo.runs.dry_run.sharding import shard_bytes, shard_sizes
from diffpo.runs.dry_run.size import Size, measure_model
from diffpo.runs.dry_run.summary import Needs, fits, needs_of
from diffpo.runs.muon import orthogonalise

WHOLE_8B = ["dtype=bfloat16", "objective.micro_batch_size=4", "gradient_checkpointing=true"]
SLOW = Accelerator(
    "slow", bfloat16=100.0, float32=10.0, memory_bandwidth=5.0, memory=1.0, link=8.0, network=2.0, source="made up"
)


def tiny(dtype: torch.dtype = torch.float32, width: int = 64, hidden: int = 96, layers: int = 3) -> ModelDenoiser:
    config = LLaDAConfig(d_model=width, n_layers=layers, n_heads=4, n_kv_heads=2, mlp_hidden_size=hidden, vocab_size=40)
    return ModelDenoiser(LLaDAModelLM(config).to(dtype), 5, ())


# -------------------------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("outputs", [4, 12])
def test_operations_of_a_call_are_those_that_torch_counts(outputs: int) -> None:
    denoiser = tiny()
    canvas = torch.zeros(5, 12, dtype=torch.long)
    at = torch.zeros(5, 12, dtype=torch.bool)
    at[:, 12 - outputs :] = True
    model = Model(measure_model(denoiser.model), FLOAT32)
    call = Call(canvases=5, tokens=12, outputs=outputs, context=12)
    told, back = forward_flops(model, call), backward_flops(model, call)
    with sdpa_kernel(SDPBackend.MATH):  # whose products torch counts; their backward pass makes no scores again
        with FlopCounterMode(display=False) as forward:
            output = denoiser.predict(canvas, torch.ones_like(at), at)
        with FlopCounterMode(display=False) as backward:
            output.logits.sum().backward()
    assert told.total == forward.get_total_flops()
    assert back.total - back.attention + 2 * told.attention == backward.get_total_flops()


def test_an_adapter_spares_the_frozen_matrices_gradients_and_adds_its_own_products() -> None:
    denoiser = tiny()
    size = measure_model(denoiser.model)
    add_adapter(denoiser, 4, 4, seed=0)
    adapter = sum(p.numel() for p in denoiser.model.parameters() if p.requires_grad)
    model, call = Model(size, FLOAT32, adapter), Call(5, 12, 12, 12)
    at = torch.ones(5, 12, dtype=torch.bool)
    told, back = forward_flops(model, call), backward_flops(model, call)
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            output = denoiser.predict(torch.zeros(5, 12, dtype=torch.long), at, at)
        with FlopCounterMode(display=False) as backward:
            output.logits.sum().backward()
    assert told.total == forward.get_total_flops()
    first = told.matrices / size.layers / 2  # the first block's inputs need no gradient, so some products fall away
    counted = backward.get_total_flops()
    assert back.total - back.attention + 2 * told.attention - first <= counted <= back.total


def test_operations_by_hand() -> None:
    size = Size(1000, 1000, block_weights=60, layers=2, width=5, hidden=6, vocabulary=7, cached=2 * 2 * 3)
    found = forward_flops(Model(size, FLOAT32), Call(canvases=2, tokens=10, outputs=4, context=10))
    # Each block has 30 weights, 5 x 6 of them for keys and values: the last one uses no others, but for 8 outputs.
    assert found.matrices == 2 * (30 * 20 + 30 * 20 + 0 * 8)
    assert found.attention == 4 * 5 * 10 * (20 + 8)
    assert found.head == 2 * 5 * 7 * 8 and found.adapter == 0
    back = backward_flops(Model(size, FLOAT32, is_checkpointed=True), Call(2, 10, 4, 10))
    assert (back.matrices, back.head) == (3 * found.matrices, 2 * found.head)
    assert back.attention == (ATTENTION_BACKWARD + 1) * found.attention


@pytest.mark.parametrize("shape", [(24, 24), (16, 64), (64, 16)])
def test_operations_of_muon_are_those_that_torch_counts(shape: tuple[int, int]) -> None:
    with FlopCounterMode(display=False) as counted:
        orthogonalise(torch.randn(1, *shape))
    assert muon_flops(*shape) == counted.get_total_flops()


def test_a_pass_takes_products_or_reading_and_all_else_on_top() -> None:
    size = Size(100, 0, block_weights=60, layers=1, width=2, hidden=3, vocabulary=4)
    call = Call(canvases=1, tokens=1, outputs=1, context=1, times=3)
    products = max((2 * 60 + 4 * 2 + 2 * 2 * 4) / 10, (100 - 8) * 4 / 5)
    moved = (PLAIN[4].width * 2 + PLAIN[4].hidden * 3 + 24 * 4) / 5
    started = PLAIN[4].operators * SLOW.operator_seconds
    assert forward_seconds(Model(size, 4), call, SLOW) == pytest.approx(3 * (products + moved + started))


def test_an_optimiser_step_is_divided_among_the_shards() -> None:
    model = Model(Size(1000, 1000, 0, 1, 1, 1, 1), 2)
    assert optimiser_seconds(model, SLOW, is_muon=False) == pytest.approx(1000 * (28 + 16 + 6) / 5)
    assert optimiser_seconds(model, SLOW, is_muon=False, shard=4) == pytest.approx(250 * (28 + 16 + 6) / 5)


# ----------------------------------------------------------------------------------------------------------- traffic

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}


class Traffic_(TorchDispatchMode):
    """Adds up the bytes of inputs and outputs of operators that make something and are no products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        held = {t.untyped_storage()._cdata for t in given}
        is_view = not name.endswith("_") and all(t.untyped_storage()._cdata in held for t in made)
        if name not in PRODUCTS and not is_view:
            self.moved += sum(t.nbytes for t in {id(t): t for t in [*given, *made]}.values())
        return out


def moved(dtype: torch.dtype, rank: int | None, layers: int, width: int, hidden: int) -> tuple[int, int]:
    config = LLaDAConfig(d_model=width, n_layers=layers, n_heads=4, mlp_hidden_size=hidden, vocab_size=8)
    denoiser = ModelDenoiser(LLaDAModelLM(config).to(dtype), 5, ())
    if rank is not None:
        add_adapter(denoiser, rank, rank, seed=0)
    at = torch.ones(8, 64, dtype=torch.bool)
    with Traffic_() as forward:
        output = denoiser.predict(torch.zeros(8, 64, dtype=torch.long), at, at)
    with Traffic_() as backward:
        output.logits.sum().backward()
    return forward.moved, backward.moved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [None, 4])
def test_what_a_block_moves_is_near_what_its_operators_read_and_write(dtype: torch.dtype, rank: int | None) -> None:
    told = (PLAIN if rank is None else ADAPTED)[dtype.itemsize]
    for width, hidden in ((128, 384), (256, 256)):
        many, few = (moved(dtype, rank, layers, width, hidden) for layers in (4, 2))
        forward, backward = ((a - b) / 2 / 512 for a, b in zip(many, few, strict=True))
        assert told.width * width + told.hidden * hidden == pytest.approx(forward, rel=0.1)
        assert told.backward_width * width + told.backward_hidden * hidden == pytest.approx(backward, rel=0.15)


# ------------------------------------------------------------------------------------------------------ communication


def test_a_ring_by_hand() -> None:
    # Four ranks hold 400 bytes: each passes on three parts of 100, at 50 bytes/s, in three hops of 1 s.
    assert all_gather_seconds(400, 4, bandwidth=50, latency=1) == 3 * 100 / 50 + 3
    assert all_gather_seconds(400, 4, bandwidth=50, latency=1, calls=5) == 3 * 100 / 50 + 15
    assert all_reduce_seconds(400, 4, bandwidth=50, latency=1) == 2 * (3 * 100 / 50 + 3)
    assert all_reduce_seconds(400, 1, bandwidth=50, latency=1) == 0


def test_rings_between_nodes_use_the_cards_of_all_their_devices_there() -> None:
    assert shard_bandwidth(Layout(4, 8, shard=8), SLOW) == 8
    assert shard_bandwidth(Layout(4, 2, shard=8), SLOW) == 2 * 2
    assert replica_bandwidth(Layout(1, 8, shard=1), SLOW) == 8
    assert replica_bandwidth(Layout(2, 8, shard=8), SLOW) == 2, "one device of each node in a ring"
    assert replica_bandwidth(Layout(2, 4, shard=2), SLOW) == 2 * 2


def test_what_a_step_sends() -> None:
    traffic = Traffic(rollout_gathers=1, passes=6, backwards=2, steps=1, weights=80.0, gradients=160.0, blocks=3)
    still = Accelerator("still", 1.0, 1.0, 1.0, 1.0, link=8.0, network=1.0, source="", latency=0.0)
    assert communication_seconds(traffic, Layout(), still) == 0
    assert communication_seconds(traffic, Layout(1, 4), still) == pytest.approx(2 * 3 / 4 * 160 / 8)
    whole = 7 * 3 / 4 * 80 / 8 + 2 * 3 / 4 * 160 / 8
    assert communication_seconds(traffic, Layout(1, 4, shard=4), still) == pytest.approx(whole)
    # On two nodes the replicas add up a quarter of the gradients each, by one card a device.
    assert communication_seconds(traffic, Layout(2, 4, shard=4), still) == pytest.approx(whole + 2 / 2 * 40 / 1)


# ------------------------------------------------------------------------------------------------------------- memory


def whole_8b(devices: int, nodes: int = 1) -> Needs:
    recipe = load_recipe(RlRecipe, "d1+llada-8b+gsm8k", [*WHOLE_8B, "rollout.prompts_per_step=64"])
    return needs_of(recipe, 200, devices, nodes)


def test_what_stays_falls_with_the_number_of_shards() -> None:
    needs = whole_8b(8)
    whole = needs.parts[0]
    for shard in (2, 4, 8):
        found = shard_bytes(whole, shard)
        assert found["weights"] == 0, "masters are the shards; a copy in bfloat16 comes and goes"
        for part in ("master weights", "gradients", "optimiser", "reference"):
            assert found[part] == pytest.approx(whole[part] / shard, rel=1e-6)


def test_a_model_is_cut_over_the_fewest_devices_with_which_it_fits() -> None:
    needs = whole_8b(8, nodes=2)
    found = needs.sharded_to_fit(80)
    assert found.layout == Layout(2, 8, shard=4) and found.peak_bytes < 76 * 2**30
    assert needs.sharded_to_fit(200).layout.shard == 1
    smallest = needs.sharded_to_fit(1)
    assert smallest.layout.shard == 16 and fits(smallest, 1).startswith("does not fit in 1 GiB: it needs")
    peaks = [needs.sharded_to_fit(memory).peak_bytes for memory in (200, 80, 1)]
    assert peaks == sorted(peaks, reverse=True)
    assert "GiB left, the model cut over 4 devices" in fits(found, 80)


def test_a_shard_is_a_part_of_a_node_or_whole_nodes() -> None:
    assert [*shard_sizes(Layout(3, 4))] == [1, 2, 4, 12]
    assert [*shard_sizes(Layout(1, 6))] == [1, 2, 3, 6]


# --------------------------------------------------------------------------------------------------- calls and pilots


def test_calls_of_a_rollout_with_and_without_a_cache() -> None:
    options = ["rollout.prompts_per_step=4", "rollout.group_size=6", "rollout.rule={kind='top-k', k=2}"]
    recipe = load_recipe(RlRecipe, "d1+llada-8b+gsm8k", options)
    work = needs_of(recipe, 200).work
    (call,) = rollout_calls(recipe, work, 2, None)
    assert call.canvases * call.times == pytest.approx(work.rollout_tokens / work.tokens / 2)
    assert call.outputs == 32 * 17 / 32, "of 32 positions in 16 calls, from 32 masked ones down to 2"
    cached = load_recipe(RlRecipe, "d1+llada-8b+gsm8k", [*options, "rollout.cache=dual"])
    first, later = rollout_calls(cached, work, 2, None)
    assert (first.times, later.times) == (8, 128 - 8)
    assert (first.tokens, later.tokens, later.context) == (456, 32, 456)


def test_micro_batches_of_an_update() -> None:
    recipe = load_recipe(RlRecipe, "d1+llada-8b+gsm8k", ["objective.micro_batch_size=4", "rollout.prompts_per_step=8"])
    call = update_call(recipe, needs_of(recipe, 200).work, 2, None)
    assert (call.canvases, call.times, call.outputs) == (4, 6, 256), "48 completions, of which a device has 24"


def pilot_lines(nfe: float, prompt: int = 44) -> Iterator[dict[str, float]]:
    tokens, calls = prompt + 256, 0
    for _ in range(3):
        calls += 96 * 10 + 96
        yield {
            "nfe": nfe,
            "rollout_tokens": 96 * 10 * tokens,
            "update_tokens": 96 * tokens,
            "denoiser_calls": calls,
            "seconds": 2.5,
        }


def write_pilot(folder: Path, nfe: float) -> Path:
    folder.mkdir()
    recipe = load_recipe(RlRecipe, "diffpo+llada-8b+gsm8k", [])
    (folder / RECIPE).write_text(dump_recipe(recipe))
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in pilot_lines(nfe)))
    return folder


def test_a_pilot_tells_calls_canvases_and_prompts(tmp_path: Path) -> None:
    pilot = read_pilot(write_pilot(tmp_path / "pilot", nfe=20.0))
    assert (pilot.nfe, pilot.shown, pilot.prompt_tokens, pilot.seconds) == (20, 0.5, 44, 2.5)


@pytest.mark.parametrize(
    "harm",
    [{"nfe": float("nan")}, {"nfe": 0}, {"nfe": "x"}, {"nfe": 1e400}, {"denoiser_calls": 7}, {"seconds": None}],
)
def test_a_pilot_that_tells_nothing_is_a_sentence(harm: dict[str, Any], tmp_path: Path) -> None:
    folder = write_pilot(tmp_path / "pilot", nfe=20.0)
    lines = [json.dumps(line | harm) for line in pilot_lines(20.0)]
    (folder / METRICS).write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"that tells nothing .*name another run$"):
        read_pilot(folder)


def test_a_pilot_that_learned_nothing_has_updates_of_no_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_pilot(tmp_path / "pilot", nfe=20.0)
    lines = [json.dumps(line | {"update_tokens": 0}) for line in pilot_lines(20.0)]
    (folder / METRICS).write_text("\n".join(lines))
    told = said(
        capsys, ["rl", "diffpo+llada-8b+gsm8k", *WHOLE_8B, "--dry-run", "--devices", "8", "--pilot", str(folder)]
    )
    assert "a step, computed" in told


def test_a_pilot_of_another_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_pilot(tmp_path / "pilot", nfe=20.0)
    told = said(capsys, ["rl", "diffpo+llada-8b+math500", *WHOLE_8B, "--dry-run", "--pilot", str(folder)], code=2)
    assert "was trained on gsm8k, and this recipe's task is math500" in told


def test_a_pilots_calls_are_those_of_the_bill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_pilot(tmp_path / "pilot", nfe=20.0)
    recipe = ["rl", "diffpo+llada-8b+gsm8k", *WHOLE_8B, "--dry-run", "--devices", "8", "--nodes", "2"]
    worst, told = (said(capsys, [*recipe, *more]) for more in ([], ["--pilot", str(folder)]))
    assert "one token a call at worst" in worst and "calls of the pilot" in told
    assert "20.00 in 3 steps of" in told and "with prompts of 44 tokens" in told
    assert seconds_of(told, "rollout") < seconds_of(worst, "rollout") / 10


# -------------------------------------------------------------------------------------------------------- command line


def said(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int = 0) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    out, err = capsys.readouterr()
    assert caught.value.code == code, err
    return out if code == 0 else err


def seconds_of(text: str, part: str) -> float:
    line = next(line for line in text.splitlines() if line.startswith(f"{part}, computed"))
    return float(line.split("computed")[1].split(" s")[0].replace(",", ""))


def test_a_dry_run_tells_whether_it_fits_and_how_long_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = ["rl", "d1+llada-8b+gsm8k", *WHOLE_8B, "--dry-run", "--device-memory", "80"]
    text = said(capsys, [*recipe, "--devices", "8"])
    for words in (
        "fits in 80 GiB with",
        "cut over 4 devices",
        "time on 8 x h100, computed from data sheets",
        "assumed",
    ):
        assert words in text
    parts = [seconds_of(text, part) for part in ("rollout", "update", "optimiser", "communication")]
    assert sum(parts) == pytest.approx(seconds_of(text, "a step"), abs=0.05)
    assert "does not fit in 80 GiB: it needs" in said(capsys, recipe)


def test_rates_that_were_measured_are_taken_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    given = with_rates(named_accelerator("h100"), 400.0, 2000.0, 100.0)
    assert (given.bfloat16, given.float32, given.memory_bandwidth, given.link) == (4e14, 4e14, 2e12, 1e11)
    assert given.is_measured and given.network == 1e11
    recipe = ["rl", "d1+llada-8b+gsm8k+1gpu", "--dry-run", "--tflops", "400", "--memory-bandwidth", "2000"]
    text = said(capsys, recipe)
    assert "rates measured" in text and "400 TFLOP/s of products" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "h10"], "no accelerator is called 'h10'; did you mean 'h100'?; known are a100, h100"),
        (["--device-memory", "inf"], "--device-memory inf is no memory; give GiB above 0"),
        (["--device-memory", "0"], "--device-memory 0 is no memory"),
        (["--tflops", "0"], "--tflops 0 is no rate; give a number above 0"),
        (["--devices", "0"], "'--devices': Input should be greater than or equal to 1"),
        (["--nodes", "0"], "'--nodes': Input should be greater than or equal to 1"),
        (["--nodes", "3"], "16 prompts of a step cannot be divided among 3 devices"),
        (["--pilot", "nowhere"], "--pilot nowhere is no folder of a run"),
    ],
)
def test_misuse_is_one_sentence(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    err = said(capsys, ["rl", "d1+llada-8b+gsm8k+1gpu", "--dry-run", *options], code=2)
    assert message in " ".join(err.replace("│", " ").split())


def test_a_pilot_needs_steps(tmp_path: Path) -> None:
    folder = write_pilot(tmp_path / "pilot", nfe=2.0)
    (folder / METRICS).write_text('{"nfe": 3}\n')
    with pytest.raises(UserError, match="has 1 steps of RL in its metrics"):
        read_pilot(folder)


def test_every_accelerator_has_a_source_and_assumed_rates() -> None:
    for name, found in ACCELERATORS.items():
        assert found.name == name and "https://" in found.source and not found.is_measured
        assert found.bfloat16 > found.float32 and found.link >= found.network


# --------------------------------------------------------------------------------------------------------------- page


def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bill_study", Path(__file__).parents[2] / "studies" / "bill.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_the_page_is_what_is_computed_now() -> None:
    module = study()
    page = module.PAGE.read_text(encoding="utf-8")
    assert module.written(page) == page, "run python studies/bill.py"


def test_the_mixture_has_the_published_numbers() -> None:
    size = study().mixture(is_adapter=False)
    assert size.parameters == pytest.approx(103e9, rel=0.01)
    assert size.block_weights == pytest.approx(4.8e9, rel=0.02), "active, without embeddings"
