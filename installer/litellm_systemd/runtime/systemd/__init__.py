"""The interfaces to systemd: sd_notify, the watchdog, the listening sockets and the port."""
