"""The loops over time of the learning methods."""
