"""The command line of a benchmark that has one table in docs/benchmark.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import installed
from box import why_not

from litellm_systemd.errors import CommandError
from tests.bundle import find_bundle, missing

from .table import write_between_markers


def require_ground(parser: argparse.ArgumentParser) -> None:
    """Exit with the reason and the remedy where no box can be made or nothing can be installed in it."""
    try:
        if (reason := why_not()) is None:
            find_bundle()
            return
    except CommandError as error:
        reason = missing(error)
    parser.exit(69, f"no benchmark: {reason}\n")


def run(name: str, about: str, rounds: int, measure: Callable[[int], str], argv: Sequence[str] | None) -> int:
    """Print what `measure` gives for so many rounds, and with --record write it into the page. Gives the exit code.

    Args:
        name: of the module, and of the markers in the page.
        about: what --help says.
        rounds: how many, unless the command line says otherwise.
        measure: gives the table as Markdown.
        argv: the command line, None for that of this process.
    """
    parser = argparse.ArgumentParser(prog=f"python -m tests.bench.{name}", description=about)
    parser.add_argument("--rounds", type=int, default=rounds, metavar="N", help=f"of all cases (default: {rounds})")
    parser.add_argument("--record", action="store_true", help="write the table in docs/benchmark.md")
    options = parser.parse_args(argv)
    require_ground(parser)
    text = measure(options.rounds)
    sys.stdout.write(f"{text}\n")
    if options.record:
        write_between_markers(installed.REPOSITORY / "docs/benchmark.md", text, name)
    return 0
