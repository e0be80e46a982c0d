"""Diagnose a gateway: find causes, separate them from their consequences, and name the remedy for each.

`snapshot` is what the checks look at, `engine` defines causes and findings and runs the checks in parallel. Each
`check_*` module holds the causes of one subject, each next to the function that detects it; `registry` lists all of
them in order. `python -m litellm_systemd.doctor` generates the tables of causes in docs/troubleshooting.md from them.
"""
