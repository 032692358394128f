"""Metrics of a policy update: averages over tokens and iterations, and statistics of the weights."""

from collections import defaultdict
from dataclasses import fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffpo.distributed.collectives import all_gather_rows, all_reduce_metrics
from diffpo.objective.base import Credit, PolicyLoss
from diffpo.objective.diagnostics import group_weight_metrics, token_weight_metrics
from diffpo.training.rollouts import Batch


class UpdateMetrics:
    """Collects what an update logs. `rows` are the rows of the batch that are in the update, in all processes."""

    def __init__(self, batch: Batch, rows: Int[Tensor, " m"]) -> None:
        self._batch, self._rows = batch, rows
        self._totals: defaultdict[str, float] = defaultdict(float)
        self._first_terms: list[PolicyLoss] = []
        self._weight_metrics: dict[str, float] = {}
        self._token_weight = self._grad_norm = 0.0

    def add(
        self,
        weight: Float[Tensor, "b M"],
        loss: float,
        terms: PolicyLoss,
        kl: Float[Tensor, "b M"] | None,
        nll: Float[Tensor, ""] | None,
        is_first_iteration: bool,
    ) -> None:
        """Add a micro-batch: its loss, its part of the negative log-likelihood of right completions, and the terms of
        its tokens by the weight with which each counts."""
        totals = self._totals
        if nll is not None:
            totals["right_nll"] += float(nll.detach())
        if kl is not None:
            totals["kl"] += _total(weight, kl)
        totals["loss"] += loss
        totals["clip_fraction"] += _total(weight, terms.is_clipped)
        totals["policy_ratio"] += _total(weight, terms.policy_ratio)
        totals["importance_weight_mean"] += _total(weight, terms.importance_weight)
        if terms.is_weighted.any():
            totals["importance_weight_capped"] += _total(weight, terms.is_capped)
        if is_first_iteration:
            # Importance weights do not change with the policy: one sample, however the batch was cut.
            length = self._batch.is_scored.shape[
                1
            ]  # the entropy bound, if it is one more token, has no importance weight
            first = {field.name: getattr(terms, field.name)[:, :length].detach() for field in fields(terms)}
            first["is_weighted"] = first["is_weighted"] & (weight[:, :length] > 0)  # a token that is not read has none
            self._first_terms.append(PolicyLoss(**first))
            self._token_weight += float(weight.sum())

    def add_grad_norm(self, norm: float) -> None:
        """Add the norm of an iteration's gradient, which is the same in all processes."""
        self._grad_norm += norm

    def add_weights(self, credit: Credit) -> None:
        """Summarise the importance weights of the first iteration, and the weights within groups."""
        is_solved = self._batch.is_solved
        groups = is_solved.flatten()[self._rows].view(-1, is_solved.shape[1])
        self._weight_metrics = self._importance_weights() | group_weight_metrics(credit, groups)

    def averages(self, num_iterations: int) -> dict[str, float]:
        """Return the metrics of all processes together.

        Averages are over the tokens that were in the update, whose weights do not sum to 1 where groups are dropped;
        loss, the likelihood of right completions and gradient norm are those of the whole batch.
        """
        sums = all_reduce_metrics(self._totals | {"token_weight": self._token_weight})
        token_weight = sums.pop("token_weight")
        whole = {"loss": 1.0, "right_nll": 1.0, "grad_norm": 1.0}
        sums["grad_norm"] = self._grad_norm
        metrics = {name: value / num_iterations / whole.get(name, token_weight) for name, value in sums.items()}
        return metrics | self._weight_metrics

    def _importance_weights(self) -> dict[str, float]:
        batch, rows = self._batch, self._rows
        none = torch.zeros_like(batch.is_scored[:0])

        def of_all_rows(parts: list[Tensor], none: Tensor) -> Tensor:
            return all_gather_rows(torch.cat(parts) if parts else none)

        is_weighted = of_all_rows([terms.is_weighted for terms in self._first_terms], none)
        is_capped = of_all_rows([terms.is_capped for terms in self._first_terms], none)
        is_floored = of_all_rows([terms.is_floored for terms in self._first_terms], none)
        weight = of_all_rows([terms.importance_weight for terms in self._first_terms], none.float())
        counts = batch.is_scored[rows] & is_weighted
        if not counts.any():
            return {}
        progress = (batch.rollout.unmask_step / batch.rollout.nfe[:, None])[rows]
        is_right = batch.is_solved.flatten()[rows, None].expand_as(counts)
        return token_weight_metrics(
            weight[counts], is_capped[counts], is_floored[counts], is_right[counts], progress[counts]
        )


def _total(weight: Float[Tensor, "b L"], values: Tensor) -> float:
    return float((weight * values.detach()).sum())
