"""Floating-point networks: structure, batch-norm folding and checkpoints."""
