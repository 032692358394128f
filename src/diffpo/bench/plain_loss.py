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
    """[B, L]: every completion token on its row's canvas [B, N]."""
    logits = logits_of(model, canvas, visible)[:, -completion_ids.shape[1] :].float() / temperature
    mask_forbidden_ = torch.arange(logits.shape[-1]) == mask_id
    logp = logits.masked_fill(mask_forbidden_, -torch.inf).log_softmax(dim=-1)
    return logp.gather(-1, completion_ids[..., None]).squeeze(-1)


def mean_field_logp(
    model: PreTrainedModel,
    mask_id: int,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    temperature: float,
) -> Tensor:
    """d1's: all of the completion masked."""
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
    """DiFFPO's: tokens committed before the boundary [B] as above, the others where what came before is shown."""
    usage = unmask_step < boundary_step[:, None]
    canvas = torch.cat([prompt_ids, torch.where(usage, completion_ids, mask_id)], dim=1)
    visible = F.pad(prompt_mask, (0, completion_ids.shape[1]), value=True)
    late = canvas_logp(model, mask_id, canvas, visible, completion_ids, temperature)
    early = mean_field_logp(model, mask_id, prompt_ids, prompt_mask, completion_ids, temperature)
    return torch.where(usage, early, late)
