"""Integer arithmetic blocks."""
