"""Losses over embeddings: tensors in, a scalar out; no model, no logging."""
