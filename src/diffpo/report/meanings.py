"""What each curve of a training run means, in one sentence; docs/metrics.md has more."""

from collections.abc import Mapping

RL_MEANINGS: Mapping[str, str] = {
    "accuracy": "Share of a step's sampled completions that solve their problem; greedy answers are better.",
    "nfe": "Denoiser calls that a sampled completion took: falling is faster.",
    "kl": "How far the policy has moved from the reference, where training started: it should level off.",
    "importance_weight_ess": "Share of the tokens that carry the update, each weighted for the difference between the "
    "policy that is trained and the one that drew it: below 80 % few tokens decide.",
    "importance_weight_capped": "Share of tokens whose weight was cut off at its cap: beyond some percent it decides.",
    "group_weight_ess": "Share of a prompt's completions that carry its update: at its lowest, a single one does.",
    "clip_fraction": "Share of tokens that had moved too far to be moved further: above 10 % steps are too long.",
    "frac_reward_zero_std": "Share of prompts whose completions all earned the same: nothing is learned from them. "
    "Arms that learn from right answers (expert iteration) compare none, and are not here.",
    "bound_median": "Entropy bound for the middle one of a step's prompts: a larger one commits more tokens per call.",
    "bound_log_std_across_prompts": "How differently the learned sampler treats prompts: at 0 all have one bound.",
    "bound_log_sigma": "How much the learned sampler tries out for one prompt: it should fall slowly.",
}
SFT_MEANINGS: Mapping[str, str] = {
    "loss": "How badly masked tokens of the training texts are predicted, in nats: falling is better.",
    "accuracy": "Share of validation problems that are solved on the way.",
}
