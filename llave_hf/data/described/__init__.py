"""What columns mean: the names that are known, and the templates of recipes and benchmark files."""
