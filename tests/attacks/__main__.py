"""`python -m tests.attacks --port N --attack NAME...`: bounded attacks at once against a service on this machine.

It prints one line of JSON with the outcome of each, and whether it had the effect that a protection prevents.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict

import uvloop

from .attacks import ATTACKS, run
from .target import Bounds, NotAllowedError, Target, allow_open_files

#: The environment variable with a right key, for attacks that are about one.
KEY_VARIABLE = "LITELLM_MASTER_KEY"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 0 after an attack, whatever its outcome, and 2 if it is not allowed."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("--attack", choices=ATTACKS, nargs="+", required=True)
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="an address of loopback")
    parser.add_argument("--port", type=int, default=0, metavar="N")
    parser.add_argument("--unix", default="", metavar="PATH", help="a UNIX socket, in place of a port")
    parser.add_argument("--source", default="", metavar="ADDRESS", help="come from this address of loopback")
    defaults = Bounds()
    parser.add_argument("--seconds", type=float, default=defaults.seconds, metavar="S")
    parser.add_argument("--connections", type=int, default=0, metavar="N", help="default: that of the attack")
    parser.add_argument("--bytes", type=int, default=defaults.bytes, metavar="N", help="on one connection")
    parser.add_argument("--forwarded", action="store_true", help="as a proxy: each guess from an address of its own")
    options = parser.parse_args(argv)
    try:
        target = Target(options.host, options.port, options.unix, options.source, options.forwarded)
        bounds = Bounds(options.seconds, options.connections, options.bytes)
    except NotAllowedError as error:
        parser.error(str(error))
    allow_open_files()
    key = os.environ.get(KEY_VARIABLE, "")
    found = uvloop.run(run(options.attack, target, bounds, key))
    judged = {name: {"succeeded": ATTACKS[name].succeeded(each), **asdict(each)} for name, each in found.items()}
    sys.stdout.write(json.dumps(judged) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
