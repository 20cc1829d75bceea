"""What every room may use: registration with transformers, paths and ids, dtypes, progress bars, versions."""
