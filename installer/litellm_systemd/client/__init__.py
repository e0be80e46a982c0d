"""HTTP to a running gateway."""
