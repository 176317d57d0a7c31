"""Tables that others published, made again with this engine: one file per table."""
