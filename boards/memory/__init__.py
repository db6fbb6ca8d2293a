"""Memory controllers."""
