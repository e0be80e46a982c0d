"""The URL of the database: where it is found, and what it means to libpq."""

from __future__ import annotations

import pytest

from litellm_systemd.env.database import database_mode, find_url, parse_url

URL = "postgresql://litellm:p%40ss@localhost:5433/litellm"


@pytest.mark.parametrize(
    ("values", "general", "found"),
    [
        pytest.param({}, {}, None, id="none"),
        pytest.param({"DATABASE_URL": URL}, {}, (URL, "DATABASE_URL"), id="in the environment"),
        pytest.param({"MINE": URL}, {"database_url": "os.environ/MINE"}, (URL, "MINE"), id="in another variable"),
        pytest.param({}, {"database_url": "os.environ/MINE"}, None, id="in a variable that is not set"),
        pytest.param(
            {"DATABASE_URL": "x"}, {"database_url": URL}, (URL, "general_settings.database_url"), id="file goes first"
        ),
        pytest.param(
            {"DATABASE_HOST": "h:1", "DATABASE_USERNAME": "u", "DATABASE_PASSWORD": "p@/", "DATABASE_NAME": "d"},
            {},
            ("postgresql://u:p%40%2F@h:1/d", "DATABASE_HOST"),
            id="built from its parts",
        ),
        pytest.param({"DATABASE_HOST": "h"}, {}, None, id="parts are missing"),
    ],
)
def test_where_the_url_is(values: dict[str, str], general: dict[str, object], found: tuple[str, str] | None) -> None:
    """The service has a database exactly if LiteLLM finds the URL of one, in LiteLLM's order."""
    assert find_url(values, general) == found
    assert database_mode(values, general) is (found is not None)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (URL, {"host": "localhost", "port": "5433", "password": "p@ss"}),
        ("postgres://litellm@[::1]/litellm", {"host": "::1", "port": "5432"}),
        (
            "postgresql://litellm@localhost/litellm?host=/run/postgresql&schema=public",
            {"host": "/run/postgresql", "port": "5432"},
        ),
        (
            "postgresql://litellm@db.example/litellm?sslmode=require&connection_limit=5",
            {"host": "db.example", "port": "5432", "sslmode": "require"},
        ),
        # Prisma's form of verify-full, and libpq's.
        (
            "postgresql://litellm@db.example/litellm?sslmode=require&sslaccept=strict&sslcert=/etc/ca.pem",
            {"host": "db.example", "port": "5432", "sslmode": "verify-full", "sslrootcert": "/etc/ca.pem"},
        ),
        (
            "postgresql://litellm@db.example/litellm?sslmode=verify-full",
            {"host": "db.example", "port": "5432", "sslmode": "verify-full", "sslrootcert": "system"},
        ),
    ],
)
def test_for_libpq(url: str, expected: dict[str, str]) -> None:
    """psycopg and pg_dump connect to the same server, with the same encryption, as Prisma's engine does."""
    database = parse_url(url)
    assert database.libpq() == {"user": "litellm", "dbname": "litellm", **expected}
    assert "p@ss" not in repr(database)
