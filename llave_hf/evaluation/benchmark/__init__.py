"""Benchmarks: their YAML files, rows in several layouts, and the distinct inputs that are encoded."""
