"""The model card: README.md with its metadata and plots, from what training and evaluation left."""
