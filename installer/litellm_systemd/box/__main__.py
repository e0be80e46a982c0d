"""`python3 -m litellm_systemd.box exec -- CMD`: run a command in a temporary systemd container."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from litellm_systemd.box import Bind, Box, Image, Namespaces, require_boxes
from litellm_systemd.contract import ExitCode
from litellm_systemd.errors import InstallerError


def _execute(arguments: argparse.Namespace) -> int:
    """Boot a box, run the command in it on this terminal, and return the exit code of the command."""
    binds = tuple(
        Bind(Path(path).absolute(), writable=writable)
        for paths, writable in ((arguments.bind, False), (arguments.bind_rw, True))
        for path in paths
    )
    copies = tuple(Path(path).absolute() for path in arguments.copy)
    image = Image(Path(arguments.root).absolute(), copies=copies)
    with Namespaces() as namespaces, Box(namespaces, image, network=arguments.network, binds=binds) as box:
        cwd = str(Path.cwd())
        folder = cwd if box.run(("test", "-d", cwd), check=False).returncode == 0 else "/"
        # With the caller's environment, because a command may need its proxies, mirrors and caches for the network.
        code = subprocess.run(box.argv(arguments.command, cwd=folder), check=False).returncode
        if arguments.keep:
            sys.stderr.write(f"The box runs until Ctrl-C. To enter it: nsenter --target {box.leader} --all\n")
            signal.pause()
    return code if code >= 0 else 128 - code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m litellm_systemd.box", description="Run a command in a temporary systemd container."
    )
    parser.add_argument(
        "--network",
        choices=("private", "host"),
        default="private",
        help="the network of the box (default: private, loopback only)",
    )
    parser.add_argument("--root", default="/", help="the folder that the box is a copy of (default: /)")
    for option, text in (
        ("--bind", "make PATH of the host available, read-only"),
        ("--bind-rw", "make PATH of the host available, writable"),
        ("--copy", "make a copy of PATH available (in /tmp, or not below --root)"),
    ):
        parser.add_argument(option, action="append", default=[], metavar="PATH", help=text)
    parser.add_argument("--keep", action="store_true", help="keep the box running after the command")
    commands = parser.add_subparsers(required=True, metavar="exec")
    run = commands.add_parser("exec", help="boot a box, run CMD, power off, return its exit code")
    run.add_argument("command", nargs="+", metavar="CMD")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code of the command or of an error, or 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        require_boxes()
        return _execute(arguments)
    except InstallerError as error:
        sys.stderr.write("".join(f"box: {line}\n" for line in (error.message, error.hint) if line))
        return error.code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
