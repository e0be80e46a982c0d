"""A LiteLLM configuration: read, checked, and what it serves."""
