"""Estimate what a run needs, from its recipe alone."""
