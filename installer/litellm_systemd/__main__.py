"""`python -m litellm_systemd` is `litellmctl`."""

from litellm_systemd.cli import main

main()
