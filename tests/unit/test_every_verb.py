"""Every verb of the parser without root: on a host without an installation, and with an output that fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import every_verb


@pytest.mark.slow
def test_every_verb_without_root(tmp_path: Path) -> None:
    """Without root, systemd and a home, every verb with every flag ends in a documented exit code with a message, and
    in 74 where its output is lost.
    """
    # A number that the user database does not have.
    argv = (sys.executable, "-I", every_verb.__file__, "4242")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)
    assert {"status", "config show", "version", "releases prune"} <= {run["arguments"] for run in runs}
    assert every_verb.mistakes(runs) == []
