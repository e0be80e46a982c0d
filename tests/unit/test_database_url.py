"""The URL of the database: where it is found, and what it means to libpq."""

from __future__ import annotations

from pathlib import Path

import pytest

from litellm_systemd.database.steps import database_environment, installed_settings
from litellm_systemd.env.database import database_mode, find_url, own_url, parse_url
from litellm_systemd.env.settings import build_settings, parse_dotenv
from litellm_systemd.errors import InputError
from litellm_systemd.host.layout import Layout
from litellm_systemd.install.render import render_service

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


OWN, THEIRS = own_url(), "postgresql://u:p@localhost/d"


@pytest.mark.parametrize(
    ("env", "installed", "wanted", "expected"),
    [
        pytest.param("", "", own_url(5433), own_url(5433), id="set up"),
        pytest.param("", OWN, None, OWN, id="kept by a later install"),
        pytest.param(f"DATABASE_URL={OWN}", OWN, None, OWN, id="copied into .env"),
        pytest.param(f"DATABASE_URL={THEIRS}", OWN, None, THEIRS, id="replaced by another database"),
        pytest.param("", THEIRS, None, None, id="another database was removed from .env"),
        pytest.param("", OWN, "", None, id="not used any longer"),
        pytest.param(f"DATABASE_URL={OWN}", OWN, "", None, id="not used any longer, with a copy in .env"),
        pytest.param(f"DATABASE_URL={THEIRS}", OWN, "", THEIRS, id="another database instead"),
    ],
)
def test_database_of_this_host(env: str, installed: str, wanted: str | None, expected: str | None) -> None:
    """What --with-postgres has set up stays for later installs until .env has another one or an option ends it."""
    before = {"DATABASE_URL": installed} if installed else {}
    settings = build_settings(parse_dotenv(env, ".env"), installed=before, new_key=lambda: "sk-x", database=wanted)
    assert settings.environment.get("DATABASE_URL") == expected


def test_two_databases() -> None:
    """--with-postgres next to a DATABASE_URL is refused, with the line."""
    with pytest.raises(InputError, match=r"^\.env:1: DATABASE_URL names a database") as caught:
        build_settings(
            parse_dotenv(f"DATABASE_URL={THEIRS}", ".env"), installed={}, new_key=lambda: "sk-x", database=OWN
        )
    assert "Remove DATABASE_URL" in caught.value.hint


@pytest.mark.parametrize(
    ("url", "lines"),
    [
        ("", {"After=litellm.socket network-online.target nss-lookup.target", "Wants=network-online.target"}),
        (
            OWN,
            {
                "After=litellm.socket network-online.target nss-lookup.target postgresql.service",
                "Wants=network-online.target postgresql.service",
            },
        ),
        (
            THEIRS,
            {
                "After=litellm.socket network-online.target nss-lookup.target postgresql.service",
                "Wants=network-online.target",
            },
        ),
        (
            "postgresql://u:p@db.example/d?sslmode=require",
            {"After=litellm.socket network-online.target nss-lookup.target", "Wants=network-online.target"},
        ),
        ("aws-ssm:/gateway/database", {"Wants=network-online.target"}),
    ],
)
def test_start_after_postgres(url: str, lines: set[str]) -> None:
    """The service starts after a PostgreSQL of its host, and starts the one that an install has set up for it."""
    settings = build_settings(parse_dotenv("", ".env"), installed={}, new_key=lambda: "sk-x")
    assert lines <= set(render_service(Layout(), settings, 252, "1", database=url).splitlines())


@pytest.mark.parametrize("end", ["", "model_list: 1\n"], ids=["valid", "with an error"])
def test_installed_database(tmp_path: Path, end: str) -> None:
    """The undo of an interrupted change finds a database that only the configuration names, if that is valid."""
    layout = Layout(root=tmp_path)
    models = "[{model_name: a, litellm_params: {model: openai/a}}]"
    files = {
        layout.environment_file: f"MINE={URL}\n",
        layout.config("a.yaml"): f"model_list: {models}\ngeneral_settings: {{database_url: os.environ/MINE}}\n{end}",
    }
    for name, text in files.items():
        path = layout.real(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    layout.real(layout.config_link).symlink_to("configs/a.yaml")
    found = database_environment(*installed_settings(layout))
    assert (None if found is None else found["DATABASE_URL"]) == (None if end else URL)
