"""Benchmarks against plain references, which follow the papers' descriptions and are kept here.

`harness` counts, compares and times two sides; `rollouts` and `updates` list the benchmarks; `plain` and `plain_loss`
are the references; `run` is the command. A ratio is only worth as much as the proof that both sides did the same: where
this identity check fails, no ratio is printed.
"""
