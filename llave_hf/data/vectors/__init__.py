"""Vectors kept on disk, by the content of samples and the model that made them."""
