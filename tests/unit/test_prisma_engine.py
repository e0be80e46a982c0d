"""Prisma's query engine: where it comes from, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from litellm_systemd.commands.additions import choose_release
from litellm_systemd.database import prisma_engine
from litellm_systemd.database.prisma_engine import (
    COMMIT,
    MIRROR,
    digest_of,
    fetch_engine,
    matches,
    published_digest,
    read_given,
    require_openssl,
    try_engine,
    write_engine,
)
from litellm_systemd.errors import InputError, InstallerError, MissingError, Unavailable, UsageError
from litellm_systemd.gateway.config import parse_config
from litellm_systemd.host.layout import Layout
from litellm_systemd.releases.additions import Kept, extend
from litellm_systemd.releases.bundle import Target
from litellm_systemd.releases.prisma_parts import engine_digest, find_engine, with_engine
from litellm_systemd.releases.requirements_lock import additions_of, lock_digest
from litellm_systemd.releases.source import find_source
from tests.fakes.http import Reply, Request, serving
from tests.ports import free_port

LOCK = "a==1 --hash=sha256:00\n# with: database\n# needs: psycopg\n# with: sentry\nb==1 --hash=sha256:11\n"
SCRIPT = f"#!/bin/sh\necho query-engine {COMMIT}\n"


@contextmanager
def mirror(content: bytes | None) -> Iterator[tuple[str, list[str]]]:
    """A server with the paths of Prisma's, which sends `content`, or 404. Gives its URL and the requested paths."""
    paths: list[str] = []

    def answer(request: Request) -> Reply:
        paths.append(request.target)
        return Reply(404) if content is None else Reply(body=content)

    with serving(answer) as server:
        yield f"{server.url}/prisma/", paths


def script(folder: Path, text: str = SCRIPT) -> Path:
    """Write a program that stands for an engine."""
    path = folder / "engine"
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_download_from_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror is asked for the version and the machine. What it sends is used if its SHA-256 is the known one."""
    content = gzip.compress(SCRIPT.encode())
    published = {"x86_64": ("debian-openssl-3.0.x", hashlib.sha256(content).hexdigest())}
    monkeypatch.setattr(prisma_engine, "_PUBLISHED", published)
    with mirror(content) as (url, paths):
        found = fetch_engine("x86_64", tmp_path, {MIRROR: url})
    assert paths == [f"/prisma/all_commits/{COMMIT}/debian-openssl-3.0.x/query-engine.gz"]
    write_engine(found, tmp_path / "release/query-engine")
    try_engine(tmp_path / "release/query-engine")


def test_wrong_checksum(tmp_path: Path) -> None:
    """What has another SHA-256 is refused, with the URL and the other ways to get the engine."""
    with mirror(b"something else") as (url, _), pytest.raises(InputError) as error:
        fetch_engine("x86_64", tmp_path, {MIRROR: url})
    wrong = hashlib.sha256(b"something else").hexdigest()
    assert f"its SHA-256 is {wrong}, not {published_digest('x86_64')}" in error.value.message
    assert url in error.value.message
    assert all(word in error.value.hint for word in ("--prisma-engine", MIRROR, "bundle"))


def test_no_server(tmp_path: Path) -> None:
    """A server that lacks the engine or cannot be reached is reported with the URL and the cause."""
    with mirror(None) as (url, _), pytest.raises(Unavailable, match=r"query-engine\.gz: HTTP 404 Not Found"):
        fetch_engine("x86_64", tmp_path, {MIRROR: url})
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:\d+/all.*Connection refused") as error:
        fetch_engine("aarch64", tmp_path, {MIRROR: f"http://127.0.0.1:{free_port()}"})
    assert "--prisma-engine" in error.value.hint
    with pytest.raises(UsageError, match="PRISMA_ENGINES_MIRROR=file:///tmp"):
        fetch_engine("x86_64", tmp_path, {MIRROR: "file:///tmp"})


def test_slow_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that takes too long in all ends with an error, also if each part of it arrives in time."""
    monkeypatch.setattr(prisma_engine, "_LONGEST", 0)
    with mirror(b"x" * 100) as (url, _), pytest.raises(Unavailable, match="it takes longer than 0 s"):
        fetch_engine("x86_64", tmp_path, {MIRROR: url})


def test_password_of_a_mirror(tmp_path: Path) -> None:
    """A mirror with a password is refused, and no message has the password."""
    with pytest.raises(UsageError) as error:
        fetch_engine("x86_64", tmp_path, {MIRROR: "https://ann:canary@mirror.example.com"})
    assert "canary" not in f"{error.value.message} {error.value.hint}"


def test_openssl_1(tmp_path: Path) -> None:
    """A host without OpenSSL 3 gets one error, before a download."""

    def load(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    with pytest.raises(InputError, match="needs OpenSSL 3") as error:
        require_openssl(load)
    assert "Debian 12" in error.value.hint


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("#!/bin/sh\necho query-engine 1234\n", "has version '1234'"),
        ("#!/bin/sh\necho libssl.so.3: not found >&2; exit 127\n", "libssl.so.3: not found"),
        ("no program", "does not run on this host"),
    ],
)
def test_unusable_engine(tmp_path: Path, text: str, cause: str) -> None:
    """An engine that does not run here, or has another version, is refused with the cause."""
    with pytest.raises(InstallerError) as error:
        try_engine(script(tmp_path, text))
    assert cause in error.value.message
    assert "--prisma-engine" in error.value.hint


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    """A file that is missing or cut is reported with its path."""
    with pytest.raises(MissingError, match="absent"):
        read_given(tmp_path / "absent")
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(SCRIPT.encode() * 99)[:-9])
    with pytest.raises(InputError, match=r"cut\.gz is damaged"):
        write_engine(cut, tmp_path / "out")
    # A valid header, and no compressed data after it.
    cut.write_bytes(gzip.compress(b"")[:10] + b"\xff" * 50)
    with pytest.raises(InputError, match=r"cut\.gz is damaged"):
        write_engine(cut, tmp_path / "out")


def test_engine_is_part_of_the_identity(tmp_path: Path) -> None:
    """The lock names the engine: another one is another release. A lock without a database stays as it is."""
    engine = script(tmp_path)
    published, given = with_engine(LOCK, "x86_64", None), with_engine(LOCK, "x86_64", engine)
    assert engine_digest(published) == published_digest("x86_64")
    assert engine_digest(given) == digest_of(engine)
    assert len({lock_digest(text) for text in (published, given, LOCK)}) == 3
    without = LOCK.replace("# with: database\n# needs: psycopg\n", "")
    assert with_engine(without, "x86_64", engine) == without
    assert engine_digest(without) == ""
    with pytest.raises(InputError, match="no query engine for riscv64"):
        with_engine(LOCK, "riscv64", None)


def test_bundle_for_another_machine(tmp_path: Path) -> None:
    """A bundle for another machine has the engine of that machine, not that of the release in use."""
    source = find_source()
    mine = extend(source, ["database"], engine=script(tmp_path))
    kept = tmp_path / "release/lib/prisma/query-engine"
    write_engine(script(tmp_path), kept)
    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    here, there = Target("3.12"), Target("3.12", other)
    found = [extend(source, ["database"], Kept(mine.lock, engine=kept), target=target) for target in (here, there)]
    assert [engine_digest(each.lock) for each in found] == [digest_of(kept), published_digest(other)]
    assert [each.engine for each in found] == [kept, None]


def test_service_with_a_database_gets_the_group(tmp_path: Path) -> None:
    """A database adds the group to the release, which `--without` may not remove while it is used."""
    gateway = parse_config(
        "model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: none}}]\n", "config.yaml"
    )
    layout = Layout(tmp_path)
    plain = choose_release(layout, gateway)
    chosen = choose_release(layout, gateway, database=True)
    assert chosen.source is not None
    assert additions_of(chosen.source.lock) == ("database",)
    assert chosen.notes == ("Added to the release: database.",)
    assert chosen.identifier != plain.identifier
    with pytest.raises(UsageError, match="--without database"):
        choose_release(layout, gateway, wanted=("database",), dropped=("database",), database=True)


@pytest.mark.parametrize("compressed", [False, True])
def test_upgrade_keeps_the_engine(tmp_path: Path, compressed: bool) -> None:
    """The next release takes the engine of the release in use, without the file or a server that it came from."""
    given = script(tmp_path)
    if compressed:
        given.write_bytes(gzip.compress(given.read_bytes()))
    kept_lock = with_engine(LOCK, "x86_64", given)
    kept = tmp_path / "release/lib/prisma/query-engine"
    write_engine(given, kept)
    given.unlink()
    following = with_engine(LOCK, "x86_64", None, kept_lock, kept)
    assert engine_digest(following) == engine_digest(kept_lock)
    found = find_engine(engine_digest(following), "x86_64", tmp_path, kept, None, lambda _line: None)
    write_engine(found, tmp_path / "next")
    assert (tmp_path / "next").read_text() == SCRIPT
    assert matches(tmp_path / "next", engine_digest(kept_lock))
    # Not one that was changed, nor that of another version of Prisma.
    kept.write_text("changed")
    assert engine_digest(with_engine(LOCK, "x86_64", None, kept_lock, kept)) == published_digest("x86_64")
    assert engine_digest(kept_lock.replace(COMMIT, "0" * 40)) == ""
    with pytest.raises(InputError, match="was given as a file") as error:
        find_engine(engine_digest(kept_lock), "x86_64", tmp_path, kept, None, lambda _line: None)
    assert "--prisma-engine" in error.value.hint
