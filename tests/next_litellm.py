"""`python -m tests.next_litellm`: how this code works with the newest LiteLLM that the package index can install.

In a copy of the last commit it locks that LiteLLM, takes a snapshot of it and runs tests. It prints a report: tests
that fail, names that came and went, start and memory of both, packages that changed. Nothing changes here. Run
`scripts/test.sh --setup` before it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from litellm_systemd.errors import InstallerError
from litellm_systemd.host.observe import memory_field
from litellm_systemd.releases.newest import fetch_newest_litellm
from litellm_systemd.releases.requirements_lock import LOCK, parse_lock, pinned_version
from tests.integration.runtime_service import Service, processor_time

REPOSITORY = Path(__file__).resolve().parents[1]
_PACKAGE = Path("installer/litellm_systemd")
_SNAPSHOT = _PACKAGE / "gateway/litellm.json"
#: Parts of .cache that take minutes to download, and that depend on no LiteLLM.
_DOWNLOADS = ("clients", "wheels", "checkov")
#: Parts of a snapshot that have no names, or those of another part.
_NO_NAMES = ("routes", "provider_needs", "guardrail_hooks")
#: Names of one kind in the report.
_MOST = 60

Names = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Run:
    """The outcome of the tests below one path: numbers by result, and a line about each test that failed."""

    path: str
    counts: Mapping[str, int]
    failed: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report. The exit code is 1 if a test failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.next_litellm", description=__doc__)
    parser.add_argument(
        "tests",
        nargs="*",
        default=["tests/unit", "tests/integration", "tests/clients"],
        help="arguments of pytest; each is one run (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the report to this file as well")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="starts to measure (default: 3)")
    parser.add_argument("--measure", action="store_true", help="only measure a start of this checkout")
    options = parser.parse_args(argv)
    if options.measure:
        sys.stdout.write(f"{json.dumps(_measure())}\n")
        return 0
    (REPOSITORY / ".cache").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=REPOSITORY / ".cache", prefix="next-litellm-") as scratch:
        # Tests run programs as other users, who must reach the copy.
        Path(scratch).chmod(0o755)
        report, runs = _compare(Path(scratch), options.tests, options.rounds)
    sys.stdout.write(report)
    if options.output:
        options.output.write_text(report, encoding="utf-8")
    return 1 if any(run.failed for run in runs) else 0


def _compare(scratch: Path, tests: Sequence[str], rounds: int) -> tuple[str, list[Run]]:
    copy = scratch / "checkout"
    _say("locking the newest LiteLLM in a copy")
    _copy(copy)
    _call(copy, "scripts/lock.sh", "--newest-litellm")
    locks = [(folder / _PACKAGE / LOCK).read_text(encoding="utf-8") for folder in (REPOSITORY, copy)]
    old, new = (pinned_version(lock, "litellm") for lock in locks)
    skipped = _skipped(new, scratch)
    _say(f"LiteLLM {old} and {new}: setting up the copy")
    _call(copy, "scripts/test.sh", "tests/unit/test_requirements.py", check=False)
    names = [_names(REPOSITORY), _names_of_new(copy)]
    runs = [_test(copy, path) for path in tests]
    _say("measuring starts")
    starts = [(json.loads(_measured(REPOSITORY)), json.loads(_measured(copy))) for _ in range(rounds + 1)]
    del starts[0]  # it compiled the modules
    parts = (
        *(f"# LiteLLM {new}, compared with {old} of the lock", ""),
        *(f"- {line}" for line in skipped or ("There is no newer LiteLLM on the package index.",)),
        *render_tests(runs),
        *render_names(*names),
        *render_starts(old, new, starts),
        *render_packages(*locks),
    )
    return "\n".join(parts) + "\n", runs


def _say(text: str) -> None:
    sys.stderr.write(f"* {text}\n")
    sys.stderr.flush()


def _copy(target: Path) -> None:
    _call(REPOSITORY, "git", "clone", "--quiet", "--shared", str(REPOSITORY), str(target))
    for name in _DOWNLOADS:
        if (REPOSITORY / ".cache" / name).is_dir():
            shutil.copytree(
                REPOSITORY / ".cache" / name, target / ".cache" / name, symlinks=True, copy_function=os.link
            )


def _call(folder: Path, *argv: str, check: bool = True) -> str:
    """Run a program in a checkout, with the uv of this one, and return what it prints."""
    environment = dict(os.environ) | {"PATH": f"{sys.prefix}/bin:{os.environ['PATH']}"}
    done = subprocess.run(argv, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=check)
    return done.stdout


def _skipped(newest: str, scratch: Path) -> tuple[str, ...]:
    """A line about each version after the newest one that resolves."""
    try:
        return fetch_newest_litellm(newest, scratch).skipped
    except InstallerError as error:
        return (f"The versions after it are unknown: {error.message}",)


def _names_of_new(copy: Path) -> Names:
    """Write the snapshot of the copy's LiteLLM into its package, for its tests, and return the names in it."""
    _call(copy, ".venv/bin/python", "-m", "litellm_systemd.releases.litellm_snapshot", "--shipped")
    return _names(copy)


def _names(checkout: Path) -> Names:
    return dict(flatten(json.loads((checkout / _SNAPSHOT).read_text(encoding="utf-8"))))


def flatten(snapshot: Mapping[str, Any]) -> Iterator[tuple[str, frozenset[str]]]:
    """The names in a snapshot by kind: the keys of a mapping, the entries of a list, the keys of each section."""
    for kind, found in snapshot.items():
        if kind == "sections":
            yield from ((f"settings of {name or 'the top level'}", frozenset(keys)) for name, keys in found.items())
        elif isinstance(found, dict | list) and kind not in _NO_NAMES:
            yield kind, frozenset(map(str, found))


def _test(copy: Path, path: str) -> Run:
    _say(f"testing {path}")
    file = copy / "junit.xml"
    file.unlink(missing_ok=True)
    _call(copy, "scripts/test.sh", path, "--quiet", "--numprocesses", "2", "--junitxml", str(file), check=False)
    return read_run(path, file)


def read_run(path: str, file: Path) -> Run:
    """Read a JUnit report. Without one, the run itself failed."""
    if not file.exists():
        return Run(path, {}, ("the tests did not run; the output has the cause",))
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    failed = []
    for case in ElementTree.parse(file).iter("testcase"):
        trouble = next((each for each in case if each.tag in ("failure", "error")), None)
        kind = "failed" if trouble is not None else "skipped" if case.find("skipped") is not None else "passed"
        counts[kind] += 1
        if trouble is not None:
            message = (trouble.get("message") or "").partition("\n")[0][:200]
            failed.append(f"`{case.get('classname')}::{case.get('name')}`: {message}")
    return Run(path, counts, tuple(failed))


def render_tests(runs: Sequence[Run]) -> Iterator[str]:
    """A table of the runs, and the tests that failed."""
    yield from ("", "## Tests", "", "| tests | passed | failed | skipped |", "|---|---|---|---|")
    for run in runs:
        yield (
            f"| {run.path} | "
            + " | ".join(str(run.counts.get(k, "")) for k in ("passed", "failed", "skipped"))
            + " |"
        )
    yield from ("", *(f"- {line}" for run in runs for line in run.failed))


def render_names(old: Names, new: Names) -> Iterator[str]:
    """The names that came and went, by kind."""
    yield from ("", "## Names", "")
    for kind in sorted(old.keys() | new.keys()):
        before, after = old.get(kind, frozenset()), new.get(kind, frozenset())
        for change, names in (("came", after - before), ("went", before - after)):
            if names:
                more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
                yield f"- {kind}, {len(names)} {change}: {', '.join(sorted(names)[:_MOST])}{more}"
    if old == new:
        yield "The names are the same."


def _measured(checkout: Path) -> str:
    return _call(checkout, ".venv/bin/python", "-m", "tests.next_litellm", "--measure")


def _measure() -> dict[str, float]:
    """Start the service with one worker: seconds and processor seconds to READY=1, PSS in MiB after a request."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        with Service(Path(folder), NUM_WORKERS="1") as service:
            service.await_ready()
            ready = time.monotonic() - begin
            [worker] = service.workers()
            used = processor_time((service.process.pid, worker))
            service.chat()
            pids = {"main process": service.process.pid, "worker": worker}
            memory = {f"memory of the {name}, MiB": _pss(pid) for name, pid in pids.items()}
            service.stop()
    return {"exec to READY=1, s": ready, "processor time of that, s": used, **memory}


def _pss(pid: int) -> float:
    return memory_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss") or 0


def render_starts(
    old: str, new: str, starts: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]
) -> Iterator[str]:
    """The medians of both, side by side."""
    yield from ("", "## Start and memory", "", f"| medians of {len(starts)} | {old} | {new} |", "|---|---|---|")
    for what in starts[0][0] if starts else ():
        yield (
            f"| {what} | "
            + " | ".join(f"{statistics.median(pair[i][what] for pair in starts):.1f}" for i in (0, 1))
            + " |"
        )


def render_packages(old: str, new: str) -> Iterator[str]:
    """The packages of two locks that differ."""
    before, after = ({(pin.name, pin.marker): pin.version for pin in parse_lock(lock)} for lock in (old, new))
    yield from ("", "## Packages", "")
    for name, marker in sorted(before.keys() | after.keys()):
        was, now = before.get((name, marker), "none"), after.get((name, marker), "none")
        if was != now:
            yield f"- {name} {was} -> {now}"


if __name__ == "__main__":
    sys.exit(main())
