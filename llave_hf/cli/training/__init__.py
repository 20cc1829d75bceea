"""Commands around training: `llave doctor`, `sweep`, `mine`."""
