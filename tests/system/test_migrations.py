"""Migrations of the database in an upgrade and a rollback, on a real systemd and PostgreSQL."""

from __future__ import annotations

from typing import Any

from box import Box, Image
from load import loaded
from other_release import copy_release, current, switch
from service import BASE, MODEL, chat, key

from conftest import MakeBox

#: The last migration that the release `old` has. A breaking one follows.
LAST = "20261006"
COLUMNS = "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'public'"
APPLIED = "SELECT max(migration_name) FROM _prisma_migrations WHERE finished_at IS NOT NULL"


def query(box: Box, statement: str) -> str:
    argv = ("runuser", "--user", "litellm", "--", "psql", "--no-align", "--tuples-only", "--command", statement)
    return box.run((*argv, "litellm"), cwd="/").stdout.strip()


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
