"""Migrations of the database in an upgrade and a rollback, on a real systemd and PostgreSQL."""

from __future__ import annotations

from typing import Any

from box import Box, Image
from load import loaded
from service import BASE, MODEL, chat, key

from conftest import MakeBox

#: The last migration that the release `old` has. A breaking one follows.
LAST = "20261006"
#: Makes a copy of a release under another identifier, without later migrations.
_COPY = """
import json, pathlib, shutil, subprocess, sys
from litellm_systemd.releases.integrity import write_record
source, name, last = sys.argv[1:]
source = pathlib.Path("/opt/litellm-systemd/releases") / source
target = source.with_name(name)
subprocess.run(("cp", "-a", "--reflink=auto", source, target), check=True)
for path in (target / "bin").iterdir():
    if path.is_file() and not path.is_symlink() and path.stat().st_size < 10000:
        path.write_text(path.read_text().replace(source.name, name))
(migrations,) = target.glob("lib/python*/site-packages/litellm_proxy_extras/migrations")
for path in migrations.glob("2*"):
    if path.name[:8] > last:
        shutil.rmtree(path)
mark = json.loads((target / "release.json").read_text())
(target / "files.sha256").unlink()
mark |= {"identifier": name, "files": write_record(target)}
(target / "release.json").write_text(json.dumps(mark))
"""
COLUMNS = "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'public'"
APPLIED = "SELECT max(migration_name) FROM _prisma_migrations WHERE finished_at IS NOT NULL"


def current(box: Box) -> str:
    return box.run(("readlink", "/opt/litellm-systemd/current")).stdout.strip().removeprefix("releases/")


def copy_release(box: Box, source: str, name: str, last: str) -> None:
    box.run(("/opt/litellm-systemd/current/bin/python", "-c", _COPY, source, name, last), timeout=300)


def query(box: Box, statement: str) -> str:
    argv = ("runuser", "--user", "litellm", "--", "psql", "--no-align", "--tuples-only", "--command", statement)
    return box.run((*argv, "litellm"), cwd="/").stdout.strip()


def switch(box: Box, name: str) -> tuple[int, str]:
    """Let a release install itself, as an upgrade does. Returns the exit code and the output."""
    argv = (
        f"/opt/litellm-systemd/releases/{name}/bin/litellmctl",
        "install",
        "--installed",
        "--no-verify",
        "--verbose",
    )
    done = box.run(argv, check=False, timeout=300)
    return done.returncode, done.stdout + done.stderr


def generate_key(box: Box) -> str:
    headers = {"Authorization": f"Bearer {key(box)}"}
    answer = box.http("POST", f"{BASE}/key/generate", body={"models": [MODEL]}, headers=headers)
    assert answer.status == 200, answer.text
    return str(answer.json()["key"])


def rollback(box: Box, *options: str) -> dict[str, Any]:
    done = box.run(("litellmctl", "rollback", *options, "--json"), check=False, timeout=300)
    return {"code": done.returncode, "text": done.stdout + done.stderr}


def test_upgrade_and_rollback(make_box: MakeBox, database_image: Image) -> None:
    """An upgrade applies pending migrations while clients chat, and no request fails.

    A rollback that would break is refused. With --restore-database it restores the dump, and switches.
    """
    box = make_box(database_image)
    new = current(box)
    copy_release(box, new, "old", LAST)
    query(box, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    code, said = switch(box, "old")
    assert (code, current(box)) == (0, "old"), said
    early = generate_key(box)
    columns = query(box, COLUMNS)

    with loaded(box, clients=4, pause=0.2) as load:
        code, said = switch(box, new)
        assert (code, current(box)) == (0, new), said
    assert load.failed == []
    assert "breaking)" in said
    assert "could not be built" not in said
    assert query(box, APPLIED) > LAST
    assert query(box, COLUMNS) != columns
    assert chat(box, bearer=early) == 200

    refused = rollback(box)
    assert refused["code"] == 69
    assert "20261007000000_lens_review_fk_on_update_cascade" in refused["text"]
    assert "rollback old --restore-database" in refused["text"]
    assert (current(box), chat(box, bearer=early)) == (new, 200)
    restored = rollback(box, "--restore-database")
    assert current(box) == "old"
    assert "restoring the database as of" in restored["text"]
