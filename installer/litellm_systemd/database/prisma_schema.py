"""The columns that LiteLLM's schema.prisma declares (https://www.prisma.io/docs/orm/reference/prisma-schema-reference)."""

from __future__ import annotations

import re

#: PostgreSQL's names of the types that Prisma gives a column without an attribute @db.
_TYPES = {
    **{"String": "text", "Int": "int4", "BigInt": "int8", "Float": "float8", "Boolean": "bool"},
    **{"DateTime": "timestamp", "Json": "jsonb", "Bytes": "bytea", "Decimal": "numeric"},
}
_MODEL = re.compile(r"^model\s+(\w+)\s*\{(.*?)^\}", re.MULTILINE | re.DOTALL)
_ENUM = re.compile(r"^enum\s+(\w+)\s*\{", re.MULTILINE)
_FIELD = re.compile(r"^\s*(?P<name>\w+)\s+(?P<type>\w+)(?P<many>\[\])?(?P<optional>\?)?(?P<rest>.*)$", re.MULTILINE)
_MAP = re.compile(r'@map\("([^"]+)"\)')
_TABLE = re.compile(r'@@map\("([^"]+)"\)')


def parse_columns(schema: str) -> dict[str, str]:
    """The type of each column by `table.column`, with ` not null` after it where it holds.

    Types are those of information_schema.columns.udt_name. A list of Prisma may be NULL.
    """
    names = {**_TYPES, **{name: name for name in _ENUM.findall(schema)}}
    found = {}
    for model, body in _MODEL.findall(schema):
        table = _TABLE.search(body)
        for field in _FIELD.finditer(body):
            if field["type"] in names:
                column = _MAP.search(field["rest"])
                kind = ("_" if field["many"] else "") + names[field["type"]]
                required = "" if field["many"] or field["optional"] else " not null"
                found[f"{table[1] if table else model}.{column[1] if column else field['name']}"] = kind + required
    return found
