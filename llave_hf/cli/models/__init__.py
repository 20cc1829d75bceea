"""Commands that make or check a model folder: `llave convert`, `init`, `merge`, `export`, `verify`."""
