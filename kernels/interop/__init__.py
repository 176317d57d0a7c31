"""Kernels behind PyTorch, JAX and C: arguments as addresses."""
