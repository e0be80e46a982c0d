"""The files that a configuration consists of, on a host and in the folder of a user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from litellm_systemd.commands.config_files import edited_note, installed_paths, read_gateway, standalone
from litellm_systemd.commands.resolve import Request, resolve
from litellm_systemd.commands.service_config import ServiceConfig, resolve_service
from litellm_systemd.errors import InputError, MissingError
from litellm_systemd.gateway.config import read_config as read_config_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.instances.throwaway import write_configuration
from litellm_systemd.resources import USER_FILE, config_names, read_config, shared_names

THREE = ("iam_role_config.yml", "access_key_config.yml", "prompt_caching.yml")
KEYS = (
    "AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE\nAWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n"
    "AWS_REGION_NAME=eu-west-1\n"
)
OWN = "model_list:\n  - {model_name: own, litellm_params: {model: openai/own, mock_response: hi}}\n"


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def wanted(folder: Path, config: str, env: str = "AWS_REGION_NAME=eu-west-1\n") -> ServiceConfig:
    """The result of an install with this `.env`, below `root` in the folder."""
    put(folder / ".env", env)
    return resolve_service(Request(Layout(root=folder / "root"), config=config, cwd=folder))


def installed(folder: Path, name: str) -> Path:
    return folder / "root/etc/litellm/configs" / name


@pytest.mark.parametrize("name", THREE)
def test_a_model_is_added_in_one_place(tmp_path: Path, name: str) -> None:
    """A model in the user's own file is served by all three ways to Bedrock, after the shipped ones."""
    put(installed(tmp_path, USER_FILE), OWN)
    found = wanted(tmp_path, name, KEYS if name.startswith("access") else "AWS_REGION_NAME=eu-west-1\n")
    assert [model.name for model in found.gateway.models][-2:] == ["claude-haiku-5-5", "own"]
    assert found.loads == (name, "shared/models.yml", "shared/routing.yml", USER_FILE)
    request = Request(Layout(root=tmp_path / "root"), config=name, cwd=tmp_path)
    assert read_gateway(request.layout, resolve(request).config).names == found.gateway.names


def test_all_shipped_files_are_installed(tmp_path: Path) -> None:
    """An install writes every shipped configuration and all files that these include, for the region of the host."""
    found = wanted(tmp_path, "demo.yml")
    assert set(found.configs) == {*config_names(), *shared_names()}
    assert b"bedrock/eu.anthropic.claude-sonnet-5-5" in found.configs["shared/models.yml"]
    assert found.loads == ("demo.yml", "shared/routing.yml")


def test_a_finding_names_the_included_file(tmp_path: Path) -> None:
    """A mistake in the user's own file stops an install with that file and line."""
    text = OWN.replace("openai/own", "nope/own").replace(", mock_response: hi", "")
    path = put(installed(tmp_path, USER_FILE), text)
    with pytest.raises(InputError, match=rf"^{path}:2:\d+: .* the provider nope"):
        wanted(tmp_path, "iam_role_config.yml")


def test_a_finding_names_no_file_that_is_not_there_yet(tmp_path: Path) -> None:
    """Before the first install, a finding names a shipped file by its name, since no path on the host exists yet."""
    with pytest.raises(InputError, match=r"^shared/models\.yml:\d+:\d+: .*no region is set"):
        wanted(tmp_path, "iam_role_config.yml", "AWS_EC2_METADATA_DISABLED=true\n")


def test_included_files_are_installed(tmp_path: Path) -> None:
    """`-c FILE` installs the file with the files that it includes, at the same relative paths below
    /etc/litellm/configs.
    """
    main = put(tmp_path / "mine/my.yml", "include: [team/models.yml, more.yml]\ngeneral_settings: {}\n")
    team = put(tmp_path / "mine/team/models.yml", f"include: [deep.yml]\n{OWN}")
    deep = put(tmp_path / "mine/team/deep.yml", OWN.replace("own", "deep"))
    more = put(tmp_path / "mine/more.yml", "")
    found = wanted(tmp_path, "./mine/my.yml")
    taken = {"my.yml": main, "team/models.yml": team, "more.yml": more, "team/deep.yml": deep}
    assert {name: found.configs[name] for name in taken} == {name: path.read_bytes() for name, path in taken.items()}
    assert found.loads == tuple(taken)
    assert found.gateway.names == ("own", "deep")
    assert standalone(found.choice.name, found.own, found.gateway) == tmp_path / "mine/my.yml"


def test_a_given_file_may_include_installed_files(tmp_path: Path) -> None:
    """A user's file may include shipped models: a file that is not next to it is read from the installed ones."""
    put(installed(tmp_path, USER_FILE), OWN)
    put(tmp_path / "my.yml", f"include: [shared/models.yml, {USER_FILE}]\n")
    found = wanted(tmp_path, "./my.yml")
    assert found.gateway.names == ("claude-sonnet-5-5", "claude-sonnet-4-6", "claude-haiku-5-5", "own")
    texts = standalone(found.choice.name, found.own, found.gateway)
    assert not isinstance(texts, Path)
    assert list(texts) == ["my.yml"]
    assert b"include" not in texts["my.yml"]
    assert b"model_name: own" in texts["my.yml"]


@pytest.mark.parametrize("entry", ["../other.yml", "/srv/other.yml", "../../other.yml"])
def test_a_file_of_another_folder_is_refused(tmp_path: Path, entry: str) -> None:
    """A path that an install would move or lose is refused with its name."""
    put(tmp_path / "other.yml", OWN)
    put(tmp_path / "mine/my.yml", f"include: [{entry}]\n{OWN}")
    with pytest.raises(InputError, match=r"my\.yml includes other\.yml from another folder"):
        wanted(tmp_path, "./mine/my.yml")


def test_a_missing_file_is_named_with_the_line(tmp_path: Path) -> None:
    """A missing file is an error with the line that includes it."""
    put(tmp_path / "my.yml", f"include:\n  - gone.yml\n{OWN}")
    with pytest.raises(MissingError) as caught:
        wanted(tmp_path, "./my.yml")
    assert caught.value.message == f"{tmp_path}/my.yml:2:5 includes gone.yml, which doesn't exist"
    assert caught.value.hint.startswith("Create gone.yml next to my.yml")


def test_a_given_file_cannot_replace_a_shipped_one(tmp_path: Path) -> None:
    """A file with the name of a shipped one and another text is refused, because an upgrade would rewrite it."""
    put(tmp_path / "my.yml", "include: [shared/models.yml]\n")
    put(tmp_path / "shared/models.yml", OWN)
    with pytest.raises(InputError, match=r"isn't /etc/litellm/configs/shared/models\.yml, whose name it has"):
        wanted(tmp_path, "./my.yml")
    put(tmp_path / "shared/models.yml", read_config("shared/models.yml"))
    assert b"eu.anthropic" in wanted(tmp_path, "./my.yml").configs["shared/models.yml"]


def test_users_models_are_copied_once(tmp_path: Path) -> None:
    """A copy of the user's own models is installed on a host that has none, and never replaces the models there."""
    put(tmp_path / "my.yml", f"include: [{USER_FILE}]\n")
    put(tmp_path / USER_FILE, OWN)
    assert wanted(tmp_path, "./my.yml").configs[USER_FILE] == OWN.encode()
    there = put(installed(tmp_path, USER_FILE), read_config(USER_FILE))
    assert wanted(tmp_path, "./my.yml").configs[USER_FILE] == OWN.encode()
    there.write_text(OWN.replace("own", "other"), encoding="utf-8")
    with pytest.raises(InputError, match=r"my_models\.yml isn't /etc/litellm/configs/shared/my_models\.yml"):
        wanted(tmp_path, "./my.yml")


def test_an_edited_included_file_is_kept(tmp_path: Path) -> None:
    """An included file that was edited on the host stays, and the configuration is checked with it."""
    put(tmp_path / "my.yml", f"include: [more.yml]\n{OWN}")
    put(tmp_path / "more.yml", OWN.replace("own", "given"))
    put(installed(tmp_path, "more.yml"), OWN.replace("own", "edited"))
    found = wanted(tmp_path, "./my.yml")
    assert found.gateway.names == ("own", "edited")
    assert b"given" in found.configs["more.yml"]


def test_an_edited_copy_of_an_earlier_version_is_reported() -> None:
    """A configuration that was edited before the user's models had a file of their own is reported, with
    the remedy.
    """
    note = edited_note(Layout(), "/etc/litellm/configs/iam_role_config.yml", OWN.encode())
    assert note is not None
    assert note.startswith("/etc/litellm/configs/iam_role_config.yml is an edited copy of an earlier version")
    assert "Move its own models (own) there" in note
    assert note.endswith("sudo litellmctl install --take-ours")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "iam_role_config.yml",
            read_config("iam_role_config.yml").replace("request_timeout: 600", "request_timeout: 9"),
        ),
        ("iam_role_config.yml", "model_list: ["),
        ("demo.yml", OWN),
        ("my.yml", OWN),
    ],
    ids=["includes own models", "broken", "the demo", "the user's own"],
)
def test_other_edits_are_not_reported(name: str, text: str) -> None:
    """An edit that includes the user's own file, or of a file that never did, is not reported."""
    assert edited_note(Layout(), f"/etc/litellm/configs/{name}", text.encode()) is None


def test_a_replaced_edited_copy_is_not_checked(tmp_path: Path) -> None:
    """An install checks an edited configuration; if it is replaced, the shipped one with the user's models is
    checked.
    """
    path = put(installed(tmp_path, "iam_role_config.yml"), OWN.replace("own", "old"))
    put(installed(tmp_path, USER_FILE), OWN)
    assert wanted(tmp_path, "iam_role_config.yml").gateway.names == ("old",)
    layout = Layout(root=tmp_path / "root")
    request = Request(layout, config="iam_role_config.yml", cwd=tmp_path, take=installed_paths(layout))
    found = resolve_service(request)
    assert found.own is None
    assert "old" not in found.gateway.names
    assert "own" in found.gateway.names
    assert path.read_text() == OWN.replace("own", "old")


def test_an_included_pipe_is_refused_before_an_install(tmp_path: Path) -> None:
    """A pipe next to the user's file is refused by what it is, not reported as missing in /etc."""
    put(tmp_path / "mine.yml", f"include: [more.yml]\n{OWN}")
    os.mkfifo(tmp_path / "more.yml")
    with pytest.raises(InputError, match=rf"{tmp_path}/more\.yml can't be read: is not a regular file"):
        wanted(tmp_path, "./mine.yml")


HOOKED = f"{OWN}litellm_settings: {{callbacks: [my_hooks.handler, hooks.audit.log, packed.made]}}\n"
#: What HOOKED names, with what that imports; and a file that it does not import.
HOOKS = {
    "my_hooks.py": "import json\nfrom helpers import say\nhandler = say\n",
    "packed/__init__.py": "from packed.inner import made\n",
    "packed/inner.py": "made = 1\n",
    "hooks/audit.py": "from . import store\nfrom .more.deep import x\ndef log(): ...\n",
    "helpers.py": "def say():\n    import later\n",
    "hooks/store.py": "",
    "hooks/more/deep.py": "x = 1\n",
    "later.py": "",
    "json.py": "raise SystemExit\n",
    "other.py": "",
}


def put_hooks(folder: Path) -> dict[str, bytes]:
    """Write `HOOKED` as my.yml with its files; the texts that an install is to take along."""
    put(folder / "my.yml", HOOKED)
    for name, text in HOOKS.items():
        put(folder / name, text)
    return {name: text.encode() for name, text in HOOKS.items() if name not in ("json.py", "other.py")}


def test_python_files_are_installed(tmp_path: Path) -> None:
    """`-c FILE` installs the Python files that it names and those that they import, and no other file."""
    files = put_hooks(tmp_path / "mine")
    found = wanted(tmp_path, "./mine/my.yml")
    assert {name: text for name, text in found.configs.items() if name.endswith(".py")} == files
    assert set(found.loads) == {"my.yml", *files}


def test_python_files_are_read_where_the_service_finds_them(tmp_path: Path) -> None:
    """An installed configuration finds its Python files next to it and to the link; an edit changes its digest."""
    put_hooks(tmp_path / "etc/litellm/configs")
    (tmp_path / "etc/litellm/configs/later.py").rename(tmp_path / "etc/litellm/later.py")
    path = tmp_path / "etc/litellm/configs/my.yml"
    before = read_config_file(path)
    assert len(before.python_files) == 8
    put(tmp_path / "etc/litellm/later.py", "x = 1\n")
    assert read_config_file(path).digest != before.digest
    copy = put(tmp_path / "etc/litellm/config.yaml", HOOKED)
    assert len(read_config_file(copy).python_files) == 8


def test_an_edited_python_file_is_kept(tmp_path: Path) -> None:
    """A Python file that was edited on the host stays, and is the one that is checked."""
    put_hooks(tmp_path / "mine")
    for text, lacks in (("edited = 1\n", "does not define handler"), ("", "does not define handler: it has no code")):
        put(installed(tmp_path, "my_hooks.py"), text)
        with pytest.raises(InputError, match=rf"is my_hooks\.handler, but my_hooks\.py {lacks}"):
            wanted(tmp_path, "./mine/my.yml")


def test_a_missing_python_file_stops_an_install(tmp_path: Path) -> None:
    """A Python file that is nowhere is refused once, with its first key, before anything is changed."""
    put(tmp_path / "my.yml", f"{OWN}litellm_settings: {{callbacks: [my_hooks.a], success_callback: [my_hooks.b]}}\n")
    with pytest.raises(InputError) as caught:
        wanted(tmp_path, "./my.yml")
    assert "callbacks[0] names my_hooks (2 keys do), but there is no my_hooks.py next to my.yml" in str(caught.value)


def test_a_python_file_with_a_missing_package(tmp_path: Path) -> None:
    """A package that the release lacks is a note with its line, unless it may be optional."""
    code = "try:\n    import may_be\nexcept ImportError:\n    pass\nimport yaml, json, near, lacking.part\nx = 1\n"
    put(tmp_path / "near.py", "def f():\n    import later\n")
    put(tmp_path / "hook.py", code)
    put(tmp_path / "my.yml", f"{OWN}litellm_settings: {{callbacks: [hook.x]}}\n")
    notes = [note for note in wanted(tmp_path, "./my.yml").notes if "imports" in note]
    assert [note.partition(",")[0] for note in notes] == [f"{tmp_path}/hook.py:5:1: this imports lacking"]
    assert "Put lacking.py next to my.yml." in notes[0]  # most likely a helper of the user, and no package
    assert notes[0].endswith("sudo litellmctl install --with lacking")


def test_a_merged_copy_has_its_python_files(tmp_path: Path) -> None:
    """A configuration that includes an installed file runs elsewhere too, with its Python files next to it."""
    files = put_hooks(tmp_path)
    put(tmp_path / "my.yml", f"include: [shared/models.yml]\n{HOOKED}")
    found = wanted(tmp_path, "./my.yml")
    texts = standalone(found.choice.name, found.own, found.gateway)
    assert not isinstance(texts, Path)
    path = write_configuration(tmp_path / "copy", texts)
    assert {str(each.path.relative_to(path.parent)) for each in read_config_file(path).python_files} == set(files)
