"""The file of a backup: what belongs in it is read, and any other archive is refused before anything is written."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.commands.backup import _Content
from litellm_systemd.commands.backup_file import AWS, DUMP, RELEASE_LOCK, BackupManifest, may_contain, open_backup
from litellm_systemd.commands.restore import RestoreOptions, restore
from litellm_systemd.errors import CannotCreate, InputError, MissingError
from litellm_systemd.host.layout import Layout
from litellm_systemd.releases.checked_archive import MANIFEST, file_entry, write_tar
from litellm_systemd.user_files import MAX_SIZE, create_output

ENV, CONFIG = "etc/litellm/litellm.env", "etc/litellm/configs/demo.yml"
CONTENT = {ENV: b'A="1"\n', CONFIG: b"model_list: []\n", RELEASE_LOCK: b"a==1\n", DUMP: b"PGDMP"}


def make(folder: Path, content: dict[str, bytes] = CONTENT, **changes: Any) -> Path:
    """A backup with that content; `changes` are other values in its manifest."""
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    manifest = BackupManifest(
        *(
            "0.1.0",
            "1.108.7",
            "3.11",
            os.uname().machine,
            "2026-11-29T00:00:00Z",
            "a",
            "/opt/litellm-systemd",
            "demo.yml",
        ),
        encrypted=False,
        verify_every="off",
        server=150013,
        additions=(),
        files={name: file_entry(folder / name) for name in sorted(content)},
        modes={CONFIG: 0o640},
        shared=(CONFIG,),
    )
    text = json.dumps({**json.loads(manifest.as_json()), **changes})
    with (folder / "backup.tar").open("wb") as out:
        write_tar(out, text.encode(), ((name, folder / name) for name in sorted(content)), mode=0o600)
    return folder / "backup.tar"


def unpack(path: Path) -> BackupManifest:
    with open_backup(path) as (manifest, archive):
        archive.unpack(path.parent / "out", mode=0o600)
        return manifest


def test_round_trip(tmp_path: Path) -> None:
    """A backup gives back what was written: the manifest, and each file, readable by its owner alone."""
    manifest = unpack(make(tmp_path))
    assert manifest.config == "demo.yml"
    assert {name: (tmp_path / "out" / name).read_bytes() for name in CONTENT} == CONTENT
    assert (tmp_path / "out" / ENV).stat().st_mode & 0o077 == 0
    assert replace(manifest, files={}) == replace(unpack(make(tmp_path / "again")), files={})


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../etc/passwd",
            "/etc/passwd",
            "etc/passwd",
            "etc/litellm/../passwd",
            "etc/litellm/./a",
            "etc/litellm/a/..",
        ),
        *(
            "etc/litellm",
            "etc/litellm/",
            "etc/litellm//a",
            "etc/litellm/a\nb",
            "etc/systemd/system/ssh.service.d/a.conf",
        ),
        *("etc/systemd/system/litellm.service", "etc/systemd/system/litellm.service.d/a", "release/wheels/../a.whl"),
        *("var/lib/litellm/.ssh/authorized_keys", "root/.bashrc", "database.dump/a", ""),
    ],
)
def test_foreign_names(name: str, tmp_path: Path) -> None:
    """A path that is no file of an installation, by .. or otherwise, is refused, and nothing is unpacked."""
    assert not may_contain(name)
    files = {**{each: ["0" * 64, 1] for each in CONTENT}, name: ["0" * 64, 1]}
    with pytest.raises(InputError, match="doesn't belong in a backup"):
        unpack(make(tmp_path, files=files))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [ENV, CONFIG, "etc/litellm/configs/.x/..a", "etc/litellm/tls/key.pem", DUMP])
def test_own_names(name: str) -> None:
    """Files of /etc/litellm belong in a backup, in folders of the user's as well."""
    assert may_contain(name)


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"format": 2},
            {"what": "a bundle"},
            {"config": "other.yml"},
            {"config": "../x.yml"},
            {"prefix": "/opt/../etc"},
        ),
        *({"prefix": "/opt\n"}, {"modes": {ENV: 0o4755}}, {"modes": {ENV: 0o666}}, {"files": []}, {"version": 1}),
        *({"host": "a\nb"}, {"files": {ENV: ["0" * 64, 1 << 40]}}, {"additions": [[]]}, {"server": "x"}),
    ],
)
def test_wrong_manifest(changes: dict[str, Any], tmp_path: Path) -> None:
    """A manifest that contradicts itself, or that another program wrote, is one error."""
    with pytest.raises(InputError):
        unpack(make(tmp_path, **changes))
    assert not (tmp_path / "out").exists()


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip(data: bytes) -> bytes:
    return data.replace(b'A="1"', b'A="2"')


@pytest.mark.parametrize("damage", [_cut, _flip, lambda data: data[:512], lambda _data: b"", lambda data: data[512:]])
def test_damaged(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """A truncated or changed backup is refused before anything is unpacked."""
    path = make(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError):
        unpack(path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_links_and_devices(kind: bytes, tmp_path: Path) -> None:
    """A member that is no plain file is refused, even with a name and a size that fit."""
    path = make(tmp_path)
    with tarfile.open(path) as before:
        manifest = before.extractfile(MANIFEST)
        text = b"" if manifest is None else manifest.read()
    with tarfile.open(path, "w") as archive:
        first = tarfile.TarInfo(MANIFEST)
        first.size = len(text)
        archive.addfile(first, io.BytesIO(text))
        for name in sorted(CONTENT):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/shadow"
            archive.addfile(member)
    with pytest.raises(InputError, match="doesn't match the manifest"):
        unpack(path)


def test_negative_size(tmp_path: Path) -> None:
    """A member of a negative size is refused. Older versions of tarfile would read it again and again."""
    path = make(tmp_path)
    with tarfile.open(path) as before:
        end = before.getmembers()[1].offset
    header = bytearray(tarfile.TarInfo(MANIFEST).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (256**12 - 512).to_bytes(12, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(path.read_bytes()[:end] + header + bytes(1024))
    with pytest.raises(InputError, match="damaged"):
        unpack(path)


def test_no_backup(tmp_path: Path) -> None:
    """A missing file, and a tar of another program, are errors that name what makes a backup."""
    with pytest.raises(MissingError) as missing:
        unpack(tmp_path / "no.tar")
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    with pytest.raises(InputError, match="isn't a backup of litellmctl"):
        unpack(tmp_path / "other.tar")
    assert "litellmctl backup" in missing.value.hint


def test_output_appears_complete_and_replaces_nothing(tmp_path: Path) -> None:
    """The file gets its name when it is complete; a failure leaves none, and an existing one is never replaced."""
    path = tmp_path / "b.tar"

    def fail() -> None:
        with create_output(path, 0o600) as stream:
            stream.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []
    with create_output(path, 0o600) as stream:
        stream.write(b"whole")
        assert not path.exists()
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"whole", 0o600)
    with pytest.raises(CannotCreate, match="exists"), create_output(path, 0o600):
        pass
    other = tmp_path / "c.tar"
    with pytest.raises(CannotCreate, match="exists"), create_output(other, 0o600):
        other.write_bytes(b"of another process")
    assert [each.name for each in sorted(tmp_path.iterdir())] == ["b.tar", "c.tar"]
    assert other.read_bytes() == b"of another process"


def test_backup_of_another_version(tmp_path: Path) -> None:
    """A backup of another version of this package is refused, with the way to restore it, before anything changes."""
    layout = Layout(root=tmp_path / "root")
    with pytest.raises(InputError, match=r"is a backup of litellm-systemd 9\.9, and this is") as refused:
        restore(layout, make(tmp_path, version="9.9"), RestoreOptions())
    assert "litellm-systemd 9.9, then upgrade" in refused.value.hint
    assert not layout.root.exists()


def test_files_of_the_service_user(tmp_path: Path) -> None:
    """Nothing beyond a link gets into a backup, and a large file of the service's user doesn't prevent it."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/config").write_text("secret")
    aws = tmp_path / "root/var/lib/litellm/.aws"
    aws.mkdir(parents=True)
    (aws / "config").write_text("own")
    (aws / "folder").symlink_to(tmp_path / "secret")
    (aws / "link").symlink_to(tmp_path / "secret/config")
    (aws / "large").write_bytes(bytes(MAX_SIZE + 1))
    os.mkfifo(aws / "pipe")
    content = _Content(tmp_path / "out")
    content.add_tree(Layout(tmp_path / "root"), AWS)
    assert content.names() == [f"{AWS}/config"]
    assert sorted(content.skipped) == [repr(f"/{AWS}/{name}") for name in ("folder", "large", "link", "pipe")]
