"""A look at training data before training: what they hold, what is wrong with them, what a model gets of them."""
