"""Temporary instances of the service next to the installed one, and calls to its runtime."""
