"""litellmctl client: the settings of each client, printed and written."""

from __future__ import annotations

import json
import os
import shlex
import stat
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
import trustme

from litellm_systemd.cli import run_command
from litellm_systemd.client_setup.__main__ import SAMPLE, replace_clients
from litellm_systemd.client_setup.merge import parse
from litellm_systemd.client_setup.table import CLIENTS, Client, Gateway, SettingsFile, new_text
from litellm_systemd.commands.client import build_models, client
from litellm_systemd.commands.config_files import shipped_config
from litellm_systemd.commands.resolve import Request
from litellm_systemd.gateway.config import parse_config
from litellm_systemd.host.files import write_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import FileState
from tests.certificates import issue_pair, write_pair

PAGE = Path(__file__).parents[2] / "docs" / "ec2.md"
KEY = "sk-canary-7Qe2"
FILES = [pytest.param(client, file, id=file.paths[-1]) for client in CLIENTS for file in client.files]
CODE = [pytest.param(client, id=client.name) for client in CLIENTS if client.code]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of the invoking user; the current folder has a `.env` with the key."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SUDO_USER", raising=False)
    (tmp_path / "home").mkdir()
    (tmp_path / ".env").write_text(f"LITELLM_MASTER_KEY={KEY}\nPORT=4321\n", encoding="utf-8")
    return tmp_path / "home"


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert run_command(["client", *arguments, "-e", ".env"]) == code
    out, err = capsys.readouterr()
    return out, err


@pytest.mark.parametrize(("client", "file"), FILES)
def test_a_file_is_valid(client: Client, file: SettingsFile) -> None:
    """Each file is valid in its format, whatever characters the key has, and contains the key only if it says so."""
    for key in (KEY, "sk-'\"\\\\$x#: é"):
        settings = parse(new_text(file, Gateway(SAMPLE.base_url, SAMPLE.models, key)), file.form, client.name)
        assert (json.dumps(key) in json.dumps(settings)) is file.has_key


@pytest.mark.parametrize("client", CODE)
def test_code_is_valid(client: Client) -> None:
    """Code for Python compiles, and a command for the shell has the key in one argument, whatever the key is."""
    key = "sk-'\"$x y"
    code = Gateway(SAMPLE.base_url, SAMPLE.models, key).fill(client.code)
    if client.language == "python":
        compile(code, client.name, "exec")
    elif client.language == "sh":
        assert f"Authorization: Bearer {key}" in shlex.split(code)
    assert SAMPLE.base_url in code


def test_the_documentation_is_generated() -> None:
    """The client section of docs/ec2.md is the output of `python -m litellm_systemd.client_setup docs/ec2.md`."""
    text = PAGE.read_text(encoding="utf-8")
    assert replace_clients(text) == text


def test_the_documentation_has_the_shipped_models() -> None:
    """The models in the documentation are those of the default configuration, with their limits and prices."""
    assert build_models(shipped_config("iam_role_config.yml")) == SAMPLE.models


def test_models_of_a_configuration() -> None:
    """A model is listed once, with the limits that the configuration sets; wildcards and embeddings are left out."""
    config = parse_config(
        """
model_list:
- {model_name: "*", litellm_params: {model: "bedrock/*"}}
- {model_name: own, litellm_params: {model: openai/own}, model_info: {max_input_tokens: 5000}}
- {model_name: embed, litellm_params: {model: bedrock/amazon.titan-embed-text-v2:0}}
- {model_name: haiku, litellm_params: {model: bedrock/us.anthropic.claude-haiku-4-5-20251001-v1:0}}
- {model_name: own, litellm_params: {model: openai/second}}
""",
        "f.yml",
    )
    models = build_models(config)
    assert [each.name for each in models] == ["own", "haiku"]
    assert (models[0].context, models[0].input_cost) == (5000, None)
    assert models[1].context == 200_000
    assert Gateway("http://h", models).small.name == "haiku"
    free = tuple(replace(each, input_cost=0.0, output_cost=0.0) for each in models)
    assert Gateway("http://h", free).small.name == "haiku"
    assert Gateway("http://h", models[:1]).small.name == "own"


def test_a_model_without_limits() -> None:
    """A client gets no made-up limit or price of an unknown model."""
    gateway = Gateway("http://h", tuple(replace(each, context=None, input_cost=None) for each in SAMPLE.models))
    texts = {each.name: "".join(new_text(file, gateway) for file in each.files) for each in CLIENTS}
    assert '"limit"' not in texts["opencode"]
    assert '"cost"' not in texts["opencode"]
    assert "max_input_tokens" not in texts["aider"]
    assert "null" not in "".join(texts.values())


def test_the_list(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a name, the clients are listed, with the files that --write writes."""
    out, _ = run(capsys)
    assert [line.split()[0] for line in out.splitlines()[1 : len(CLIENTS) + 1]] == [each.name for each in CLIENTS]
    assert "~/.claude/settings.json" in out
    report = json.loads(run(capsys, "--json")[0])
    assert [each["name"] for each in report["data"]["clients"]] == [each.name for each in CLIENTS]


@pytest.mark.parametrize("name", [each.name for each in CLIENTS])
def test_print(home: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """The settings have the URL and the models of the gateway; the key is there only with --show-key."""
    out, _ = run(capsys, name)
    assert "http://127.0.0.1:4321" in out
    assert KEY not in out
    assert "claude-sonnet-5-5" in out
    shown, _ = run(capsys, name, "--show-key", "--json")
    data = json.loads(shown)["data"]
    assert (data["base_url"], data["small_model"]) == ("http://127.0.0.1:4321", "claude-haiku-5-5")
    # Zed reads no key from a file.
    assert (KEY in shown) is (name != "zed")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("name", [each.name for each in CLIENTS if each.files])
def test_write(home: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """--write creates the files, private where they have the key, and prints no key; a second run changes nothing."""
    out, _ = run(capsys, name, "--write")
    assert KEY not in out
    client = next(each for each in CLIENTS if each.name == name)
    for file in client.files:
        path = home / file.paths[-1]
        assert (KEY in path.read_text(encoding="utf-8")) is file.has_key
        assert stat.S_IMODE(path.stat().st_mode) & (0o077 if file.has_key else 0o022) == 0
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    assert run(capsys, name, "--write")[0].splitlines()[-1] == "nothing to do"
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_merge_with_a_backup(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--write keeps the user's other settings, makes a private backup and prints the difference without the key."""
    path = home / ".claude/settings.json"
    path.parent.mkdir()
    mine = '{\n  "theme": "dark",\n  "permissions": {"allow": ["Bash(ls)"]}\n}\n'
    path.write_text(mine, encoding="utf-8")
    path.chmod(0o644)
    out, _ = run(capsys, "claude-code", "--write")
    settings = json.loads(path.read_text(encoding="utf-8"))
    assert settings["theme"] == "dark"
    assert settings["permissions"] == {"allow": ["Bash(ls)"], "deny": ["WebSearch"]}
    assert settings["env"]["ANTHROPIC_AUTH_TOKEN"] == KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (backup,) = path.parent.glob("settings.json.*.bak")
    assert backup.read_text(encoding="utf-8") == mine
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert str(backup) in out
    assert '+    "ANTHROPIC_BASE_URL": "http://127.0.0.1:4321"' in out
    assert KEY not in out


def test_a_readable_file_with_the_key(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that has the settings already, but that others can read, becomes private."""
    run(capsys, "claude-code", "--write")
    path = home / ".claude/settings.json"
    path.chmod(0o644)
    run(capsys, "claude-code", "--write")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_refused_files_change_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If one of the files cannot be read, the error has its line and no file is written."""
    broken = home / ".aider.model.settings.yml"
    broken.write_text("- name: x\n\tbad: 1\n", encoding="utf-8")
    _, err = run(capsys, "aider", "--write", code=78)
    assert f"{broken}:2: not YAML" in err
    assert list(home.iterdir()) == [broken]


def test_opencode_with_comments(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An existing opencode.jsonc, which takes precedence in opencode, is used in place of opencode.json."""
    path = home / ".config/opencode/opencode.jsonc"
    path.parent.mkdir(parents=True)
    path.write_text('{\n  // mine\n  "theme": "system",\n}\n', encoding="utf-8")
    run(capsys, "opencode", "--write")
    assert "// mine" in path.read_text(encoding="utf-8")
    assert "litellm/claude-sonnet-5-5" in path.read_text(encoding="utf-8")
    assert not path.with_suffix(".json").exists()


def test_a_user_without_an_entry(home: Path) -> None:
    """A file can be written for a user whom the user database does not have, as in a container."""
    path = home / "f"
    write_file(Layout(), FileState(str(path), b"x", 0o600, str(os.geteuid()), str(os.getegid())))
    assert path.read_bytes() == b"x"


def test_links(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A link inside the home stays, and its target is written; a link out of the home is refused."""
    (home / "dotfiles").mkdir()
    (home / ".claude").symlink_to("dotfiles")
    run(capsys, "claude-code", "--write")
    assert (home / ".claude").is_symlink()
    assert KEY in (home / "dotfiles/settings.json").read_text(encoding="utf-8")
    outside = home.parent / "outside"
    outside.mkdir()
    (home / ".codex").symlink_to(outside)
    _, err = run(capsys, "codex", "--write", code=73)
    assert "out of the home" in err
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("claude-cod",), 64, "Did you mean claude-code?"),
        (("curl", "--write"), 64, "curl has no file of settings to write"),
        (("--write",), 64, "no client is named"),
        (("codex", "--write", "--show-key"), 64, "exclude each other"),
        (("codex", "-c", "nothing"), 64, "nothing"),
    ],
)
def test_usage(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    """A wrong command line gets one error and its remedy."""
    assert message in run(capsys, *arguments, code=code)[1]


def test_a_project_folder(home: Path, tmp_path: Path) -> None:
    """The settings are those of the installed service, not of a `.env` in the current folder; -e names another."""
    layout = Layout(tmp_path / "root")
    for path, text in (
        (layout.service, ""),
        (layout.environment_file, 'LITELLM_MASTER_KEY="sk-installed-1"\nPORT="4555"\n'),
    ):
        layout.real(path).parent.mkdir(parents=True)
        layout.real(path).write_text(text, encoding="utf-8")
    request = Request(layout, cwd=tmp_path)
    now = datetime.now(timezone.utc)
    report = client(request, "codex", environ={}, now=now, show_key=True)
    assert report.data["base_url"] == "http://127.0.0.1:4555"
    assert "sk-installed-1" in report.as_json()
    report = client(replace(request, env_file=tmp_path / ".env"), "codex", environ={}, now=now, show_key=True)
    assert report.data["base_url"] == "http://127.0.0.1:4321"


def test_a_key_in_the_configuration(home: Path, tmp_path: Path) -> None:
    """A master key that is written into the configuration is the one that the gateway accepts, and is printed."""
    own = tmp_path / "own.yml"
    model = "model_list: [{model_name: claude-sonnet-5-5, litellm_params: {model: openai/x, mock_response: hi}}]"
    for written, shown in (("sk-written-1", "sk-written-1"), ("os.environ/LITELLM_MASTER_KEY", KEY)):
        own.write_text(f"{model}\ngeneral_settings: {{master_key: {written}}}\n", encoding="utf-8")
        request = Request(Layout(tmp_path / "root"), cwd=tmp_path, config="./own.yml", env_file=tmp_path / ".env")
        report = client(request, "codex", environ={}, now=datetime.now(timezone.utc), show_key=True)
        assert (shown in report.as_json(), KEY in report.as_json()) == (True, shown == KEY)


def test_the_url(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The user learns that the URL is for this host only, or that no environment names one."""
    assert "On another machine" not in run(capsys, "curl")[0]
    Path(".env").write_text("HOST=0.0.0.0\n", encoding="utf-8")
    out, _ = run(capsys, "curl")
    assert "http://127.0.0.1:4000/v1" in out
    assert "On another machine" in out
    nothing = Request(Layout(home / "root"), config="demo.yml", cwd=home)
    notes = client(nothing, "curl", environ={}, now=datetime.now(timezone.utc)).notes
    assert any(note.startswith("The URL is the default one: there is no .env here") for note in notes)


def test_the_url_with_https(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With HTTPS, the URL has a name of the certificate; a note says if there is none, or if it is self-signed."""
    authority = trustme.CA()
    files = write_pair(tmp_path, issue_pair(authority, "*.example", "gateway.example"))
    Path(".env").write_text(f"TLS_CERT_FILE={files.certificate}\nTLS_KEY_FILE={files.key}\n", encoding="utf-8")
    out, _ = run(capsys, "curl")
    assert "https://gateway.example:4000/v1" in out
    assert "self-signed" not in out
    write_pair(tmp_path, issue_pair(authority, "gateway.example", "127.0.0.1"))
    assert "https://127.0.0.1:4000/v1" in run(capsys, "curl")[0]
    write_pair(tmp_path, issue_pair(authority, "*.example.com"))
    assert "valid for *.example.com only: use such a name in the URL" in run(capsys, "curl")[0]
    write_pair(tmp_path, issue_pair(authority))
    assert "no subjectAltName: clients refuse it" in run(capsys, "curl")[0]
    files.certificate.write_bytes(authority.cert_pem.bytes())
    assert f"NODE_EXTRA_CA_CERTS={files.certificate}" in run(capsys, "curl")[0]
    files.certificate.unlink()
    assert "which is not known: TLS_CERT_FILE=" in run(capsys, "curl")[0]


def test_an_unknown_key(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the install has generated the key, the settings are printed, and --write refuses to invent one."""
    Path(".env").write_text("PORT=4321\n", encoding="utf-8")
    assert "sk-..." in run(capsys, "codex")[0]
    for option in ("--write", "--show-key"):
        assert "LITELLM_MASTER_KEY" in run(capsys, "codex", option, code=66)[1]
    assert list(home.iterdir()) == []


def test_a_command_in_a_note_can_be_copied(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A command with quotation marks of its own is printed as it is to be typed."""
    assert (
        "models: curl http://127.0.0.1:4321/v1/models -H 'Authorization: Bearer sk-...'\n" in run(capsys, "curl")[0]
    )
    assert "To update, run: 'claude update'\n" in run(capsys, "claude-code")[0]
