"""Forward pass, D, I and the backward pass of any cell: sparse maps and an elementwise update."""
