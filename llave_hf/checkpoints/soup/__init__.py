"""`llave merge A B …`: several models of one architecture as one model, their weights combined."""
