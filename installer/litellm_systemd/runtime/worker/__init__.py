"""A worker process: the server, its connections, and the adapter for LiteLLM."""
