"""Pictures: costs of a sweep, curves of runs."""
