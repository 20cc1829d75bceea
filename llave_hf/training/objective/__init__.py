"""The loss of a run: hardness and its strength at each step, a teacher's or a moving average's vectors."""
