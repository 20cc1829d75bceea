"""Hard negatives found by a model, and written as training rows (`llave mine`)."""
