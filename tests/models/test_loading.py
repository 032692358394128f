"""Folders in the published formats: they load key for key, save unchanged, and are refused where they do not fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tests.helpers.published import (
    CANARY,
    DREAM,
    LLADA,
    PUBLISHED,
    ROWS,
    Published,
    random_weights,
    write_config,
    write_fast_tokenizer,
    write_folder,
    write_weights,
)
from tests.helpers.sampling import sample_with
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast

from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.dream import DreamConfig, DreamModel
from diffpo.models.llada import LLaDAConfig, LLaDAModelLM
from diffpo.models.loading import load_denoiser, make_denoiser, save_denoiser
from diffpo.models.tokenizer import decode_text, encode_text
from diffpo.sampling.rules import TopK

FAMILIES = pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)


def state_of(denoiser: ModelDenoiser) -> dict[str, Tensor]:
    return dict(denoiser.model.state_dict())


# ------------------------------------------------------------------------------------------------------ load and save


@pytest.mark.parametrize(("family", "name"), [("LLaDA", "PreTrainedTokenizerFast"), ("Dream", "DreamTokenizer")])
def test_a_saved_tokenizer_has_a_class_that_transformers_4_knows(family: str, name: str, tmp_path: Path) -> None:
    """Transformers 5 writes TokenizersBackend, of which 4.57 says that it does not exist; Dream's has its own code."""
    write_folder(tmp_path / "published", PUBLISHED[family])
    denoiser, tokenizer = load_denoiser(tmp_path / "published")
    save_denoiser(denoiser, tokenizer, tmp_path / "saved")
    written = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == name
    assert load_denoiser(tmp_path / "saved")[1].get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("num_shards", [1, 3])
@FAMILIES
@torch.no_grad()
def test_a_published_folder_loads_key_for_key_and_computes_its_description(
    published: Published, num_shards: int, tmp_path: Path
) -> None:
    weights = write_folder(tmp_path, published, num_shards)
    denoiser, tokenizer = load_denoiser(tmp_path)
    state = state_of(denoiser)
    assert state.keys() == weights.keys() == published.shapes().keys()
    assert all(torch.equal(value, weights[name]) for name, value in state.items())
    ids = [encode_text(tokenizer, text) for text in ("Two fish!", "ten=2*5?.", "\n   über")]
    expected = torch.stack([published.logits(weights, published.config, row) for row in ids]).float()
    logits = denoiser.model(torch.tensor(ids)).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert float(expected.std()) > 0.5
    assert not denoiser.model.training


@FAMILIES
def test_ids_are_those_of_config_tokenizer_and_family(published: Published, tmp_path: Path) -> None:
    write_folder(tmp_path, published)
    denoiser, tokenizer = load_denoiser(tmp_path)
    assert denoiser.mask_id == published.id(published.mask)
    assert denoiser.stop_ids == tuple(sorted((published.id(published.end), published.id(published.turn_end))))
    assert denoiser.vocabulary == len(tokenizer) == 256 + len(published.specials)
    assert tokenizer.pad_token_id == published.id(published.end)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [65, 66]}))
    assert set(load_denoiser(tmp_path)[0].stop_ids) == {65, 66, *denoiser.stop_ids}


@FAMILIES
def test_text_is_decoded_as_it_was_and_never_becomes_a_control_token(published: Published, tmp_path: Path) -> None:
    write_folder(tmp_path, published)
    denoiser, tokenizer = load_denoiser(tmp_path)
    text = "Grüße, 7 \n" + "".join(published.specials)
    ids = encode_text(tokenizer, text)
    assert max(ids) < 256
    assert decode_text(tokenizer, ids, denoiser.stop_ids) == text
    turn_end = published.id(published.turn_end)
    assert decode_text(tokenizer, [*ids, turn_end, *ids], denoiser.stop_ids) == text


def test_text_does_not_become_a_mask_that_is_not_marked_as_special(tmp_path: Path) -> None:
    write_folder(tmp_path, LLADA)
    write_fast_tokenizer(tmp_path, LLADA, is_mask_special=False)
    denoiser, tokenizer = load_denoiser(tmp_path)
    assert denoiser.mask_id == LLADA.id(LLADA.mask)
    assert denoiser.mask_id not in encode_text(tokenizer, f"a{LLADA.mask}")


@FAMILIES
@torch.no_grad()
def test_saved_and_loaded_again_is_bit_equal_under_the_published_names(published: Published, tmp_path: Path) -> None:
    weights = write_folder(tmp_path / "first", published, num_shards=2)
    (tmp_path / "first" / "generation_config.json").write_text(json.dumps({"eos_token_id": 65}))
    denoiser, tokenizer = load_denoiser(tmp_path / "first")
    save_denoiser(denoiser, tokenizer, tmp_path / "second")
    stored = load_file(tmp_path / "second" / "model.safetensors")
    assert stored.keys() == weights.keys()
    assert all(torch.equal(stored[name], weights[name]) for name in weights)
    again, its_tokenizer = load_denoiser(tmp_path / "second")
    assert all(torch.equal(value, state_of(again)[name]) for name, value in state_of(denoiser).items())
    ids = torch.tensor([[1, 2, denoiser.mask_id]])
    assert torch.equal(again.model(ids).logits, denoiser.model(ids).logits)
    assert (again.mask_id, again.stop_ids, again.vocabulary) == (
        denoiser.mask_id,
        denoiser.stop_ids,
        denoiser.vocabulary,
    )
    assert encode_text(its_tokenizer, "1 über") == encode_text(tokenizer, "1 über")
    saved = json.loads((tmp_path / "second" / "config.json").read_text())
    moved = {"torch_dtype", "transformers_version", "use_cache", "rope_scaling"}  # transformers' own, or null
    fields = {name: value for name, value in published.config.items() if name not in moved and value is not None}
    assert {name: saved.get(name) for name in fields} == fields


@FAMILIES
def test_none_of_a_repositorys_python_is_run(published: Published, tmp_path: Path) -> None:
    write_folder(tmp_path, published)
    stem = published.config["model_type"].lower()
    tokenizer_config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    tokenizer_config["auto_map"] = {"AutoTokenizer": [f"tokenization_{stem}.AnyTokenizer", None]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    load_denoiser(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is published.config_class
    for trust in (None, False, True):
        model = AutoModelForMaskedLM.from_pretrained(tmp_path, dtype=torch.float32, trust_remote_code=trust)
        assert type(model) is published.model_class
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in random_weights(published).items())
    AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    assert (tmp_path / f"modeling_{stem}.py").read_text() == CANARY
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@FAMILIES
def test_weights_become_the_dtype_that_is_asked_for(published: Published, dtype: torch.dtype, tmp_path: Path) -> None:
    write_folder(tmp_path, published)
    weights = {name: value.bfloat16() for name, value in random_weights(published).items()}
    write_weights(tmp_path, weights)
    denoiser, tokenizer = load_denoiser(tmp_path, dtype=dtype)
    assert all(torch.equal(value, weights[name].to(dtype)) for name, value in state_of(denoiser).items())
    assert denoiser.model.dtype == dtype
    # Without data nothing is computed, but every type is worked out: one that did not match would raise.
    assert denoiser.model.to("meta")(torch.zeros(2, 5, dtype=torch.long, device="meta")).logits.dtype == dtype
    again, _ = load_denoiser(tmp_path, dtype=dtype)
    save_denoiser(again, tokenizer, tmp_path / "saved")
    with safe_open(tmp_path / "saved" / "model.safetensors", framework="pt") as stored:
        assert {stored.get_tensor(name).dtype for name in list(stored.keys())} == {dtype}


@FAMILIES
def test_weights_do_not_change_with_the_file_they_came_from(published: Published, tmp_path: Path) -> None:
    weights = write_folder(tmp_path, published)
    denoiser, _ = load_denoiser(tmp_path)
    file = tmp_path / "model.safetensors"
    with file.open("r+b") as handle:
        handle.seek(-file.stat().st_size // 2, 2)
        handle.write(bytes(file.stat().st_size // 2))
    assert all(torch.equal(value, weights[name]) for name, value in state_of(denoiser).items())


def published_tokenizer(specials: dict[str, int]) -> PreTrainedTokenizerFast:
    """The special tokens of a published tokenizer at their ids, the last of which is its last token."""
    backend = Tokenizer(WordLevel({"first": 0} | specials, unk_token="first"))
    backend.add_special_tokens([AddedToken(token, special=True) for token in specials])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


def test_at_their_real_sizes_the_published_ids_are_found_without_the_configs_help() -> None:
    with torch.device("meta"):
        llada = LLaDAModelLM(LLaDAConfig(vocab_size=126464))
        dream = DreamModel(DreamConfig(vocab_size=152064))
    specials = {"<|endoftext|>": 126081, "<|mdm_mask|>": 126336, "<|eot_id|>": 126348}
    found = make_denoiser(llada, published_tokenizer(specials))
    assert (found.mask_id, found.stop_ids, found.vocabulary) == (126336, (126081, 126348), 126349)
    specials = {"<|endoftext|>": 151643, "<|im_end|>": 151645, "<|mask|>": 151666}
    found = make_denoiser(dream, published_tokenizer(specials))
    assert (found.mask_id, found.stop_ids, found.vocabulary) == (151666, (151643, 151645), 151667)


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.fixture(scope="module", params=PUBLISHED.values(), ids=list(PUBLISHED))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Published, Path]:
    folder = tmp_path_factory.mktemp("published")
    write_folder(folder, request.param)
    return request.param, folder


@pytest.fixture
def folder(written: tuple[Published, Path], tmp_path: Path) -> Path:
    """A folder of its own to spoil."""
    return Path(shutil.copytree(written[1], tmp_path / "model"))


@pytest.fixture
def published(written: tuple[Published, Path]) -> Published:
    return written[0]


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_denoiser(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


def test_a_missing_an_extra_and_a_misshapen_weight_are_all_named_at_once(folder: Path, published: Published) -> None:
    weights = random_weights(published)
    missing, misshapen = next(iter(weights)), list(weights)[-1]
    shape = list(weights[misshapen].shape)
    del weights[missing]
    weights[misshapen] = torch.zeros(2, 3)
    weights["model.rotary_emb.inv_freq"] = torch.zeros(4)
    write_weights(folder, weights)
    message = refusal(folder)
    assert f"missing keys: {missing}; unexpected keys: model.rotary_emb.inv_freq; " in message
    assert f"misfits: {misshapen} is [2, 3] and not {shape}" in message


def test_any_one_weight_that_is_missing_is_refused(folder: Path, published: Published) -> None:
    for name in (name for name in published.shapes() if ".0." not in name):
        weights = random_weights(published)
        del weights[name]
        write_weights(folder, weights)
        assert f"missing keys: {name})" in refusal(folder)


def test_a_config_of_another_depth_gives_a_short_error(folder: Path, published: Published) -> None:
    depth = "n_layers" if published is LLADA else "num_hidden_layers"
    write_config(folder, published.config | {depth: 5})
    message = refusal(folder)
    assert "more" in message
    assert len(message) < 600


def test_quantised_weights_are_refused(folder: Path, published: Published) -> None:
    weights = random_weights(published)
    name = next(iter(weights))
    write_weights(folder, weights | {name: weights[name].to(torch.int8)})
    assert f"{name} is stored as I8" in refusal(folder)


def test_a_shard_that_is_not_there_is_named(folder: Path, published: Published) -> None:
    write_weights(folder, random_weights(published), num_shards=3)
    (folder / "model.safetensors").unlink()
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors, which is not there" in refusal(folder)


@pytest.mark.parametrize("name", ["x" * 300, 10**280, "x" * 300 + ".safetensors"])
def test_an_index_may_name_what_can_be_no_file(name: object, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"any": name}}))
    assert f"{str(name)[:80]}, which is not there" in refusal(folder)


def test_an_index_may_not_name_files_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "stray.safetensors")
    index = {"weight_map": {"any": "../stray.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "../stray.safetensors, which is not there" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model_type": "qwen2"}, "a model of type 'qwen2', and diffpo knows 'llada' and 'Dream'"),
        ({"architectures": ["DreamForCausalLM"]}, "holds a DreamForCausalLM, which diffpo does not know"),
        ({"rope_theta": None}, "lacks rope_theta"),
        ({"vocab_size": None, "rms_norm_eps": None}, "lacks vocab_size, rms_norm_eps"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "sets rope_scaling to {'rope_type': 'yarn'"),
        ({"tie_word_embeddings": True}, "sets tie_word_embeddings to True"),
        ({"n_heads": "four", "num_attention_heads": "four"}, "describes no"),
        ({"mask_token_id": 65}, "has no mask token: id 65 is no special token of its tokenizer"),
        ({"mask_token_id": 9999}, "has no mask token: id 9999"),
    ],
)
def test_a_config_that_diffpo_does_not_compute_is_refused(
    change: dict[str, Any], complaint: str, folder: Path, published: Published
) -> None:
    write_config(folder, published.config | change)
    assert complaint in refusal(folder)


def test_what_a_family_may_do_elsewhere_is_refused_by_field(tmp_path: Path) -> None:
    for published, field, value in (
        (LLADA, "include_qkv_bias", True),
        (LLADA, "activation_type", "swiglu"),
        (LLADA, "block_type", "sequential"),
        (LLADA, "weight_tying", True),
        (LLADA, "alibi", True),
        (DREAM, "use_sliding_window", True),
        (DREAM, "hidden_act", "gelu"),
    ):
        write_folder(tmp_path, published)
        write_config(tmp_path, published.config | {field: value})
        assert f"sets {field} to {value!r}" in refusal(tmp_path)


def without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.json"):
        (folder / name).unlink(missing_ok=True)


def with_a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def with_another_tokenizer(folder: Path) -> None:
    without_tokenizer(folder)
    more = tuple(f"<|{index}|>" for index in range(ROWS))
    write_fast_tokenizer(folder, Published(**(vars(LLADA) | {"specials": LLADA.specials + more})))


def without_a_mask(folder: Path) -> None:
    """Make the mask's id plain text, with no field that names another."""
    without_tokenizer(folder)
    specials = tuple(token for token in LLADA.specials if token != LLADA.mask)
    write_fast_tokenizer(folder, Published(**(vars(LLADA) | {"specials": specials})))
    config = json.loads((folder / "config.json").read_text())
    write_config(folder, {name: value for name, value in config.items() if name != "mask_token_id"})


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (without_tokenizer, "has no tokenizer.json"),
        (with_a_broken_tokenizer, "the tokenizer in"),
        (with_another_tokenizer, f"has a tokenizer of {262 + ROWS} tokens and an embedding of {ROWS}"),
        (without_a_mask, "has no mask token"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(spoil: Callable[[Path], None], complaint: str, folder: Path) -> None:
    spoil(folder)
    assert complaint in refusal(folder)


def test_an_embedding_with_more_rows_than_padding_explains_is_refused(folder: Path, published: Published) -> None:
    size = "embedding_size" if published is LLADA else "vocab_size"
    shapes = {name: (321, 32) if shape[0] == ROWS else shape for name, shape in published.shapes().items()}
    write_config(folder, published.config | {"vocab_size": 321, size: 321})
    write_weights(folder, {name: torch.zeros(shape) for name, shape in shapes.items()})
    assert "tokens and an embedding of 321" in refusal(folder)


def wrong_family(folder: Path) -> None:
    write_config(folder, {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]})


@pytest.mark.parametrize("spoil", [wrong_family, without_a_mask, with_another_tokenizer])
def test_the_command_prints_the_error_as_one_sentence(
    spoil: Callable[[Path], None], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil(folder)
    expected = refusal(folder)
    with pytest.raises(SystemExit) as caught:
        main(["sample", str(folder), "--prompt", "1", "--length", "4"])
    assert caught.value.code == 2
    assert capfd.readouterr().err == f"diffpo: {expected}\n"


# ------------------------------------------------------------------------------------------------- batches and training


PROMPTS = [3, 100, 17, 58, 4]
LENGTH = 6


@FAMILIES
@torch.no_grad()
def test_a_prompt_has_the_same_completion_in_a_batch_as_alone(published: Published, tmp_path: Path) -> None:
    write_folder(tmp_path, published)
    denoiser, _ = load_denoiser(tmp_path)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(256, (size,), generator=generator) for size in PROMPTS]
    ids = torch.stack([torch.cat([torch.full((100 - len(row),), 257), row]) for row in prompts])
    mask = torch.stack([torch.arange(100) >= 100 - len(row) for row in prompts])

    def logits(ids: Tensor, mask: Tensor) -> Tensor:
        canvas = torch.nn.functional.pad(ids, (0, LENGTH), value=denoiser.mask_id)
        visible = torch.nn.functional.pad(mask, (0, LENGTH), value=True)
        return denoiser.predict(canvas, visible, visible).logits.view(-1, ROWS)

    def completion(ids: Tensor, mask: Tensor) -> Tensor:
        return sample_with(denoiser, ids, mask, length=LENGTH, block_length=LENGTH, rule=TopK(1)).completion_ids

    together = logits(ids, mask).split([size + LENGTH for size in PROMPTS])
    completions = completion(ids, mask)
    for row, prompt in enumerate(prompts):
        seen = torch.ones(1, len(prompt), dtype=torch.bool)
        torch.testing.assert_close(together[row], logits(prompt[None], seen), atol=1e-4, rtol=1e-5)
        assert torch.equal(completions[row], completion(prompt[None], seen)[0])
    assert len({tuple(row) for row in completions.tolist()}) > 1


@FAMILIES
def test_checkpointing_computes_blocks_twice_and_the_same_gradients(published: Published, tmp_path: Path) -> None:
    write_folder(tmp_path, published)
    denoiser, _ = load_denoiser(tmp_path)
    model = denoiser.model
    ids = torch.randint(256, (2, 8), generator=torch.Generator().manual_seed(0))
    visible = torch.arange(8) >= torch.tensor([[0], [3]])
    calls: list[str] = []
    for name, module in model.named_modules():
        if type(module).__name__ in model._no_split_modules:
            module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))

    def gradients() -> list[Tensor]:
        calls.clear()
        model.zero_grad()
        denoiser.predict(ids, visible, visible).logits[:, :256].logsumexp(dim=-1).sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    plain = gradients()
    assert len(calls) == 2
    assert len(plain) == len(published.shapes())
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    assert all(torch.equal(one, other) for one, other in zip(plain, gradients(), strict=True))
    assert len(calls) == 4
    with torch.no_grad():
        calls.clear()
        denoiser.predict(ids, visible, visible)
    assert len(calls) == 2


@FAMILIES
@torch.no_grad()
def test_the_attention_kernel_can_be_chosen(published: Published, tmp_path: Path) -> None:
    write_folder(tmp_path, published)
    denoiser, _ = load_denoiser(tmp_path)
    ids = torch.randint(256, (2, 8), generator=torch.Generator().manual_seed(0))
    visible = torch.arange(8) >= torch.tensor([[0], [3]])
    expected = denoiser.predict(ids, visible, visible).logits
    denoiser.model.set_attn_implementation("eager")
    assert torch.equal(denoiser.predict(ids, visible, visible).logits, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of transformers and torch, by torch
@FAMILIES
@torch.no_grad()
def test_flex_attention_agrees_with_sdpa(published: Published, tmp_path: Path) -> None:
    write_folder(tmp_path, published)
    denoiser, _ = load_denoiser(tmp_path)
    length = 64  # torch 2.13 compiles a wrong kernel for a CPU at lengths like 8
    ids = torch.randint(256, (2, length), generator=torch.Generator().manual_seed(0))
    visible = torch.arange(length) >= torch.tensor([[0], [3]])
    expected = denoiser.predict(ids, visible, visible).logits
    denoiser.model.set_attn_implementation("flex_attention")
    torch.testing.assert_close(denoiser.predict(ids, visible, visible).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kernel", ["sdpa", "flex_attention", "flash_attention_2"])
@FAMILIES
def test_kernels_of_a_gpu_agree_in_bf16(published: Published, kernel: str, tmp_path: Path) -> None:
    if kernel == "flash_attention_2":
        pytest.importorskip("flash_attn")
    write_folder(tmp_path, published)
    exact, _ = load_denoiser(tmp_path)
    denoiser, _ = load_denoiser(tmp_path, dtype=torch.bfloat16, device="cuda")
    denoiser.model.set_attn_implementation(kernel)
    ids = torch.randint(256, (2, 64), generator=torch.Generator().manual_seed(0))
    visible = torch.arange(64) >= torch.tensor([[0], [30]])
    expected = exact.predict(ids, visible, visible).logits[:, :256].detach()
    found = denoiser.predict(ids.cuda(), visible.cuda(), visible.cuda()).logits[:, :256]
    found.logsumexp(dim=-1).sum().backward()
    assert float((found.detach().cpu() - expected).abs().mean()) < 0.1 * float(expected.std())


def test_a_chat_template_that_writes_masks_is_refused(folder: Path, published: Published) -> None:
    text = "{% for m in messages %}" + published.mask + "{{ m['content'] }}{% endfor %}"
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": text}))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    assert f"writes the mask token, {published.mask!r}, into every prompt" in refusal(folder)
