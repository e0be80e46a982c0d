"""The file of a bundle: a valid file is unpacked, any other is refused before anything is written."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.errors import InputError, MissingError
from litellm_systemd.releases.archive import LOCK, WHEELS, Manifest, read_manifest, require_fit, unpack, write_archive
from litellm_systemd.releases.checked_archive import MANIFEST, file_entry

OURS = "litellm_systemd-0.1.0-py3-none-any.whl"
CONTENT = {LOCK: b"a==1\n", OURS: b"ours", f"{WHEELS}/a-1-py3-none-any.whl": b"a" * 3000}


def manifest_of(folder: Path) -> Manifest:
    files = {name: file_entry(folder / name) for name in sorted(CONTENT)}
    return Manifest("0.1.0", "1.106.2", "3.11", "x86_64", "c" * 64, "2026-11-24T00:00:00Z", files)


@pytest.fixture
def content(tmp_path: Path) -> Path:
    folder = tmp_path / "content"
    for name, data in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def bundle(content: Path, tmp_path: Path) -> Path:
    path = tmp_path / "bundle.tar"
    write_archive(path, manifest_of(content), content)
    return path


def read(archive: tarfile.TarFile, item: tarfile.TarInfo) -> bytes:
    content = archive.extractfile(item)
    return b"" if content is None else content.read()


def rewrite(bundle: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], object]) -> Path:
    """The bundle with its members changed: pairs of header and content."""
    with tarfile.open(bundle) as archive:
        members = [(item, read(archive, item)) for item in archive]
    change(members)
    target = bundle.with_name("changed.tar")
    with tarfile.open(target, "w") as archive:
        for item, data in members:
            if item.isreg():
                item.size = len(data)
            archive.addfile(item, io.BytesIO(data))
    return target


def rewrite_manifest(bundle: Path, **values: Any) -> Path:
    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        item, data = members[0]
        members[0] = (item, json.dumps(json.loads(data) | values).encode())

    return rewrite(bundle, change)


def test_round_trip(bundle: Path, content: Path, tmp_path: Path) -> None:
    """A bundle is unpacked to the packed files, and its manifest describes them."""
    found, lock = read_manifest(bundle)
    assert (found, lock) == (manifest_of(content), CONTENT[LOCK].decode())
    (tmp_path / "out").mkdir()
    unpack(bundle, tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in CONTENT} == CONTENT
    assert found.wheel == OURS


def test_same_content_gives_the_same_file(bundle: Path, content: Path, tmp_path: Path) -> None:
    """A bundle contains no times, owners or order that depend on the machine."""
    write_archive(tmp_path / "again.tar", manifest_of(content), content)
    assert (tmp_path / "again.tar").read_bytes() == bundle.read_bytes()


def refused(path: Path, folder: Path) -> str:
    """The error for a file, after a check that nothing was written."""
    folder.mkdir(exist_ok=True)
    with pytest.raises(InputError) as caught:
        unpack(path, folder)
    assert list(folder.rglob("*")) == []
    assert str(path) in f"{caught.value.message} {caught.value.hint}"
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize(
    "name", ["../evil.whl", "/etc/evil.whl", "wheels/../../evil.whl", "wheels/a/b.whl", "evil.pth"]
)
def test_unsafe_name(bundle: Path, tmp_path: Path, name: str) -> None:
    """A name outside of the folder, or one that does not belong in a bundle, is refused, listed in the manifest or
    not.
    """

    def add(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members.append((tarfile.TarInfo(name), b"evil"))

    assert "damaged" in refused(rewrite(bundle, add), tmp_path / "out")
    files = json.loads(subprocess.run(("tar", "xOf", str(bundle), MANIFEST), capture_output=True, check=True).stdout)
    listed = rewrite_manifest(bundle, files={**files["files"], name: ["0" * 64, 4]})
    assert "doesn't belong in a bundle" in refused(listed, tmp_path / "out")
    assert not (tmp_path / "evil.whl").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]
)
def test_member_that_is_no_file(bundle: Path, tmp_path: Path, kind: bytes) -> None:
    """A link, a device or a folder with the name of a wheel is refused."""

    def swap(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        item, _ = members[-1]
        item.type, item.linkname, item.size = kind, "/etc/passwd", 0
        members[-1] = (item, b"")

    refused(rewrite(bundle, swap), tmp_path / "out")


def test_compromised_wheel(bundle: Path, tmp_path: Path) -> None:
    """A bundle with a compromised LiteLLM is refused by its name, before anything is unpacked or run."""
    files = json.loads(subprocess.run(("tar", "xOf", str(bundle), MANIFEST), capture_output=True, check=True).stdout)
    name = f"{WHEELS}/litellm-1.107.0-cp310-abi3-manylinux_2_28_x86_64.whl"
    listed = rewrite_manifest(bundle, files={**files["files"], name: ["0" * 64, 4]})
    assert "LiteLLM 1.107.0 is refused" in refused(listed, tmp_path / "out")


def test_changed_content(bundle: Path, tmp_path: Path) -> None:
    """One changed byte in a wheel is detected before any file is unpacked."""

    def spoil(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        item, data = members[-1]
        members[-1] = (item, b"b" + data[1:])

    assert "doesn't match the manifest" in refused(rewrite(bundle, spoil), tmp_path / "out")


def test_changed_lock(bundle: Path, tmp_path: Path) -> None:
    """A lock that differs from the manifest is detected before it is used."""

    def spoil(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        place = next(number for number, (item, _) in enumerate(members) if item.name == LOCK)
        members[place] = (members[place][0], b"b==1\n")

    changed = rewrite(bundle, spoil)
    with pytest.raises(InputError, match=r"requirements\.lock doesn't match"):
        read_manifest(changed)


def test_member_twice(bundle: Path, tmp_path: Path) -> None:
    """A second file of the same name cannot replace the one that was checked."""
    refused(rewrite(bundle, lambda members: members.append((members[-1][0], b"a" * 3000))), tmp_path / "out")


def test_truncated_file(bundle: Path, tmp_path: Path) -> None:
    """A truncated file is refused, wherever it ends: in the manifest, in a member, or when it is empty."""
    whole = bundle.read_bytes()
    with tarfile.open(bundle) as archive:
        ends = [item.offset_data + item.size for item in archive]
    for length in (0, 1, 511, 512, 700, *ends[:-1], *(end - 1 for end in ends), (ends[-2] + 511) // 512 * 512):
        bundle.write_bytes(whole[:length])
        refused(bundle, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"x" * 20000, b"PK\x03\x04" + b"0" * 600])
def test_other_file(tmp_path: Path, content: bytes) -> None:
    """Any other file is refused with its name."""
    (tmp_path / "other").write_bytes(content)
    refused(tmp_path / "other", tmp_path / "out")


def test_other_tar(tmp_path: Path, content: Path) -> None:
    """A tar file that does not begin with a manifest is reported as no bundle."""
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        archive.add(content / LOCK, LOCK)
    assert "isn't a bundle" in refused(tmp_path / "other.tar", tmp_path / "out")


@pytest.mark.parametrize(
    "values",
    [{"files": None}, {"files": {}}, {"files": {LOCK: "x"}}, {"files": {LOCK: ["0" * 64, 1]}}, {"format": None}],
)
def test_incomplete_manifest(bundle: Path, tmp_path: Path, values: dict[str, Any]) -> None:
    """A manifest without a required field is refused."""
    refused(rewrite_manifest(bundle, **values), tmp_path / "out")


def test_later_format(bundle: Path, tmp_path: Path) -> None:
    """A newer format is refused with its number and the remedy."""
    assert "has format 2" in refused(rewrite_manifest(bundle, format=2), tmp_path / "out")


def test_missing_file(tmp_path: Path) -> None:
    """A missing file is reported as missing."""
    with pytest.raises(MissingError, match=r"no\.tar"):
        read_manifest(tmp_path / "no.tar")


def test_other_machine_or_python(bundle: Path) -> None:
    """For a bundle of another machine or Python the error names both, and the command that builds the right one."""
    found, _ = read_manifest(bundle)
    require_fit(bundle, found, "3.11", "x86_64")
    with pytest.raises(InputError, match=r"for Python 3\.11, and this is Python 3\.12") as caught:
        require_fit(bundle, found, "3.12", "x86_64")
    assert "bundle --python 3.12" in caught.value.hint
    with pytest.raises(InputError, match="for x86_64, and this machine is aarch64") as caught:
        require_fit(bundle, found, "3.11", "aarch64")
    assert "bundle --platform aarch64" in caught.value.hint


def test_reading_needs_only_the_standard_library(bundle: Path) -> None:
    """quickstart.sh reads a bundle with a Python that has no packages."""
    source = Path(__file__).resolve().parents[2] / "installer"
    start = "from litellm_systemd.releases import archive; archive.main(sys.argv[1:])"
    code = f"import sys; sys.path.insert(0, sys.argv.pop(1)); {start}"
    argv = (sys.executable, "-I", "-S", "-B", "-c", code, str(source), "python", str(bundle))
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "3.11\n"
