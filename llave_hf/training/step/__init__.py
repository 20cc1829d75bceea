"""One optimizer step over more samples than fit into memory: gradient caching and what makes it cheap."""
