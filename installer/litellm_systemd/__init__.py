"""litellm-systemd: run the LiteLLM Proxy as a systemd service that reports readiness correctly."""
