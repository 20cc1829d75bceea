"""The end of a run: the finished model folder, and its publication."""
