"""Which migrations of LiteLLM an earlier release can live with."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from litellm_systemd.database.migration_files import Migration, breaking_statements, read_migrations
from litellm_systemd.database.migration_sql import Changes, is_concurrent, is_inert, split_statements

SHIPPED = read_migrations(Path(str(files("litellm_proxy_extras"))))

#: All of LiteLLM's migrations that are not additive, and a word of the first statement because of which.
BREAKING = {
    "20250416151339_drop_tag_uniqueness_requirement": "DROP INDEX",
    "20250509141545_use_big_int_for_daily_spend_tables": "SET DATA TYPE",
    "20250526154401_allow_null_entity_id": "DROP NOT NULL",
    "20250603210143_cascade_budget_changes": "DROP CONSTRAINT",
    "20250625145206_cascade_budget_and_loosen_managed_file_json": "DROP CONSTRAINT",
    "20250707230009_add_mcp_namespaced_tool_name": "DROP INDEX",
    "20250711220620_add_stdio_mcp": "DROP NOT NULL",
    "20250806095134_rename_alias_to_server_name_mcp_table": "RENAME COLUMN",
    "20250918083359_drop_spec_version_column_from_mcp_table": "DROP COLUMN",
    "20251119131227_add_prompt_versioning": "DROP INDEX",
    "20260106155622_add_endpoint_to_daily_activity_tables": "DROP INDEX",
    "20260213170952_access_group_change_to_model_name": "DROP COLUMN",
    "20260221183800_add_policy_versioning": "DROP INDEX",
    "20260224203854_add_agent_object_permissions_table": "DROP COLUMN",
    "20260303000000_update_tool_table_policies": "RENAME COLUMN",
    "20260331000000_add_prompt_environment_and_created_by": "DROP INDEX",
    "20260717000000_cascade_delete_jwt_key_mapping_on_token_delete": "DROP CONSTRAINT",
    "20260813180408_add_shadow_eval_direction": "DROP INDEX",
    "20260831000000_shadow_eval_typed_targets": "RENAME COLUMN",
    "20260915000000_scope_jwt_key_mapping_by_issuer": "DROP INDEX",
    "20260923000000_add_mcp_catalog_revision_trigger": "FUNCTION",
    "20261001100000_rename_lens": "RENAME TO",
    "20261007000000_lens_review_fk_on_update_cascade": "DROP CONSTRAINT",
}


@pytest.mark.parametrize("migration", SHIPPED, ids=lambda each: each.name.replace(" ", "_"))
def test_shipped(migration: Migration) -> None:
    """Of each migration that LiteLLM ships, it is known whether an earlier release can live with it."""
    breaking = breaking_statements([migration], {migration.name}).get(migration.name, ())
    expected = BREAKING.get(migration.name)
    assert bool(breaking) is (expected is not None), breaking
    assert expected is None or expected in breaking[0]


def test_all_shipped() -> None:
    """The table has all migrations, and each is one transaction: none begins or ends one of its own."""
    assert len(SHIPPED) >= 220
    assert {each.name for each in SHIPPED} >= BREAKING.keys()
    for each in SHIPPED:
        statements = list(split_statements(each.sql))
        assert not [line for line in statements if re.match(r"BEGIN|COMMIT|START TRANSACTION", line, re.IGNORECASE)]
        # PostgreSQL refuses CREATE INDEX CONCURRENTLY next to another statement.
        assert not is_concurrent(each.sql) or len(statements) == 1


ADDITIVE = (
    'CREATE TABLE IF NOT EXISTS "T" ("id" TEXT NOT NULL, "note" TEXT DEFAULT \'; DROP TABLE x\');',
    'ALTER TABLE "T" ADD COLUMN IF NOT EXISTS "c" TEXT;',
    'ALTER TABLE "T" ADD COLUMN "c" NUMERIC(10, 2) NOT NULL DEFAULT 0, ADD COLUMN "d" TEXT[];',
    'ALTER TABLE "T" ALTER COLUMN "old" SET DEFAULT \'{}\';',
    'CREATE INDEX CONCURRENTLY IF NOT EXISTS "T_c_idx" ON "T"("c" DESC);',
    'DROP INDEX IF EXISTS "T_c_idx"; ALTER INDEX "a" RENAME TO "b"; SELECT 1;',
    '-- DROP TABLE "T";\n/* DROP TABLE "T"; */\nSET LOCAL lock_timeout = \'5s\';',
    # Columns and tables of the same migration.
    'CREATE TABLE "N" ("id" TEXT); CREATE UNIQUE INDEX "u" ON "N"("id"); INSERT INTO "N" VALUES (\'a;b\');',
    'CREATE TABLE "N" ("id" TEXT); ALTER TABLE "N" ADD CONSTRAINT "f" FOREIGN KEY ("id") REFERENCES "T"("id");',
    'ALTER TABLE "T" ADD COLUMN "c" TEXT; CREATE UNIQUE INDEX "u" ON "T"("c");',
    'ALTER TABLE "T" ADD COLUMN "c" TEXT; UPDATE "T" SET "c" = lower("a") WHERE "c" IS NULL;',
    'DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_class) THEN ALTER TABLE "T" ADD COLUMN "c" TEXT; END IF; END $$;',
)
NOT_ADDITIVE = (
    'DROP TABLE "T";',
    'ALTER TABLE "T" DROP COLUMN "c";',
    'ALTER TABLE "T" ADD COLUMN "c" TEXT NOT NULL;',
    'ALTER TABLE "T" ADD COLUMN "a" TEXT, DROP COLUMN "b";',
    'ALTER TABLE "T" ALTER COLUMN "c" SET NOT NULL;',
    'ALTER TABLE "T" ALTER COLUMN "c" DROP DEFAULT;',
    'ALTER TABLE "T" RENAME COLUMN "a" TO "b";',
    'ALTER TABLE "T" RENAME TO "U";',
    'ALTER TABLE "T" ADD CONSTRAINT "f" FOREIGN KEY ("old") REFERENCES "U"("id");',
    'CREATE UNIQUE INDEX "u" ON "T"("old");',
    'ALTER TABLE "T" ADD COLUMN "c" TEXT DEFAULT \'x\'; CREATE UNIQUE INDEX "u" ON "T"("c");',
    'ALTER TABLE "T" ADD COLUMN "c" TEXT; UPDATE "T" SET "c" = "a", "a" = NULL;',
    'UPDATE "T" SET "old" = 1;',
    'INSERT INTO "T" VALUES (1);',
    'DELETE FROM "T";',
    'TRUNCATE "T";',
    'DROP INDEX "T_c_key";',
    "ALTER TYPE \"Kind\" ADD VALUE 'new';",
    'DO $$ BEGIN IF EXISTS (SELECT 1) THEN ALTER TABLE "T" DROP COLUMN "c"; END IF; END $$;',
    "DO $body$ BEGIN PERFORM something(); END $body$;",
    "VACUUM;",
    'SELECT 1; DROP TABLE "T"',
)


@pytest.mark.parametrize("script", ADDITIVE)
def test_additive(script: str) -> None:
    """A migration that only adds what an earlier release does not use needs no restored dump."""
    assert Changes().breaking(script) == ()


@pytest.mark.parametrize("script", NOT_ADDITIVE)
def test_breaking(script: str) -> None:
    """A migration that removes, renames or restricts, or has a statement that is not known, counts as breaking."""
    assert Changes().breaking(script)


def test_later_migration() -> None:
    """What an earlier migration of the same upgrade has created may be changed: the old release does not know it."""
    migrations = (
        Migration("1", b'CREATE TABLE "N" ("id" TEXT); ALTER TABLE "T" ADD COLUMN "c" TEXT'),
        Migration("2", b'ALTER TABLE "N" DROP COLUMN "id"; ALTER TABLE "T" DROP COLUMN "c"'),
    )
    assert breaking_statements(migrations, {"1", "2"}) == {}
    assert list(breaking_statements(migrations, {"2"})) == ["2"]


def test_withdrawn() -> None:
    """A migration that LiteLLM has withdrawn, and that only has comments and SELECT 1 now, changes nothing."""
    withdrawn = [each.name for each in SHIPPED if is_inert(each.sql)]
    assert "20260823000000_add_spend_logs_api_key_starttime_index" in withdrawn
    assert not is_inert('SELECT 1; DROP TABLE "T"')
