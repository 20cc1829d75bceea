"""Training from a recipe: the trainer and what it is made of, a folder a part."""
