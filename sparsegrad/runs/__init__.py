"""Runs in folders: settings, training, comparison, and going on bit for bit."""
