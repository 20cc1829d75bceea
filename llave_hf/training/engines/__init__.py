"""DDP, FSDP2 and DeepSpeed: which one runs, and what it asks of a training step."""
