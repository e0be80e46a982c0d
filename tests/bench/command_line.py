"""The command line of a benchmark with one table in docs/benchmark.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import box_images
from box import why_not

from litellm_systemd.errors import CommandError
from tests.bundle import find_bundle, missing

from .table import write_between_markers


def require_box(parser: argparse.ArgumentParser) -> None:
    """Exit with the reason and the remedy if no box can be created or nothing can be installed in it."""
    try:
        if (reason := why_not()) is None:
            find_bundle()
            return
    except CommandError as error:
        reason = missing(error)
    parser.exit(69, f"no benchmark: {reason}\n")


def run(name: str, about: str, rounds: int, measure: Callable[[int], str], argv: Sequence[str] | None) -> int:
    """Print the table of `measure`, and with --record write it into the page. Return the exit code.

    Args:
        name: the name of the module and of the markers in the page.
        about: the description for --help.
        rounds: the default number of rounds.
        measure: returns the table as Markdown.
        argv: the command line. None: that of this process.
    """
    parser = argparse.ArgumentParser(prog=f"python -m tests.bench.{name}", description=about)
    parser.add_argument(
        "--rounds", type=int, default=rounds, metavar="N", help=f"rounds over all cases (default: {rounds})"
    )
    parser.add_argument("--record", action="store_true", help="write the table in docs/benchmark.md")
    options = parser.parse_args(argv)
    require_box(parser)
    text = measure(options.rounds)
    sys.stdout.write(f"{text}\n")
    if options.record:
        write_between_markers(box_images.REPOSITORY / "docs/benchmark.md", text, name)
    return 0
