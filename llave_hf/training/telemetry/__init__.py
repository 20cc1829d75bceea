"""How hard negatives are while a model trains: counts, plots and warnings."""
