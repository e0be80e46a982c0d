"""Change the host as one transaction: plan, render, apply, undo."""
