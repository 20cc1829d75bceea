"""Model folders made from others: converted, initialised from a backbone, adapters merged, exported."""
