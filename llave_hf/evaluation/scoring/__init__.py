"""Metrics, confidence intervals and overlap of similarities: NumPy arrays in, numbers out."""
