"""What every method's loop shares: streams, readouts and losses, optimisers."""
