"""The `evaluate` module Precision@1; `evaluate.load` opens the script in this folder."""
