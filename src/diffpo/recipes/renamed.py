"""Names of recipe keys, values and metrics that have changed or gone: the old ones are refused, the new ones told.

`tools/convert_old_names.py` converts what is stored under the old names, and leaves out what has gone.
"""

from collections.abc import Container, Mapping
from typing import Any

KEYS: Mapping[str, str] = {
    "prompts": "prompts_per_step",
    "group": "group_size",
    "slots": "max_in_flight",
    "speed": "nfe_penalty",
    "inner_steps": "num_iterations",
    "micro_batch": "micro_batch_size",
    "skip_ties": "drop_zero_std_groups",
    "normalise": "loss_aggregation",
    "kl": "kl_coef",
    "kl_kind": "kl_estimator",
    "weight_cap": "importance_cap",
    "weight_floor": "importance_floor",
    "weight_on": "importance_on",
    "settle": "greedy_stage",
    "learn": "train",
    "stop_at": "early_stopping",
}
"""Old key of a table -> new one. No table has an old key for something else beside the new one."""

REMOVED: Mapping[str, str] = {
    "controller.clip": "the controller takes one step on each batch, at which no ratio has left 1",
    "controller.coef": "the controller has an optimiser of its own; controller.optimizer.lr says how far it steps",
}
"""Key that is gone, with its table -> why nothing is lost without it."""

VALUES: Mapping[str, Mapping[str, str]] = {
    "loss_aggregation": {"sequence": "sequence-mean", "token": "token-mean"},
    "train": {"model": "policy", "sampler": "controller"},
}
"""New key -> old value -> new one."""

METRICS: Mapping[str, str] = {
    "solved": "accuracy",
    "weight_mean": "importance_weight_mean",
    "weight_capped": "importance_weight_capped",
    "weight_floored": "importance_weight_floored",
    "weight_ess": "importance_weight_ess",
    "weight_right": "importance_weight_right",
    "weight_wrong": "importance_weight_wrong",
    **{
        f"weight_{what}_{part}": f"importance_weight_{what}_{part}"
        for what in ("ess", "capped")
        for part in (1, 2, 3, 4)
    },
    "bound_log_sd": "bound_log_std_across_prompts",
    "bound_spread": "bound_log_sigma",
}
"""Old name of a metric of training -> new one."""

_GROUP_METRICS = {f"weight_{what}": f"group_weight_{what}" for what in ("ess", "right", "wrong")}
"""The same of objectives with weights within groups, which shared names with importance weights."""


def renaming(key: str, value: Any, known: Container[str]) -> str | None:
    """Return what to write for a key, if it is the old one of one that the table knows: `train = 'policy'`."""
    new = KEYS.get(key)
    if new is None or new not in known:
        return None
    value = renamed_value(new, value)
    return new if value is None else f"{new} = {value!r}"


def removal(key: str) -> str | None:
    """Return what to tell of a dotted key, if it is one that has gone."""
    return f"removed: {REMOVED[key]}; leave it out" if key in REMOVED else None


def renamed_metric(name: str, metrics: Container[str]) -> str | None:
    """Return the new name of a metric, if this is an old one, in a step with these metrics.

    Importance weights were logged with the share of those at the floor, weights within groups without it.
    """
    is_of_groups = name in _GROUP_METRICS and "weight_floored" not in metrics
    return _GROUP_METRICS[name] if is_of_groups else METRICS.get(name)


def renamed_value(key: str, value: Any) -> str | None:
    """Return the new value of a (new) key, if this is an old one."""
    return VALUES.get(key, {}).get(value) if isinstance(value, str) else None
