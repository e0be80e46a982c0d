"""The merge of settings into a file of the user."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from litellm_systemd.client_setup.merge import Format, combine, merge, parse
from litellm_systemd.errors import InputError

JSON = """\
// mine
{
\t"theme": "dark", // at night
\t"env": {"A": "1"},
\t"permissions": {
\t\t"deny": [
\t\t\t"Bash(rm:*)", /* never */
\t\t],
\t},
}
"""
YAML = """\
# mine
name: me   # hi
models:
  # the first one
  - name: gpt
    provider: openai  # paid

  - name: claude
    apiBase: old
    roles: [chat]
# below
rules: []
"""
TOML = """\
# mine
model = "gpt"  # for now

[features]
a = true  # keep

[model_providers.other]
name = "other"
"""


def test_json_with_comments() -> None:
    """JSON keeps its comments, its indentation and the user's own settings."""
    wanted = {"env": {"A": "2", "B": "3"}, "permissions": {"deny": ["WebSearch"]}, "model": "claude"}
    assert merge(JSON, Format.JSON, wanted, "f") == (
        JSON.replace('{"A": "1"}', '{"A": "2", "B": "3"}')
        .replace('"Bash(rm:*)", /* never */\n', '"Bash(rm:*)",\n\t\t\t"WebSearch", /* never */\n')
        .replace("\t},\n}", '\t},\n\t"model": "claude",\n}')
    )


def test_yaml_with_comments() -> None:
    """YAML keeps its comments; an item of a list with the same name is merged, another one is added."""
    wanted = {"models": [{"name": "claude", "apiBase": "new", "k": {"a": 1}}, {"name": "haiku", "x": 1}], "top": True}
    assert merge(YAML, Format.YAML, wanted, "f") == (
        YAML.replace("apiBase: old", 'apiBase: "new"').replace(
            "    roles: [chat]\n", "    roles: [chat]\n    k:\n      a: 1\n  - name: haiku\n    x: 1\n"
        )
        + "top: true\n"
    )


def test_toml_with_comments() -> None:
    """TOML keeps its comments, and settings of the top level come before the first table."""
    wanted = {"model": "claude", "model_provider": "litellm", "features": {"b": False}}
    assert merge(TOML, Format.TOML, wanted, "f") == (
        TOML.replace('"gpt"  # for now\n', '"claude"  # for now\nmodel_provider = "litellm"\n').replace(
            "# keep\n", "# keep\nb = false\n"
        )
    )


@pytest.mark.parametrize(("text", "form"), [(JSON, Format.JSON), (YAML, Format.YAML), (TOML, Format.TOML)])
def test_a_second_merge_changes_nothing(text: str, form: Format) -> None:
    """The same settings again leave the text as it is."""
    wanted = (
        {"model": "claude", "models": [{"name": "claude", "x": 1}]} if form is not Format.TOML else {"model": "c"}
    )
    once = merge(text, form, wanted, "f")
    assert once != text
    assert merge(once, form, wanted, "f") == once


@pytest.mark.parametrize(
    ("text", "form", "message"),
    [
        ('{\n  "a": 1\n  "b": 2\n}', Format.JSON, "home/f:3: not JSON"),
        ("{\n  a: 1\n}", Format.JSON, "home/f:2: not JSON"),
        ("a: 1\nb: [1\n", Format.YAML, "home/f:3: not YAML"),
        ("a: 1\n\tb: 2\n", Format.YAML, "home/f:2: not YAML"),
        ("a = 1\nb =\n", Format.TOML, "home/f:2: not TOML"),
        ('{"a": "text"}', Format.JSON, "home/f: a is not a mapping"),
        ("[]", Format.JSON, "home/f is not a mapping"),
        ('a = "text"\n', Format.TOML, "home/f: a is not a mapping"),
        ("[b]\n[b]\n", Format.TOML, "home/f:2: not TOML"),
        ("a = 1\na = 2\n", Format.TOML, "home/f:2: not TOML"),
    ],
)
def test_a_file_that_cannot_be_merged(text: str, form: Format, message: str) -> None:
    """A file that cannot be read, or has another type at a key, is refused with file and line, or key."""
    with pytest.raises(InputError, match=message) as caught:
        merge(text, form, {"a": {"b": 1}}, "home/f")
    assert "Nothing was changed." in caught.value.hint


def test_a_layout_that_cannot_be_edited() -> None:
    """YAML where an edit would change something else, such as what has the same anchor, is refused."""
    for text in ("a: &x {b: 1}\nc: *x\n", "--- null\n"):
        with pytest.raises(InputError, match="can't be edited without a loss"):
            merge(text, Format.YAML, {"c": {"b": 2}}, "f")


@pytest.mark.parametrize("text", ['{"a"\n: 1}', '{"a": "\x7f"}'])
def test_json_that_is_not_yaml(text: str) -> None:
    """JSON that the editor of files cannot parse is refused with what to do."""
    with pytest.raises(InputError, match="can't be edited without a loss") as caught:
        merge(text, Format.JSON, {"c": {"b": 2}}, "f")
    assert "Add the settings by hand" in caught.value.hint


def test_initial_settings() -> None:
    """An initial setting is added where the file has none, and replaces nothing."""
    initial = {"name": "gateway", "update": False}
    assert parse(merge("", Format.YAML, {"a": 1}, "f", initial), Format.YAML, "f") == {**initial, "a": 1}
    found = parse(merge("name: mine\n", Format.YAML, {"a": 1}, "f", initial), Format.YAML, "f")
    assert found == {"name": "mine", "update": False, "a": 1}


@pytest.mark.parametrize(
    ("text", "form", "expected"),
    [
        ("# mine", Format.YAML, "# mine\na: 1\n"),
        ("# mine\n", Format.TOML, "# mine\na = 1\n"),
        ("// mine\n", Format.JSON, '// mine\n{\n  "a": 1\n}\n'),
        ("{\n  // mine\n}\n", Format.JSON, '{\n  // mine\n  "a": 1\n}\n'),
        ("\n", Format.JSON, '{\n  "a": 1\n}\n'),
    ],
)
def test_a_file_without_settings(text: str, form: Format, expected: str) -> None:
    """A file with comments only gets the settings below them."""
    assert merge(text, form, {"a": 1}, "f") == expected


_KEYS = st.sampled_from(["a", "b", "c d", "é"])
_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-9, 9), st.sampled_from(["", "x", "a: b", "# no", '"', "null", "1"])
)
_LISTS = st.lists(
    st.one_of(_SCALARS, st.fixed_dictionaries({"name": st.sampled_from("xyz"), "v": _SCALARS})), max_size=3
)
_MAPPINGS: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(_KEYS, st.one_of(_SCALARS, _LISTS), max_size=3),
    lambda inner: st.dictionaries(_KEYS, st.one_of(_SCALARS, _LISTS, inner), max_size=3),
    max_leaves=6,
)


@example(before={"b": []}, wanted={"b": [1, 1]}, style="json")
@example(
    before={"b": [{"name": "x", "v": 1}]}, wanted={"b": [{"name": "x", "v": 2}, {"name": "x", "v": 3}]}, style="json"
)
@example(
    before={"b": [{"name": "x", "v": 1}]}, wanted={"b": [{"name": "x", "v": 1}, {"v": 1, "name": "y"}]}, style="json"
)
@given(
    before=_MAPPINGS, wanted=_MAPPINGS, style=st.sampled_from(["json", "compact", "tabs", "block", "flow", "mixed"])
)
def test_any_settings(before: dict[str, Any], wanted: dict[str, Any], style: str) -> None:
    """Whatever the settings and the layout are, the edited text has the merged settings, or the types conflict."""
    form = Format.JSON if style in ("json", "compact", "tabs") else Format.YAML
    indents: dict[str, int | str] = {"json": 2, "tabs": "\t"}
    text = (
        json.dumps(before, indent=indents.get(style))
        if form is Format.JSON
        else yaml.safe_dump(before, default_flow_style={"block": False, "flow": True}.get(style))
    )
    try:
        expected = combine(before, wanted)
    except InputError:
        with pytest.raises(InputError):
            merge(text, form, wanted, "f")
        return
    assert parse(merge(text, form, wanted, "f"), form, "f") == expected
