"""Scratchpads, streams, and the state buffer."""
