"""What a step costs: counted, measured, and expected by a cost model."""
