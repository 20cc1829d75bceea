"""What of the model is trained, and how: parts, LoRA, quantization, precision, optimizer."""
