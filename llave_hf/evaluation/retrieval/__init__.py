"""Vectors of a benchmark's inputs, and the ranks of answers among candidates."""
