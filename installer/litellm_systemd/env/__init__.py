"""Read and check the `.env`: variables, credentials, network, systemd's environment file."""
