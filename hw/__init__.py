"""Amaranth accelerator: the folder tree is the block diagram."""
