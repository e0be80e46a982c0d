"""litellm-systemd: run the LiteLLM Proxy as a systemd service that is ready when it says so."""
