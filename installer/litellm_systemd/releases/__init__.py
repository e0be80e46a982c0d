"""Self-contained releases: their sources, the lock, bundles, builds and the inventory."""
