"""The symbolic phase: reach, saturation, exact cost."""
