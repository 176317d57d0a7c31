"""The symbolic phase: which units a weight reaches."""
