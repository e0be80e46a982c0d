"""The main process: generations of workers, the worker pool, reloads, recycling, status."""
