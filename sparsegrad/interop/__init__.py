"""The engine inside other frameworks: `sparsegrad.interop.torch.cells`, `.jax`, `.c`.

Nothing is imported here: each module needs its own framework.
"""
