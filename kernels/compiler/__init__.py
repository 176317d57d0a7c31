"""How kernels are compiled: decorators, our own operations, borrowed arrays, pointers, cache."""
