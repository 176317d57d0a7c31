"""A learner: a cell, a readout, a method and an optimiser, one time step after the other."""
