"""The superuser of PostgreSQL runs nothing that is in the database of the service."""

from __future__ import annotations

from litellm_systemd.database import postgres
from tests.database import Cluster

_IS_SUPERUSER = "SELECT rolsuper FROM pg_roles WHERE rolname = 'litellm'"


def test_functions_of_the_database_get_no_rights(cluster: Cluster) -> None:
    """A function in the database, which fits better than PostgreSQL's own, is not run with the superuser's rights."""
    cluster.execute("CREATE DATABASE litellm OWNER litellm")
    cluster.execute(
        "SET ROLE litellm; CREATE TABLE rows AS SELECT 1;"
        "CREATE FUNCTION format(text, name, name) RETURNS text LANGUAGE plpgsql AS"
        " $$ BEGIN ALTER ROLE litellm SUPERUSER; RETURN 'rows'; END $$",
        "litellm",
    )
    try:
        postgres.drop_database(f"postgresql://litellm@localhost:{cluster.port}/litellm?host={cluster.folder}")
        # It stays, since its table has a row.
        assert cluster.execute("SELECT count(*) FROM pg_database WHERE datname = 'litellm'") == [(1,)]
        assert cluster.execute(_IS_SUPERUSER) == [(False,)]
    finally:
        cluster.execute("ALTER ROLE litellm NOSUPERUSER")
        cluster.execute("DROP DATABASE litellm")
