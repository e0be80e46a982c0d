"""ASGI middleware of the runtime: the access log, and the response to a request that is cut."""
