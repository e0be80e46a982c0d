"""What the snapshot records of LiteLLM's variables: the conversion of a value, and whether a bad one stops it."""

from __future__ import annotations

import pytest

from litellm_systemd.releases.litellm_variables import read_kinds

CONSTANTS = {"SWITCH_ENV": "SWITCH"}


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ('LIMIT = int(os.getenv("SWITCH", 5))', ("integer", True)),
        ('LIMIT: Final = max(1, float(os.environ.get("SWITCH", "0.5")))', ("number", True)),
        ('def limit():\n    return int(os.getenv("SWITCH", "5"))', ("integer", False)),
        ('try:\n    LIMIT = int(os.getenv("SWITCH"))\nexcept ValueError:\n    LIMIT = 1', ("integer", False)),
        ('IS_ON = os.getenv("SWITCH", "").strip().lower() == "true"', ("true", False)),
        ('IS_ON = os.getenv("SWITCH") == "True"', ("True", False)),
        ("IS_ON = str_to_bool(value=os.getenv(SWITCH_ENV)) is True", ("true", False)),
        ('LIMIT = get_env_int_in_range("SWITCH", 5, 1, 9)', ("integer", False)),
        ('IS_ON = get_secret_bool("SWITCH", False)', ("true", False)),
        ('IS_ON = bool(os.getenv("SWITCH", False))', ("text", False)),
        ('NAME = os.getenv("SWITCH") or "x"', None),
        ('IS_ON = os.getenv("SWITCH", "").lower() in ("true", "1")', None),
    ],
)
def test_kind_of_a_variable(source: str, kind: tuple[str, bool] | None) -> None:
    """The code around a lookup shows what the value must be; only code at the top of a module stops the import."""
    assert list(read_kinds(f"import os\n{source}\n", CONSTANTS, is_imported=True)) == [("SWITCH", kind)]


def test_a_module_that_is_not_imported_stops_nothing() -> None:
    """A module that LiteLLM does not import at its start fails later."""
    source = 'LIMIT = int(os.getenv("X"))\n'
    assert list(read_kinds(source, {}, is_imported=False)) == [("X", ("integer", False))]
