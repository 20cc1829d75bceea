"""make quickstart: a tiny model from random weights to answers, on the CPU, in minutes."""
