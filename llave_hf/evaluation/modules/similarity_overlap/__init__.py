"""The `evaluate` module for the overlap of similarities; `evaluate.load` opens the script in this folder."""
