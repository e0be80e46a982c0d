"""PostgreSQL for LiteLLM: a connection, a server of this host, and what a release needs for it."""
