"""Training data larger than memory: rows are read shard by shard while a run goes on."""
