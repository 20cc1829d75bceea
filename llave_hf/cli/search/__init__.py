"""Commands that search in folders: `llave index`, `search`, `app`."""
