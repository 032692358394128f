"""Dream's shift, its size, and that its denoiser behaves like LLaDA's."""

import pytest
import torch
from tests.helpers.plain import dream_logits
from tests.helpers.published import DREAM, random_weights
from torch import Tensor

from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.dream import DreamConfig, DreamModel
from diffpo.models.layers import PACK_MIN_TOKENS


@pytest.fixture(scope="module")
def model() -> DreamModel:
    model = DreamModel(DreamConfig.from_dict(DREAM.config))
    model.load_state_dict(random_weights(DREAM))
    model.eval()
    return model


def some_ids(rows: int = 3, length: int = 9) -> Tensor:
    return torch.randint(256, (rows, length), generator=torch.Generator().manual_seed(0))


def padded(ids: Tensor, amounts: list[int]) -> tuple[Tensor, Tensor]:
    """The rows behind different amounts of padding, cut to one width."""
    width = ids.shape[1]
    wide = torch.stack([torch.cat([torch.full((n,), 7), row])[:width] for n, row in zip(amounts, ids, strict=True)])
    return wide, torch.arange(width) >= torch.tensor(amounts)[:, None]


@torch.no_grad()
def test_a_token_is_predicted_from_the_position_before_it(model: DreamModel) -> None:
    seen: list[Tensor] = []
    hook = model.model.norm.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    logits = model(some_ids()).logits
    hook.remove()
    at_itself = model.lm_head(seen[0])
    torch.testing.assert_close(logits[:, 1:], at_itself[:, :-1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[:, 0], at_itself[:, 0], atol=1e-5, rtol=1e-5)
    assert bool(((logits[:, 1:] - at_itself[:, 1:]).abs().amax(dim=-1) > 0.1).all())


@pytest.mark.parametrize("is_padded", [False, True])
@torch.no_grad()
def test_logits_at_selects_the_same_rows_in_order(is_padded: bool, model: DreamModel) -> None:
    ids, mask = padded(some_ids(), [2, 0, 4]) if is_padded else (some_ids(), None)
    at = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    chosen = model(ids, attention_mask=mask, logits_at=at).logits
    torch.testing.assert_close(chosen, model(ids, attention_mask=mask).logits[at], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [50, PACK_MIN_TOKENS + 5])
@pytest.mark.parametrize("amounts", [[0, 0, 0], [40, 0, 3]])
@torch.no_grad()
def test_what_is_not_computed_changes_no_logit(amounts: list[int], length: int, model: DreamModel) -> None:
    ids, mask = padded(some_ids(length=length), amounts)
    at = (torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.3) & mask
    at[[0, 2], [amounts[0], amounts[2]]] = True  # first visible tokens, which are predicted from themselves
    chosen = model(ids, attention_mask=mask, logits_at=at).logits
    weights, config = model.state_dict(), model.config.to_dict()
    rows = zip(ids, mask, at, strict=True)
    expected = [dream_logits(weights, config, row[seen].tolist())[wanted[seen]] for row, seen, wanted in rows]
    torch.testing.assert_close(chosen, torch.cat(expected).float(), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_first_visible_token_is_not_predicted_from_padding(model: DreamModel) -> None:
    ids, mask = padded(some_ids(), [3, 3, 3])
    other = ids.masked_fill(~mask, 200)
    torch.testing.assert_close(
        model(ids, attention_mask=mask).logits[mask], model(other, attention_mask=mask).logits[mask]
    )


@torch.no_grad()
def test_every_position_sees_every_other(model: DreamModel) -> None:
    ids = some_ids(1)
    before = model(ids).logits[0]
    for position in range(ids.shape[1]):
        changed = ids.clone()
        changed[0, position] += 1
        assert bool(((model(changed).logits[0] - before).abs().amax(dim=-1) > 1e-4).all())


@torch.no_grad()
def test_the_denoiser_hides_the_shift_and_forbids_tokens(model: DreamModel) -> None:
    ids = some_ids()
    at = torch.ones_like(ids, dtype=torch.bool)
    logits = ModelDenoiser(model, mask_id=260, stop_ids=(), vocabulary=261).predict(ids, at, at).logits
    forbidden = [260, *range(261, 320)]
    assert not logits.softmax(dim=-1)[:, forbidden].any()
    assert bool(logits.isfinite().all())
    # Not bit for bit: products of other shapes may add up in another order.
    expected = model(ids).logits.flatten(0, 1)[:, :260]
    torch.testing.assert_close(logits[:, :260], expected, atol=1e-5, rtol=1e-5)


def test_the_published_7b_config_gives_the_published_size() -> None:
    # The index of its shards names as many bytes in bfloat16 as Qwen2.5-7B's, from which it was made: 15,231,233,024.
    config = DreamConfig(
        hidden_size=3584,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        intermediate_size=18944,
        vocab_size=152064,
        rope_theta=1e6,
    )
    with torch.device("meta"):
        model = DreamModel(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 7_615_616_512
    assert len(model.state_dict()) == 28 * 12 + 3


def test_rope_theta_may_stand_in_a_table() -> None:
    assert DreamConfig(rope_parameters={"rope_type": "default", "rope_theta": 5e5}).rope_theta == 5e5
