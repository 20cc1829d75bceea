"""Checkpoints, bad samples, and what is kept of a run whose numbers are not finite."""
