"""What systemd and the runtime exchange: sd_notify, the watchdog, the sockets and the port."""
