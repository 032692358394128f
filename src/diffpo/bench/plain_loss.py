"""The plain loss: log-probabilities as d1 (arXiv 2504.12216) and DiFFPO (2510.02212) describe them.

One canvas for each completion (2-MF: two), the logits of all its positions in float32, log_softmax, gather. It shares
no code with the update that it is compared with, only the model's weights.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from diffpo.bench.plain import logits_of


def canvas_logp(
    model: PreTrainedModel, mask_id: int, canvas: Tensor, visible: Tensor, completion_ids: Tensor, temperature: float
) -> Tensor:
    """Return the log-probability [B, L] of every completion token on its row's canvas [B, N]."""
    logits = logits_of(model, canvas, visible)[:, -completion_ids.shape[1] :].float() / temperature
    is_forbidden = torch.arange(logits.shape[-1]) == mask_id
    logp = logits.masked_fill(is_forbidden, -torch.inf).log_softmax(dim=-1)
    return logp.gather(-1, completion_ids[..., None]).squeeze(-1)


def mean_field_logp(
    model: PreTrainedModel,
    mask_id: int,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    temperature: float,
) -> Tensor:
    """Return d1's log-probabilities [B, L]: all of the completion is masked."""
    length = completion_ids.shape[1]
    canvas, visible = F.pad(prompt_ids, (0, length), value=mask_id), F.pad(prompt_mask, (0, length), value=True)
    return canvas_logp(model, mask_id, canvas, visible, completion_ids, temperature)


def two_times_mean_field_logp(
    model: PreTrainedModel,
    mask_id: int,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    unmask_step: Tensor,
    boundary_step: Tensor,
    temperature: float,
) -> Tensor:
    """Return DiFFPO's log-probabilities [B, L].

    Tokens committed before the boundary [B] are scored on the masked completion, the others on the one in which those
    are filled in.
    """
    is_early = unmask_step < boundary_step[:, None]
    canvas = torch.cat([prompt_ids, torch.where(is_early, completion_ids, mask_id)], dim=1)
    visible = F.pad(prompt_mask, (0, completion_ids.shape[1]), value=True)
    late = canvas_logp(model, mask_id, canvas, visible, completion_ids, temperature)
    early = mean_field_logp(model, mask_id, prompt_ids, prompt_mask, completion_ids, temperature)
    return torch.where(is_early, early, late)
