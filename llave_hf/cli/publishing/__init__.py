"""Commands for the Hub: `llave card`, `push`."""
