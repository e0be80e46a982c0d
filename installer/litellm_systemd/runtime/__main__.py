"""`python -m litellm_systemd.runtime`: see `cli`."""

from __future__ import annotations

import sys

from litellm_systemd.runtime.cli import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
