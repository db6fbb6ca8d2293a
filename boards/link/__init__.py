"""Serial link between a host and a board."""
