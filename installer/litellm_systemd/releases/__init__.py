"""Self-contained releases, and what they are made from."""
