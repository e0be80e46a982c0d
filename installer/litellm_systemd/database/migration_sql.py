"""Which migrations an earlier release can live with: additive ones, by their SQL. Pure.

An earlier LiteLLM names each column that it reads or writes. A further table, nullable column, column with a default
or index does not concern it. All else is breaking, and so is each statement that this module does not know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|.""", re.DOTALL
)
_NAME = r'(?:"?public"?\.)?"?(?P<table>\w+)"?'
_ALTER = re.compile(rf"ALTER TABLE (?:IF EXISTS )?(?:ONLY )?{_NAME} (?P<rest>.*)", re.IGNORECASE)
_CREATE_TABLE = re.compile(rf"CREATE TABLE (?:IF NOT EXISTS )?{_NAME}", re.IGNORECASE)
_CREATE_INDEX = re.compile(
    rf'CREATE (?P<unique>UNIQUE )?INDEX (?:CONCURRENTLY )?(?:IF NOT EXISTS )?"?\w+"? ON {_NAME} ?(?P<rest>.*)',
    re.IGNORECASE,
)
_ADD_COLUMN = re.compile(r'ADD COLUMN (?:IF NOT EXISTS )?"?(?P<column>\w+)"? (?P<rest>.*)', re.IGNORECASE)
_COLUMN = re.compile(
    r'(?:ALTER COLUMN|DROP COLUMN(?: IF EXISTS)?|RENAME COLUMN) "?(?P<column>\w+)"?(?P<rest>.*)', re.IGNORECASE
)
_FOREIGN_KEY = re.compile(r"ADD (?:CONSTRAINT \S+ )?FOREIGN KEY ?\((?P<columns>[^)]*)\)", re.IGNORECASE)
_UPDATE = re.compile(rf"(?:UPDATE) {_NAME} SET (?P<column>\"?\w+\"?) ?=(?P<rest>.*)", re.IGNORECASE)
_INSERT = re.compile(rf"INSERT INTO {_NAME}", re.IGNORECASE)
#: Statements that change nothing that LiteLLM reads or writes. Its names of non-unique indexes end with _idx.
_HARMLESS = re.compile(
    r"SELECT 1$|SET LOCAL |CREATE TYPE |CREATE FUNCTION |ALTER INDEX (?:IF EXISTS )?\S+ RENAME TO "
    r'|DROP INDEX (?:CONCURRENTLY )?(?:IF EXISTS )?"?\w+_idx"?$',
    re.IGNORECASE,
)
_BLOCK = re.compile(r"DO (?:LANGUAGE \w+ )?\$(?P<tag>\w*)\$(?P<body>.*)\$(?P=tag)\$", re.IGNORECASE)
#: What surrounds a statement in a block of PL/pgSQL.
_CONTROL = re.compile(
    r"BEGIN\b|IF\b.*?\bTHEN\b|ELSE\b|EXCEPTION WHEN \w+(?: OR \w+)* THEN|END IF$|END$|NULL$|RAISE NOTICE .*",
    re.IGNORECASE,
)
_SHOWN = 100


@dataclass(slots=True)
class Changes:
    """Reads migrations in order, and knows what the earlier ones created: a release that does not know them does not
    know that either.
    """

    _tables: set[str] = field(default_factory=set)
    _columns: dict[tuple[str, str], bool] = field(default_factory=dict)

    def breaking(self, script: str) -> tuple[str, ...]:
        """The statements of the next migration that an earlier release may not be able to work with, shortened."""
        return tuple(self._breaking(split_statements(script)))

    def _breaking(self, statements: Iterator[str]) -> Iterator[str]:
        for statement in statements:
            if block := _BLOCK.fullmatch(statement):
                yield from self._breaking(_unwrapped(block["body"]))
            elif change := _ALTER.fullmatch(statement):
                actions = (each for each in _split(change["rest"], ",") if not self._allows(change["table"], each))
                yield from (_shorten(f'ALTER TABLE "{change["table"]}" {action}') for action in actions)
            elif not self._is_additive(statement):
                yield _shorten(statement)

    def _is_additive(self, statement: str) -> bool:
        if created := _CREATE_TABLE.match(statement):
            self._tables.add(created["table"])
            return True
        if index := _CREATE_INDEX.fullmatch(statement):
            return not index["unique"] or self._is_free(index["table"], index["rest"])
        if update := _UPDATE.fullmatch(statement):
            # A further column has no place in this pattern, so that a comma at the top level is unknown.
            key = (update["table"], update["column"].strip('"'))
            return key in self._columns and len(list(_split(update["rest"], ","))) == 1
        if insert := _INSERT.match(statement):
            return insert["table"] in self._tables
        return _HARMLESS.match(statement) is not None

    def _allows(self, table: str, action: str) -> bool:
        """Whether an earlier release does not notice this action of ALTER TABLE."""
        if added := _ADD_COLUMN.fullmatch(action):
            rest = added["rest"].upper()
            has_default = "DEFAULT" in rest or "SERIAL" in rest
            self._columns[table, added["column"]] = "NOT NULL" not in rest and not has_default
            return table in self._tables or "NOT NULL" not in rest or has_default
        if table in self._tables:
            return True
        if key := _FOREIGN_KEY.match(action):
            return self._is_free(table, key["columns"])
        column = _COLUMN.fullmatch(action)
        if column is None:
            return False
        # A default of the database does not reach a release that fills the column itself.
        return (table, column["column"]) in self._columns or " SET DEFAULT " in column["rest"].upper()

    def _is_free(self, table: str, columns: str) -> bool:
        """Whether an earlier release cannot violate a constraint on these columns: it leaves one of them NULL."""
        names = re.findall(r"\w+", columns)
        return table in self._tables or any(self._columns.get((table, name), False) for name in names)


def split_statements(script: str) -> Iterator[str]:
    """The statements of a script, without comments, each with single spaces."""
    return (" ".join(each.split()) for each in _split(script, ";"))


def is_concurrent(script: str) -> bool:
    """Whether the script builds an index without a lock, which PostgreSQL refuses in a transaction."""
    return any(re.match(r"CREATE (?:UNIQUE )?INDEX CONCURRENTLY", each, re.I) for each in split_statements(script))


def is_inert(script: str) -> bool:
    """Whether the script changes nothing. LiteLLM replaces the content of migrations that it has withdrawn."""
    return all(re.fullmatch(r"SELECT 1", each, re.IGNORECASE) for each in split_statements(script))


def _split(text: str, separator: str) -> Iterator[str]:
    """The parts between separators that are in no string, no comment and no parentheses."""
    part, depth = "", 0
    for match in _TOKEN.finditer(text):
        piece = match[0]
        depth += (piece == "(") - (piece == ")")
        if piece == separator and depth == 0:
            if part.strip():
                yield part.strip()
            part = ""
        else:
            part += " " if piece.startswith(("--", "/*")) else piece
    if part.strip():
        yield part.strip()


def _unwrapped(body: str) -> Iterator[str]:
    """The statements of a block of PL/pgSQL without its conditions."""
    for statement in split_statements(body):
        rest = statement
        while control := _CONTROL.match(rest):
            rest = rest[control.end() :].strip()
        if rest:
            yield rest


def _shorten(statement: str) -> str:
    return statement if len(statement) <= _SHOWN else f"{statement[:_SHOWN]}…"
