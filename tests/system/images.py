"""Root folders of other Debian releases, for boxes with an older or a newer systemd than this machine's.

`python3 tests/system/images.py` builds those that are missing, over the network, with debootstrap(8) and as root.
Tests only look: `tree("trixie")` says where a release is, and whether it has been built is `tree(...).is_dir()`.

The mirror is the one that this machine's own apt uses, or $DEBIAN_MIRROR, or else debootstrap's default. The
folder is ${XDG_CACHE_HOME:-~/.cache}/litellm-systemd-tests.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

#: The oldest and the newest supported systemd are 247 and 257; 252 is in between.
SUITES = ("bullseye", "trixie")
_PACKAGES = ("systemd", "dbus", "python3-minimal", "procps", "iproute2")


class ImageError(Exception):
    """A release could not be built; the message has the reason."""


def cache_folder() -> Path:
    """The folder of the root folders."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "litellm-systemd-tests"


def tree(suite: str) -> Path:
    """The root folder of a release. Its name depends on the list of packages."""
    recipe = hashlib.sha256(",".join(_PACKAGES).encode()).hexdigest()[:8]
    return cache_folder() / f"{suite}-{recipe}"


def build(suite: str) -> Path:
    """Build the root folder of a release unless it exists. Raises ImageError.

    It is made under another name and renamed when complete: an interrupted run leaves nothing that looks whole.
    """
    target = tree(suite)
    if target.is_dir():
        return target
    if shutil.which("debootstrap") is None:
        raise ImageError("debootstrap is not installed")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{suite}-", dir=target.parent) as scratch:
        root = Path(scratch) / "root"
        _debootstrap(suite, root)
        for waste in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(root / waste, ignore_errors=True)
        root.rename(target)
    return target


def _debootstrap(suite: str, root: Path) -> None:
    mirror = os.environ.get("DEBIAN_MIRROR") or next(apt_mirrors(), None)
    argv = ["debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", suite, str(root)]
    done = subprocess.run(
        [*argv, *([mirror] if mirror else [])],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise ImageError(f"debootstrap of {suite} failed with exit code {done.returncode}:\n{tail}")


def apt_mirrors(folder: Path = Path("/etc/apt")) -> Iterator[str]:
    """The mirrors of Debian's main archive in apt's settings (sources.list(5), both formats), in order."""
    for path in (folder / "sources.list", *sorted(folder.glob("sources.list.d/*"))):
        if path.suffix in (".list", ".sources") and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            uris = _deb822_uris(text) if path.suffix == ".sources" else _one_line_uris(text)
            for uri in uris:
                resolved = _resolve(uri)
                if resolved.rstrip("/").endswith("/debian"):
                    yield resolved


def _one_line_uris(text: str) -> Iterator[str]:
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if words[:1] == ["deb"]:
            yield from (word for word in words if "://" in word or word.startswith("mirror+file:"))


def _deb822_uris(text: str) -> Iterator[str]:
    for stanza in text.split("\n\n"):
        lines = [line for line in stanza.splitlines() if not line.startswith("#")]
        fields = {key.strip().lower(): value.split() for key, _, value in (line.partition(":") for line in lines)}
        if "deb" in fields.get("types", []) and fields.get("enabled", ["yes"]) != ["no"]:
            yield from fields.get("uris", [])


def _resolve(uri: str) -> str:
    """The first mirror of a list of mirrors (apt-transport-mirror(1)), which debootstrap does not support."""
    scheme, _, path = uri.partition(":")
    if scheme != "mirror+file" or not Path(path).is_file():
        return uri
    words = Path(path).read_text(encoding="utf-8").split()
    return words[0] if words else uri


def main(suites: Sequence[str]) -> int:
    """Build the named releases, or all. Returns 1 if one could not be built, after printing the reason."""

    def attempt(suite: str) -> str:
        start = time.monotonic()
        try:
            path = build(suite)
        except (ImageError, OSError) as error:
            return f"{suite}: {error}"
        sys.stdout.write(f"{suite}: {path} ({time.monotonic() - start:.0f} s)\n")
        return ""

    with ThreadPoolExecutor() as pool:
        complaints = [complaint for complaint in pool.map(attempt, suites or SUITES) if complaint]
    sys.stderr.writelines(f"{complaint}\n" for complaint in complaints)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
