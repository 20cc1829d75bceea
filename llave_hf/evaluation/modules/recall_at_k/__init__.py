"""The `evaluate` module Recall@k; `evaluate.load` opens the script in this folder."""
