"""Compute engines, one per box of the block diagram."""
