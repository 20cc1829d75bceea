"""The `evaluate` module nDCG@k; `evaluate.load` opens the script in this folder."""
