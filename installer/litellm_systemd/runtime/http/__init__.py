"""What the runtime adds to HTTP: the access log, and the response to a request that is cut."""
