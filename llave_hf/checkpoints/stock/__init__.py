"""A model in transformers' own classes: its weights' names, its processor, its modules, and how it is served."""
