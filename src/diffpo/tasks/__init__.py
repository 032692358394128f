"""Tasks: where problems come from and how answers are graded. Imports no torch."""
