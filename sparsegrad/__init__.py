"""Real-time recurrent learning on sparse networks."""
