"""The service process that ExecStart= runs: one import of LiteLLM, forked workers, readiness, reload and drain.

With the rest of the package it shares only `contract`, `errors`, `env` and `gateway` (ADR 0002), so that a new
release of the installer cannot affect a running service.
"""
