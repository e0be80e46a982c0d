"""PostgreSQL for LiteLLM: what a release needs for it."""
