"""Which rows share a batch, on which rank, and what a batch becomes for the model: samplers and collator."""
