"""The `.env` and what it means: variables, credentials, network, systemd's environment file."""
