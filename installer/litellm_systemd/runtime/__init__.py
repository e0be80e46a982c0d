"""What systemd's ExecStart runs: one import of LiteLLM, forked workers, readiness, reload and drain.

It shares `contract`, `errors` and `gateway` with the rest of the package and nothing else (ADR 0002), so that
a release of the installer can never reach into a running service.
"""
