"""What a model folder says about itself, and how it is published."""
