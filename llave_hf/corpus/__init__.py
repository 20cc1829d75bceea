"""Corpora of any size: `llave embed`, and the same for the workers of Ray, Spark, Daft and datasets.

sources (what lies there) ─ parts (rows a file) ─ reading ─ inputs ─ model ─ shards (parquet) ─ run, over ranks
"""
