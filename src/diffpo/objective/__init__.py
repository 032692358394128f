"""Objectives: from token log-probabilities and rewards to a loss for each token.

An objective answers two questions. `credit`: how much does each completion count, and with which sign? That is asked of
whole groups, before a batch is cut into micro-batches. Calling it: what is the loss of each token, given that credit?
Some credits are made of the completions' likelihoods; `requires` says which. The mathematics: `docs/math.md`.

Importers name the file: `from diffpo.objective.clipped import ClippedSurrogate`. `advantages` needs no torch.
"""
