"""Journal entries as events, known messages, and the removal of secrets from text."""
