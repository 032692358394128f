"""Benchmarks against plain references, which are written from the papers' descriptions and kept here.

A ratio is only as good as the proof that both sides did the same: one whose identity check failed is never printed.
"""
