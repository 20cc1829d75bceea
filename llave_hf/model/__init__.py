"""The model and its processor. These files travel with every saved model, so they import each other alone."""
