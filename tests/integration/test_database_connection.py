"""Before an install changes anything, the database is used once: each cause that prevents it has its own message."""

from __future__ import annotations

import pytest

from litellm_systemd.contract import ExitCode
from litellm_systemd.database.connection import require_database
from litellm_systemd.env.database import own_url, parse_url
from litellm_systemd.errors import DatabaseError
from tests.database import Cluster, Database
from tests.ports import free_port
from tests.postgres import PASSWORD

POSITION = ".env:3: DATABASE_URL"


def refusal(url: str) -> DatabaseError:
    """The error for a URL, which must not have the password in it."""
    with pytest.raises(DatabaseError) as caught:
        require_database(parse_url(url), POSITION)
    assert caught.value.message.startswith(f"{POSITION}: ")
    assert caught.value.code is ExitCode.DATABASE
    assert PASSWORD not in caught.value.render()
    return caught.value


def test_usable_databases(cluster: Cluster, database: Database) -> None:
    """A database with LiteLLM's tables or an empty one is accepted, over TCP or the UNIX socket."""
    empty = cluster.create_database(empty=True)
    for url in (database.url, database.socket_url, empty.url):
        require_database(parse_url(url), POSITION)
    cluster.drop_database(empty)


@pytest.mark.parametrize(
    ("before", "after", "message", "hint"),
    [
        (f":{PASSWORD}@", ":wrong@", "refuses the password of the user litellm", "\\password litellm"),
        (f"litellm:{PASSWORD}@", "stranger:x@", "refuses the password of the user stranger", "Correct the password"),
        ("/litellm_", "/missing_", "has no database missing_", "createdb --owner=litellm missing_"),
        ("@127.0.0.1:", "@db:", "the host db is not known", "litellmctl install --with-postgres"),
        ("@127.0.0.1:", "@db.invalid:", "the host db.invalid is not known", "Correct the name of the host"),
    ],
)
def test_causes(database: Database, before: str, after: str, message: str, hint: str) -> None:
    """A wrong password, user, database or host is named, with the remedy."""
    error = refusal(database.url.replace(before, after))
    assert message in error.message
    assert hint in error.hint


def test_tls_that_the_server_lacks(database: Database) -> None:
    """A server without TLS is named if the URL requires it."""
    assert "offers no TLS" in refusal(f"{database.url}?sslmode=require").message


def test_nothing_listens(cluster: Cluster) -> None:
    """A port or a socket without a server is named, with the option that sets one up."""
    port = free_port()
    for url in (f"postgresql://u:p@127.0.0.1:{port}/d", f"postgresql://u@localhost:{port}/d?host={cluster.folder}"):
        error = refusal(url)
        assert "no PostgreSQL listens" in error.message
        assert "install --with-postgres" in error.hint
    own = refusal(own_url(port))
    assert ("no PostgreSQL listens" in own.message, own.hint) == (True, "Start it: sudo systemctl start postgresql")


def test_user_without_rights(cluster: Cluster, database: Database) -> None:
    """A user that may not create LiteLLM's tables, the default since PostgreSQL 15, is refused with the statement."""
    parts = database.url.rpartition("/")
    error = refusal(f"{parts[0]}/postgres")
    assert "may not create tables in the database postgres" in error.message
    assert "ALTER DATABASE postgres OWNER TO litellm" in error.hint
