"""Verify that a gateway does what its clients need."""
