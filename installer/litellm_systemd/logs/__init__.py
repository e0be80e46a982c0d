"""Journal entries as events, and known messages."""
