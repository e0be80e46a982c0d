"""The checkout and the bundle of an earlier version, made by its own code. test.sh runs this before the tests.

The archive is in the repository, since a shallow clone lacks the commit. To make one:
git archive --format=tar COMMIT installer units configs scripts setup.cfg pyproject.toml README.md LICENSE | xz -9e
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
#: The last commit before modules, messages and variables were reorganized.
COMMIT = "6792bef"
ARCHIVE = Path(__file__).with_name(f"earlier-{COMMIT}.tar.xz")
FOLDER = REPOSITORY / ".cache" / "earlier" / COMMIT
CHECKOUT, BUNDLE = FOLDER / "checkout", FOLDER / "bundle.tar"


def make() -> None:
    """Make the checkout and the bundle, unless they are there. Packages of its lock are fetched from the index."""
    if BUNDLE.exists():
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    package = FOLDER / "package"
    CHECKOUT.mkdir(parents=True)
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(CHECKOUT)
    uv = f"{sys.prefix}/bin/uv"
    subprocess.run((uv, "build", "--quiet", "--wheel", "--out-dir", str(FOLDER), str(CHECKOUT)), check=True)
    [wheel] = FOLDER.glob("litellm_systemd-*.whl")
    zipfile.ZipFile(wheel).extractall(package)
    wheels = str(REPOSITORY / ".cache" / "wheels")
    argv = (sys.executable, "-m", "litellm_systemd", "bundle", "--wheels", wheels, "--output", f"{BUNDLE}.new")
    subprocess.run(argv, env={**os.environ, "PYTHONPATH": str(package)}, check=True)
    Path(f"{BUNDLE}.new").rename(BUNDLE)


if __name__ == "__main__":
    make()
