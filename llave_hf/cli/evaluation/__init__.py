"""Commands that score models: `llave evaluate`, `evaluate-videos`, `compare`."""
