"""Wheels for tests of releases: with another version, and placeholders for packages that are never installed here."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from litellm_systemd.releases.requirements_lock import Pin


def reversion(wheel: Path, folder: Path, version: str) -> Path:
    """Write the same wheel with another version into a folder."""
    name, before = wheel.name.split("-")[:2]
    old, new = f"{name}-{before}.dist-info/", f"{name}-{version}.dist-info/"
    target = folder / wheel.name.replace(f"-{before}-", f"-{version}-", 1)
    names = []
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w") as out:
        for item in source.infolist():
            if item.filename == f"{old}RECORD":
                continue
            content = source.read(item)
            item.filename = item.filename.replace(old, new, 1)
            if item.filename == f"{new}METADATA":
                content = content.replace(f"\nVersion: {before}\n".encode(), f"\nVersion: {version}\n".encode(), 1)
            names.append(item.filename)
            out.writestr(item, content)
        out.writestr(f"{new}RECORD", _record(names, new))
    return target


def stand_in(folder: Path, pin: Pin, requires: Iterable[str] = ()) -> Path:
    """Write an empty wheel with the name and version of an entry of a lock, for its Pythons, that requires others."""
    name, version = pin.name.replace("-", "_"), pin.version
    info = f"{name}-{version}.dist-info/"
    since = re.search(r"python_full_version >= ['\"]([\d.]+)", pin.marker)
    python = f"Requires-Python: >={since[1]}\n" if since else ""
    needs = "".join(f"Requires-Dist: {text}\n" for text in requires)
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{python}{needs}",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    target = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as out:
        for file, content in files.items():
            out.writestr(info + file, content)
        out.writestr(f"{info}RECORD", _record([info + file for file in files], info))
    return target


def _record(names: list[str], info: str) -> str:
    # Hashes and sizes may be left out.
    return "".join(f"{name},,\n" for name in (*names, f"{info}RECORD"))


def own_wheel(folder: Path, name: str, version: str, *needs: str, summary: str = "") -> Path:
    """Write the wheel of a package of a user, with one module of its name, and its requirements."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info/"
    lines = [
        f"Name: {name}",
        f"Version: {version}",
        f"Summary: {summary}",
        *(f"Requires-Dist: {need}" for need in needs),
    ]
    files = {
        f"{name}.py": f'"""{summary}"""\n',
        f"{info}METADATA": "\n".join(["Metadata-Version: 2.1", *lines, ""]),
        f"{info}WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    target = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as out:
        for file, content in files.items():
            out.writestr(file, content)
        out.writestr(f"{info}RECORD", _record(list(files), info))
    return target
