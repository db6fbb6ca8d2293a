"""Dev boards."""
