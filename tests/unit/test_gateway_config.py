"""LiteLLM configurations: parsing, rejection of invalid files, and findings of lint."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from litellm_systemd.errors import InputError, InstallerError, MissingError, PermissionDenied
from litellm_systemd.gateway.config import (
    ConfigError,
    GatewayConfig,
    Severity,
    check,
    lint,
    parse_config,
    read_config,
)

HERE = Path(__file__).parent
SHIPPED = sorted((HERE.parents[1] / "configs").glob("*.yml"))
SHARED = sorted((HERE.parents[1] / "configs/shared").glob("*.yml"))
VALID = {"LITELLM_MASTER_KEY": "sk-good", "AWS_REGION_NAME": "us-east-1"}
KEYS = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "x"}
MODEL = "model_list:\n  - {model_name: a, litellm_params: {model: openai/x}}\n"
ERRORS = yaml.safe_load((HERE / "config_errors.yml").read_text())


def lint_cases() -> list[Any]:
    return [
        pytest.param(case, id=f"{path.stem}: {case['name']}")
        for path in sorted((HERE / "lint_cases").glob("*.yml"))
        for case in yaml.safe_load(path.read_text())
    ]


@pytest.mark.parametrize("case", lint_cases())
def test_lint_finds_exactly_what_is_wrong(case: dict[str, Any]) -> None:
    """For each configuration in lint_cases, lint returns exactly the listed findings, each with a remedy."""
    found = lint(parse_config(case["config"], "f.yml"), case.get("environ", VALID))
    assert [f"{each.severity.value} {each.code} {each.where}" for each in found] == case["finds"]
    assert all(each.remedy for each in found)
    for part, each in zip(case.get("says", []), found, strict=False):
        assert part in f"{each.message} {each.remedy}"


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in ERRORS])
def test_an_invalid_file_is_rejected_with_its_position(case: dict[str, Any]) -> None:
    """Each file in config_errors.yml is rejected with its path, its line if there is one, and a remedy."""
    with pytest.raises(InputError) as caught:
        parse_config(case["text"], "f.yml")
    assert isinstance(caught.value, ConfigError)
    assert [each.code for each in caught.value.findings] == [case["code"]]
    assert caught.value.message.startswith(case["error"])
    assert caught.value.hint


def test_a_tab_is_named() -> None:
    """The remedy names a tab, which the message of the parser does not."""
    with pytest.raises(ConfigError) as caught:
        parse_config("model_list:\n\t- model_name: a\n", "f.yml")
    assert caught.value.hint == "Indent with spaces: YAML does not accept tabs."


def test_values_of_a_configuration(tmp_path: Path) -> None:
    """Names, models, regions, mocks, aliases, fallbacks, references and digest are those of the file."""
    text = """\
model_list:
  - model_name: a
    litellm_params: {model: bedrock/converse/x, aws_region_name: os.environ/REGION}
  - model_name: b
    litellm_params: {model: gpt-4o, mock_response: hi}
  - model_name: a
    litellm_params: {model: openai/y, extra: [{deep: os.environ/DEEP}]}
router_settings:
  model_group_alias: {old: a, quiet: {model: b, hidden: true}}
  fallbacks: [{a: [b, old]}]
"""
    path = tmp_path / "c.yml"
    path.write_text(text)
    config = read_config(path)
    assert [(model.name, model.provider, model.mocked, model.region) for model in config.models] == [
        ("a", "bedrock", False, "os.environ/REGION"),
        ("b", "openai", True, None),
        ("a", "openai", False, None),
    ]
    assert config.names == ("a", "b", "old")
    assert config.aliases == (("old", "a"),)
    assert config.hidden_aliases == (("quiet", "b"),)
    assert [(each.kind, each.model, each.targets) for each in config.fallbacks] == [("fallbacks", "a", ("b", "old"))]
    assert [variable for _, variable in config.references] == ["REGION", "DEEP"]
    assert str(config.place(config.references[1][0])) == f"{path}:7:48: model_list[2].litellm_params.extra[0].deep"
    assert config.digest == hashlib.sha256(text.encode()).hexdigest()
    assert parse_config(text, str(path)) == config


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_includes_are_followed_as_litellm_follows_them(tmp_path: Path) -> None:
    """Included lists are appended, other values override; a name is relative to its file, else to the root file."""
    root = write(
        tmp_path,
        "root.yml",
        "include: [sub/one.yml, sub/../sub/one.yml]\n"
        "model_list: [{model_name: a, litellm_params: {model: openai/x}}]\n"
        "router_settings: {num_retries: 1}\n",
    )
    one = write(
        tmp_path,
        "sub/one.yml",
        "include: [two.yml, root-only.yml, ../root.yml]\nrouter_settings: {num_retries: 2}\n"
        "model_list:\n  - {model_name: b, litellm_params: {model: nope/x}}\n",
    )
    two = write(tmp_path, "sub/two.yml", "model_list: [{model_name: c, litellm_params: {model: openai/x}}]")
    write(tmp_path, "two.yml", "model_list: [{model_name: wrong, litellm_params: {model: openai/x}}]")
    beside_root = write(tmp_path, "root-only.yml", "")
    config = read_config(root)
    assert config.names == ("a", "b", "c")
    assert config.section("router_settings") == {"num_retries": 2}
    assert config.includes == (one, two, beside_root)
    texts = b"".join(path.read_bytes() for path in (root, *config.includes))
    assert config.digest == hashlib.sha256(texts).hexdigest()
    assert [each.where for each in lint(config, VALID)] == [f"{one}:4:38: model_list[1].litellm_params.model"]


def test_a_credential_in_an_included_file_counts(tmp_path: Path) -> None:
    """A model finds its credential, with the region, in an included file; a wrong region is reported there."""
    root = write(
        tmp_path,
        "root.yml",
        "include: [secret.yml]\nmodel_list:\n"
        "  - {model_name: a, litellm_params: {model: bedrock/eu.x.y, litellm_credential_name: main}}\n",
    )
    entry = "{credential_name: main, credential_info: {}, credential_values: {aws_region_name: %s}}"
    text = f"credential_list:\n  - {entry}\n"
    secret = write(tmp_path, "secret.yml", text % "eu-west-1")
    environ = {"LITELLM_MASTER_KEY": "sk-good"}
    assert lint(read_config(root), environ) == ()
    secret.write_text(text % "eu_west_1")
    assert [each.where.partition(": ")[0] for each in lint(read_config(root), environ)][:1] == [f"{secret}:2:70"]


def test_a_configuration_without_models() -> None:
    """A configuration that serves something else needs no model; one that serves nothing is rejected."""
    for section in (
        "mcp_servers: {ours: {url: 'http://127.0.0.1/mcp'}}",
        "model_list:\nagent_list: [{agent_name: a}]",
        "general_settings: {pass_through_endpoints: [{path: /a, target: 'https://example.com'}]}\nmodel_list: []",
    ):
        config = parse_config(section, "f.yml")
        assert (config.models, config.names, lint(config, VALID)) == ((), (), ())
    with pytest.raises(ConfigError, match="it would serve nothing"):
        parse_config("general_settings: {pass_through_endpoints: []}", "f.yml")


def test_a_missing_include_names_both_files(tmp_path: Path) -> None:
    """A missing included file is reported with the line that includes it, and that an empty one suffices, or with
    the similar name of a file that is there.
    """
    root = write(tmp_path, "root.yml", "# one\ninclude: [gone.yml]\n")
    with pytest.raises(MissingError) as caught:
        read_config(root)
    assert caught.value.message == f"{root}:2:11 includes gone.yml, which doesn't exist"
    assert caught.value.hint.startswith("Create gone.yml next to root.yml, it may be empty")
    (tmp_path / "shared").mkdir()
    write(tmp_path, "shared/my_models.yml", "model_list: []\n")
    with pytest.raises(MissingError) as caught:
        read_config(write(tmp_path, "root.yml", "include: [shared/my_model.yml]\n"))
    assert caught.value.hint.startswith("Did you mean shared/my_models.yml? Otherwise create shared/my_model.yml")


def test_includes_are_looked_for_next_to_the_file_that_a_link_leads_to(tmp_path: Path) -> None:
    """Through the link to the active configuration, included files are those next to the file, not to the link."""
    write(tmp_path, "configs/root.yml", "include: [more.yml]\n")
    more = write(tmp_path, "configs/more.yml", "model_list: [{model_name: a, litellm_params: {model: openai/x}}]\n")
    write(tmp_path, "more.yml", "model_list: [{model_name: wrong, litellm_params: {model: openai/x}}]\n")
    (tmp_path / "config.yaml").symlink_to("configs/root.yml")
    config = read_config(tmp_path / "config.yaml")
    assert (config.names, config.includes) == (("a",), (more,))


def test_a_copy_in_place_of_the_link_still_finds_its_includes(tmp_path: Path) -> None:
    """If an editor replaced the link to the active configuration with a copy, its included files are still found."""
    write(tmp_path, "etc/litellm/config.yaml", "include: [more.yml]\n")
    more = write(
        tmp_path, "etc/litellm/configs/more.yml", "model_list: [{model_name: a, litellm_params: {model: openai/a}}]\n"
    )
    config = read_config(tmp_path / "etc/litellm/config.yaml")
    assert (config.names, config.includes) == (("a",), (more,))


def test_a_duplicate_in_an_included_file_names_the_other_file(tmp_path: Path) -> None:
    """An entry that repeats one of another file is reported with the file and line of the first one."""
    entry = "model_list:\n  - {model_name: a, litellm_params: {model: openai/x, mock_response: hi}}\n"
    root = write(tmp_path, "root.yml", f"include: [more.yml]\n{entry}")
    more = write(tmp_path, "more.yml", entry)
    (finding,) = [each for each in lint(read_config(root), VALID) if each.code == "duplicate-model"]
    assert str(finding).startswith(f"{more}:2:5: model_list[1] (a) repeats the entry of {root}:3:5: ")


def test_a_replaced_section_names_what_it_leaves_out(tmp_path: Path) -> None:
    """A section of an included file that lacks keys of the one it replaces is a warning at its own file and line."""
    root = write(
        tmp_path, "root.yml", "include: [one.yml, two.yml]\nmodel_list: []\nlitellm_settings: {set_verbose: false}\n"
    )
    one = write(tmp_path, "one.yml", "\nrouter_settings: {num_retries: 1, timeout: 5}\n")
    models = "model_list: [{model_name: a, litellm_params: {model: openai/x}}]\n"
    two = write(
        tmp_path, "two.yml", f"{models}router_settings:\n  timeout: 6\nlitellm_settings: {{set_verbose: false}}\n"
    )
    (finding,) = lint(read_config(root), VALID)
    assert (finding.code, finding.severity) == ("replaced-section", Severity.WARNING)
    assert finding.where == f"{two}:2:1: router_settings"
    assert finding.message == f"replaces the whole section of {one}:2:1 and leaves out num_retries"


def test_no_section_of_a_shipped_configuration_is_split() -> None:
    """No two files of a shipped configuration have the same section: LiteLLM would take one alone."""
    for path in SHIPPED:
        config = read_config(path)
        assert config.replaced == ()
        assert {name for name, value in config.document.items() if isinstance(value, Mapping)} >= {"router_settings"}


def test_bedrock_configurations_are_consistent() -> None:
    """The models, aliases, fallbacks and defaults are the same in all three Bedrock configurations."""
    ways = [shipped(name).document for name in ("iam_role_config.yml", "access_key_config.yml", "prompt_caching.yml")]
    for name in ("model_list", "router_settings", "general_settings", "litellm_settings"):
        assert ways[0][name] == ways[1][name] == ways[2][name]


@pytest.mark.parametrize("include", ["models.yml", "[1]", "{a: b}"])
def test_an_include_must_be_a_list_of_names(tmp_path: Path, include: str) -> None:
    """An include that LiteLLM would reject is rejected here, by name."""
    with pytest.raises(InputError, match="include is not a list of file names"):
        read_config(write(tmp_path, "root.yml", f"include: {include}\n"))


def test_a_missing_file() -> None:
    """A file that does not exist is a MissingError with its path."""
    with pytest.raises(MissingError, match=r"/nowhere/c\.yml"):
        read_config(Path("/nowhere/c.yml"))


def test_a_folder(tmp_path: Path) -> None:
    """A folder instead of a file is an InputError that says so."""
    with pytest.raises(InputError, match="is a directory"):
        read_config(tmp_path)


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    """A file that is not UTF-8 is rejected with the line of the first invalid byte."""
    (tmp_path / "c.yml").write_bytes(b"a: tea\nb: caf\xe9")
    with pytest.raises(InputError, match=r"c\.yml:2 is not UTF-8"):
        read_config(tmp_path / "c.yml")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
@pytest.mark.parametrize("name", ["root.yml", "more.yml"])
def test_only_a_regular_file_is_read(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    """A pipe, which would block, or a device, which may never end, is refused as a file and as an included one."""
    write(tmp_path, "root.yml", "include: [more.yml]\n")
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name if name == 'more.yml' else ''}.*is not a regular file"):
        read_config(tmp_path / "root.yml")


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    """A file of more than 4 MiB is refused before it takes memory and minutes."""
    with (tmp_path / "c.yml").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match="is larger than 4 MiB"):
        read_config(tmp_path / "c.yml")


@pytest.mark.parametrize("entry", ['"a\\0b.yml"', "b" * 300], ids=["NUL", "long"])
def test_a_name_that_no_file_can_have(tmp_path: Path, entry: str) -> None:
    """An included name that no file can have is an InputError with the line of its entry."""
    with pytest.raises(InputError, match=r"root\.yml:1:11 includes, can't be read"):
        read_config(write(tmp_path, "root.yml", f"include: [{entry}]\n"))


def test_a_permission_error_is_permission_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    """EACCES becomes PermissionDenied with sudo as the remedy."""

    def deny(path: Path, _flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.open", deny)
    with pytest.raises(PermissionDenied) as caught:
        read_config(Path("c.yml"))
    assert "sudo" in caught.value.hint


def test_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    """A file with Windows line ends and a byte order mark is the same configuration."""
    text = "model_list:\n  - model_name: a\n    litellm_params: {model: openai/x}\n"
    (tmp_path / "c.yml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read_config(tmp_path / "c.yml").models == parse_config(text, "c.yml").models


def test_check_raises_the_first_error_and_ignores_warnings() -> None:
    """`check` raises the first error with its position and remedy, and ignores warnings."""
    text = "colour: red\nmodel_list: [{model_name: a, litellm_params: {model: bedrok/x}}]\n"
    with pytest.raises(InputError) as caught:
        check(parse_config(text, "f.yml"), VALID)
    assert caught.value.message.startswith("f.yml:2:47: model_list[0].litellm_params.model names the provider bedrok")
    assert "bedrock/x" in caught.value.hint
    harmless = parse_config(text.replace("bedrok", "openai"), "f.yml")
    assert [each.severity for each in lint(harmless, VALID)] == [Severity.WARNING]
    check(harmless, VALID)


SECRET = "s3cr3t"  # used in every position that may hold a secret


def test_no_message_contains_a_secret() -> None:
    """Neither findings nor the repr of a configuration contain values of keys that may hold secrets."""
    config = parse_config(
        f"""\
model_list:
  - model_name: a
    litellm_params: {{model: nope/x, api_key: {SECRET}, aws_secret_access_key: {SECRET}, aws_secret: {SECRET}}}
general_settings: {{master_key: {SECRET}, database_url: {SECRET}, drop_params: {SECRET}}}
litellm_settings: {{master_key: {SECRET}}}
openapi: {SECRET}
colour: {SECRET}
""",
        "f.yml",
    )
    found = lint(config, {**VALID, "DATABASE_URL": SECRET})
    assert len(found) >= 8
    assert SECRET not in repr(found) + repr(config)


@pytest.mark.parametrize("text", [f"api_key: {SECRET}: {SECRET}", f"- '{SECRET}", f"key: [{SECRET}", f"\t{SECRET}"])
def test_no_yaml_error_contains_text_of_the_file(text: str) -> None:
    """A syntax error has the position but never the text at it, which may be a key."""
    with pytest.raises(InputError) as caught:
        parse_config(text, "f.yml")
    assert SECRET not in caught.value.message + caught.value.hint


def outcome(text: str) -> str:
    """The source of a linted configuration, or the one that its error names."""
    try:
        config = parse_config(text, "f.yml")
        lint(config, VALID)
    except InstallerError as error:
        return error.message
    return config.source


@settings(deadline=None)  # a busy machine is no failure
@given(st.text())
def test_any_text_is_a_configuration_or_one_clear_error(text: str) -> None:
    """Any text is either a configuration or one error of the reader that names the file."""
    assert "f.yml" in outcome(text)


@settings(deadline=None)  # a busy machine is no failure
@given(st.sampled_from([*SHIPPED, *SHARED]), st.integers(0, 2**32), st.integers(1, 60), st.text(max_size=4))
def test_a_damaged_file_is_read_or_refused_and_never_crashes(path: Path, seed: int, length: int, into: str) -> None:
    """A shipped configuration with a part removed or replaced is linted or rejected by the reader's own error."""
    text = path.read_text()
    start = random.Random(seed).randrange(len(text))
    assert "f.yml" in outcome(text[:start] + into + text[start + length :])


#: libyaml is ten times faster; some builds of PyYAML come without it.
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

ODD_VALUES: tuple[Any, ...] = (
    None,
    1,
    True,
    "x",
    "os.environ/X",
    [],
    [1],
    [[]],
    [{"a": 1}],
    {},
    {"a": {"b": [1]}},
    {1: None},
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a document with each of its keys."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@pytest.mark.slow
@pytest.mark.parametrize("case", lint_cases())
def test_a_value_of_another_type_never_crashes_lint(case: dict[str, Any]) -> None:
    """With any value replaced by one of another type, a configuration is linted or rejected by the reader's error."""
    document = yaml.safe_load(case["config"])
    for turn, (container, key) in enumerate(places(document)):
        kept = container[key]
        # All of them in all places take a minute.
        for odd in ODD_VALUES[turn % 3 :: 3]:
            container[key] = odd
            assert "f.yml" in outcome(yaml.dump(document, Dumper=DUMPER))
        container[key] = kept


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_key_is_found_on_its_line(path: Path) -> None:
    """`place` gives, for each key of a shipped configuration, the file, line and column where that key stands."""
    config = read_config(path)
    keys = [key for key in config.marks if isinstance(key[-1], str)]
    assert len(keys) > 15
    for key in keys:
        place = config.place(key)
        assert place.file is not None
        assert place.line is not None
        assert place.column is not None
        line = Path(place.file).read_text().splitlines()[place.line - 1]
        assert line[place.column - 1 :].startswith(f"{key[-1]}:")


@pytest.mark.parametrize("levels", [16, 40])
def test_an_alias_bomb_is_refused_at_once(levels: int) -> None:
    """Nested YAML aliases, which double at each level, are refused before anything walks what they stand for."""
    lines = (f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, levels))
    bomb = MODEL + "a0: &a0 {x: [" + "1, " * 50 + "]}\n" + "".join(lines)
    with pytest.raises(ConfigError, match=r"f\.yml:\d+:\d+: .*has more than 1,000,000 values"):
        parse_config(bomb, "f.yml")


@pytest.mark.parametrize("value", ["&a [*a]", "&a {b: {c: *a}}"])
def test_an_anchor_inside_itself_is_refused(value: str) -> None:
    """A value that contains itself is refused with its line, and not walked forever."""
    with pytest.raises(ConfigError, match=r"f\.yml:3:6: top contains itself"):
        parse_config(f"{MODEL}top: {value}\n", "f.yml")


@pytest.mark.parametrize("levels", [200, 900, 20_000])
def test_values_nested_too_deeply_are_refused(levels: int) -> None:
    """Deep nesting is refused with its line at any depth, not by a traceback of the code that walks it."""
    with pytest.raises(ConfigError, match=r"f\.yml:3:\d+: top is nested more than 100 levels deep"):
        parse_config(f"{MODEL}top: {'[' * levels}{']' * levels}\n", "f.yml")


def shipped(name: str) -> GatewayConfig:
    return read_config(next(path for path in SHIPPED if path.name == name))


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_access_key_config_requires_both_halves(missing: str) -> None:
    """Without one half of the access key, access_key_config.yml is rejected, and the message names that half."""
    environ = {**VALID, **KEYS}
    del environ[missing]
    with pytest.raises(InputError, match=f"x-identity is access-key, and {missing} is not set"):
        check(shipped("access_key_config.yml"), environ)


@pytest.mark.parametrize("name", ["iam_role_config.yml", "prompt_caching.yml", "access_key_config.yml"])
def test_bedrock_configurations_require_a_region(name: str) -> None:
    """No configuration for Bedrock passes without a region, because LiteLLM would call us-west-2."""
    environ = {"LITELLM_MASTER_KEY": "sk-good", **(KEYS if name == "access_key_config.yml" else {})}
    with pytest.raises(InputError, match="no region is set"):
        check(shipped(name), environ)


def test_demo_needs_only_a_master_key() -> None:
    """demo.yml has only mocked models and passes without a region and AWS keys."""
    config = shipped("demo.yml")
    assert all(model.mocked for model in config.models)
    assert lint(config, {"LITELLM_MASTER_KEY": "sk-good"}) == ()


def test_iam_role_config_names_no_key() -> None:
    """The default configuration refers only to the master key: credentials come from the instance."""
    config = shipped("iam_role_config.yml")
    assert [variable for _, variable in config.references] == ["LITELLM_MASTER_KEY"]
    assert not [key for model in config.models for key in config.params(model) if key.startswith("aws_")]


WORKSHOP = (
    "bedrock-converse-us-claude-3-7-sonnet-v1",
    "bedrock-us-claude-3-5-sonnet-v2",
    "bedrock-apac-claude-3-5-sonnet-v2",
    "bedrock-claude-3-5-sonnet-v1",
)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_names_of_the_workshop_are_served_with_a_fallback(path: Path) -> None:
    """Each shipped file serves each name that the workshop's clients request, with fallbacks of its own."""
    config = read_config(path)
    assert set(WORKSHOP) <= set(config.names)
    assert set(WORKSHOP) <= {each.model for each in config.fallbacks}
