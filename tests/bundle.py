"""The bundle that tests install from: the wheels that test.sh downloaded, and the current code of the checkout."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from litellm_systemd.errors import CommandError, InstallerError
from litellm_systemd.releases.additions import extend
from litellm_systemd.releases.bundle import Target, open_bundle, write_bundle
from litellm_systemd.releases.source import Source, find_source
from tests.skipping import refuse

REPOSITORY = Path(__file__).resolve().parents[1]
WHEELS = REPOSITORY / ".cache/wheels"
_BUNDLE = REPOSITORY / ".cache/bundle.tar"
DATABASE_BUNDLE = REPOSITORY / ".cache/bundle-database.tar"


def own_bundle() -> Path:
    """`find_bundle` for tests, which are skipped or fail without a bundle."""
    try:
        return find_bundle()
    except CommandError as error:
        refuse(missing(error))


def database_bundle(engine: Path) -> Path:
    """A bundle of this code with the group `database` and that engine, from what test.sh downloaded.

    Raises CommandError if packages are missing.
    """
    source = find_source()
    source = extend(source, ("database",), engine=engine)
    with _made_once(DATABASE_BUNDLE):
        if not _is_of(DATABASE_BUNDLE, source):
            _make_bundle(DATABASE_BUNDLE, source)
    return DATABASE_BUNDLE


def missing(error: CommandError) -> str:
    """Why there is no bundle, and the command that downloads its parts."""
    outcome = error.message.rpartition(" failed with ")[2]  # without pip's usage text
    return f"{WHEELS} does not hold what the lock names ({outcome}). Run first: ./scripts/test.sh --setup"


def find_bundle() -> Path:
    """The bundle of this code for this Python and machine: the one of test.sh, or one that is built without a
    network.

    One for all workers of pytest-xdist: the first one makes it. Raises CommandError if packages are missing.
    """
    with _made_once(_BUNDLE):
        if not _is_of(_BUNDLE, find_source()):
            _make_bundle(_BUNDLE, find_source())
    return _BUNDLE


@contextmanager
def _made_once(bundle: Path) -> Iterator[None]:
    bundle.parent.mkdir(exist_ok=True)
    with bundle.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_of(bundle: Path, source: Source) -> bool:
    try:
        return open_bundle(bundle).identifier == source.identifier
    except InstallerError:
        return False


def _make_bundle(out: Path, source: Source) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        write_bundle(source, out, Target(), wheels=WHEELS)
