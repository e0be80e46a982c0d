"""litellmctl config check: the file, its environment, and the format of the findings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from litellm_systemd.cli import run_command
from litellm_systemd.commands.config_check import check_config
from litellm_systemd.commands.configs import list_configs
from litellm_systemd.commands.resolve import Request
from litellm_systemd.contract import ExitCode
from litellm_systemd.errors import MissingError, PermissionDenied, join_sentences
from litellm_systemd.host.layout import Layout
from litellm_systemd.report.report import Report

BAD = """\
model_list:
  - model_name: a
    litellm_params:
      model: bedrok/x
      api_key: os.environ/KEY
colour: red
"""
ENVIRONMENT = "LITELLM_MASTER_KEY=sk-0123456789abcdef0123456789abcdef\nAWS_REGION_NAME=eu-central-1\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a bad configuration in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(BAD)
    (tmp_path / "env").write_text(ENVIRONMENT)
    return tmp_path


def host(folder: Path, environment: str = "", active: str = "") -> Layout:
    """A host below `folder`, with the given installed environment and active configuration."""
    layout = Layout(root=folder / "host")
    layout.real(layout.configs).mkdir(parents=True)
    if environment:
        layout.real(layout.environment_file).write_text(environment)
    if active:
        layout.real(layout.config("mine.yml")).write_text(active)
        layout.real(layout.config_link).symlink_to(layout.config("mine.yml"))
    return layout


def codes(report: Report) -> list[str]:
    return [finding["code"] for finding in report.data["findings"]]


def test_each_finding_has_a_position_for_editors(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finding is one line with file, line, column, severity, message and code, the remedy below; the exit code is
    78.
    """
    assert run_command(["config", "check", "-e", "env", "./bad.yaml"]) == 78
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        f"{here / 'bad.yaml'}:5:7: error: model_list[0].litellm_params.api_key refers to KEY, which is not set"
        " [unset-variable]"
    )
    assert lines[1] == "    Set KEY in .env, or remove the key."
    assert lines[2].startswith(f"{here / 'bad.yaml'}:4:7: error: model_list[0].litellm_params.model names the")
    assert lines[4].startswith(f"{here / 'bad.yaml'}:6:1: warning: colour is not a LiteLLM setting")
    assert lines[4].endswith("[unknown-setting]")
    assert lines[-1] == f"{here / 'bad.yaml'}: 2 errors, 1 warning"


def test_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json each finding is an object with severity, code, file, line, column, key, message and remedy."""
    assert run_command(["config", "check", "-e", "env", "bad.yaml", "--json"]) == 78
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert printed["ok"] is False
    assert printed["data"]["findings"][0] == {
        "severity": "error",
        "code": "unset-variable",
        "file": str(here / "bad.yaml"),
        "line": 5,
        "column": 7,
        "key": "model_list[0].litellm_params.api_key",
        "message": "refers to KEY, which is not set",
        "remedy": "Set KEY in .env, or remove the key.",
    }


@pytest.mark.usefixtures("here")
def test_warnings_alone_are_no_failure() -> None:
    """A configuration with only warnings exits with 0."""
    Path("bad.yaml").write_text(BAD.replace("bedrok/x", "openai/x").replace("os.environ/KEY", "os.environ/PATH_"))
    Path("env").write_text(ENVIRONMENT + "PATH_=x\n")
    assert run_command(["config", "check", "-e", "env", "bad.yaml"]) == 0


@pytest.mark.usefixtures("here")
def test_invalid_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be parsed is reported in the same format, with the position."""
    Path("bad.yaml").write_text("model_list:\n  - a: b: c\n")
    assert run_command(["config", "check", "bad.yaml"]) == 78
    assert ":2:9: error: this isn't YAML" in capsys.readouterr().out


@pytest.mark.usefixtures("here")
def test_every_invalid_model_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """Each of several invalid entries is a finding of its own, so that one run is enough."""
    Path("bad.yaml").write_text("model_list:\n  - model_name: a\n  - {model_name: b, litellm_params: {}}\n  - c\n")
    assert run_command(["config", "check", "bad.yaml", "--json"]) == 78
    found = json.loads(capsys.readouterr().out)["data"]["findings"]
    assert [(each["code"], each["line"]) for each in found] == [("bad-model", 2), ("bad-model", 3), ("bad-model", 4)]


@pytest.mark.parametrize(("name", "code"), [("./gone.yaml", 66), ("gone.yaml", 64)])
@pytest.mark.usefixtures("here")
def test_a_missing_file(name: str, code: int) -> None:
    """A path without a file is a missing input, an unknown name is a usage error."""
    assert run_command(["config", "check", name]) == code


def test_without_an_environment_variables_are_not_checked(here: Path) -> None:
    """If no environment can be read, variables are not checked, and a note says so."""
    report = check_config(Request(host(here), config="./bad.yaml", cwd=here))
    assert codes(report) == ["unknown-provider", "unknown-setting"]
    assert report.data["environment"] is None
    assert "what depends on variables was not checked" in report.checks[-1].detail


def test_the_env_file_here_comes_before_the_installed_one(here: Path) -> None:
    """A .env in the current folder, which an install would use, precedes the installed environment."""
    layout = host(here, ENVIRONMENT)
    assert "unset-variable" in codes(check_config(Request(layout, config="./bad.yaml", cwd=here)))
    (here / ".env").write_text(ENVIRONMENT + "KEY=k\n")
    report = check_config(Request(layout, config="./bad.yaml", cwd=here))
    assert "unset-variable" not in codes(report)
    assert report.data["environment"] == str(here / ".env")


def test_the_active_configuration_is_the_default(here: Path) -> None:
    """With an installation, the active configuration is checked in its own environment."""
    report = check_config(Request(host(here, ENVIRONMENT, BAD), cwd=here))
    assert report.exit_code is ExitCode.CONFIG
    assert report.data["source"] == str(here / "host/etc/litellm/configs/mine.yml")
    assert codes(report) == ["unset-variable", "unknown-provider", "unknown-setting"]


def test_env_names_the_configuration(here: Path) -> None:
    """Before an install, CONFIG_FILE in .env selects the configuration."""
    (here / ".env").write_text("CONFIG_FILE=./bad.yaml\n")
    assert check_config(Request(host(here), cwd=here)).data["source"] == str(here / "bad.yaml")


def test_nothing_to_check(here: Path) -> None:
    """Without a configuration, a .env and an installation, the error asks for the name of a configuration."""
    with pytest.raises(MissingError, match=r"there is no \.env here, and nothing is installed") as caught:
        check_config(Request(host(here), cwd=here))
    assert "name a configuration: -c" in caught.value.hint


def test_a_shipped_configuration_is_checked_as_it_would_be_installed(here: Path) -> None:
    """For eu-central-1 a shipped configuration has only available profiles, because an install rewrites them."""
    report = check_config(Request(host(here), here / "env", "iam_role_config.yml", here))
    assert codes(report) == []
    assert report.exit_code is ExitCode.OK


def test_a_missing_region_is_a_warning(here: Path) -> None:
    """Before an install a missing region is a warning, because on EC2 the install queries the instance."""
    (here / "env").write_text("")
    report = check_config(Request(host(here), here / "env", "iam_role_config.yml", here))
    assert set(codes(report)) == {"no-region"}
    assert report.exit_code is ExitCode.OK


@contextmanager
def without_root() -> Iterator[None]:
    """Run the block as a user without privileges, because root can read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_without_root_a_plain_file_is_checked() -> None:
    """A user who may not read /etc/litellm gets the findings in a file of their own that do not depend on it. For an
    installed configuration they are asked to use sudo.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # pytest's own folders are root's alone
        (folder / "bad.yaml").write_text(BAD)
        layout = host(folder, ENVIRONMENT)
        layout.real(layout.environment_file).chmod(0 if os.geteuid() else 0o600)
        layout.real(layout.configs).parent.chmod(0 if os.geteuid() else 0o700)
        try:
            with without_root():
                report = check_config(Request(layout, config="./bad.yaml", cwd=folder))
                with pytest.raises(PermissionDenied) as refused:
                    check_config(Request(layout, config="demo.yml", cwd=folder))
                with pytest.raises(PermissionDenied):
                    list_configs(layout)
        finally:
            layout.real(layout.configs).parent.chmod(0o755)
    assert refused.value.hint.startswith("Run the command with sudo.")
    assert codes(report) == ["unknown-provider", "unknown-setting"]
    assert "can't be read by this user" in report.checks[-1].detail


@pytest.mark.usefixtures("here")
def test_a_check_imports_nothing_slow() -> None:
    """A check imports no LiteLLM, AWS, HTTP or table modules, so that it is fast."""
    heavy = {"litellm", "boto3", "botocore", "requests", "jinja2", "rich", "asyncio"}
    code = (
        "import sys; from litellm_systemd.cli import run_command; run_command(['config', 'check', 'bad.yaml']);"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_models_near_their_end_of_life(here: Path) -> None:
    """A model past its end of life is an error with its line; an active one, or one that ends soon, is a warning."""
    ended = "bedrock/eu.anthropic.claude-3-7-sonnet-20250219-v1:0"
    text = f"model_list:\n  - model_name: a\n    litellm_params:\n      model: {ended}\n"
    (here / "ended.yaml").write_text(text)
    request = Request(host(here, active=text), here / "env", "./ended.yaml", here, today=date(2026, 11, 24))
    found = [(each["code"], each["severity"], each["line"]) for each in check_config(request).data["findings"]]
    assert ("model-ended", "warning", 4) in found
    elsewhere = replace(request, layout=Layout(root=here / "bare"))
    report = check_config(elsewhere)
    found = [(each["code"], each["severity"], each["line"]) for each in report.data["findings"]]
    assert ("model-ended", "error", 4) in found
    assert report.exit_code is ExitCode.CONFIG
    early = check_config(replace(elsewhere, today=date(2026, 3, 1)))
    assert "model-ends" in codes(early)
    assert "model-ended" not in codes(check_config(replace(elsewhere, today=date(2025, 3, 1))))


WARNING = """\
model_list:
  - {model_name: a, litellm_params: {model: openai/x, mock_response: hi}}
colour: red
"""


@pytest.mark.usefixtures("here")
def test_strict_makes_warnings_fail() -> None:
    """With --strict a warning alone exits with 1, an error still with 78, and a valid configuration with 0."""
    Path("warning.yaml").write_text(WARNING)
    Path("valid.yaml").write_text(WARNING.replace("colour", "x-colour"))
    arguments = ["config", "check", "-e", "env", "--strict"]
    assert run_command([*arguments, "warning.yaml"]) == 1
    assert run_command([*arguments, "bad.yaml"]) == 78
    assert run_command([*arguments, "valid.yaml"]) == 0


def test_github_annotations(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """--format github prints a workflow command for each finding, with a path in the repository, escaped."""
    folder = here / "sub, 100%"
    folder.mkdir()
    (folder / "bad.yaml").write_text(BAD.replace("colour", "'colour: 1%'"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GITHUB_WORKSPACE", str(here))
    assert run_command(["config", "check", "-e", "../env", "./bad.yaml", "--format", "github"]) == 78
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "::error file=sub%2C 100%25/bad.yaml,title=unset-variable,line=5,col=7"
        "::model_list[0].litellm_params.api_key refers to KEY, which is not set. Set KEY in .env, or remove the key."
    )
    assert lines[2].startswith(
        "::warning file=sub%2C 100%25/bad.yaml,title=unknown-setting,line=6,col=1::colour: 1%25 is not a"
    )
    assert lines[-1].endswith("2 errors, 1 warning")


@pytest.mark.usefixtures("here")
def test_sarif(capsys: pytest.CaptureFixture[str]) -> None:
    """--format sarif prints a SARIF log: results with level, message and region, and the docs of each rule."""
    Path("env").write_text(ENVIRONMENT + "LITELLM_LOG=DEBUG\n")
    assert run_command(["config", "check", "-e", "env", "./bad.yaml", "--format", "sarif"]) == 78
    log = json.loads(capsys.readouterr().out)
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [run["tool"]["driver"]["name"], *(rule["id"] for rule in rules)] == [
        *("litellmctl", "unset-variable", "unknown-provider", "unknown-setting", "debug-log")
    ]
    assert all("```yaml" in rule["help"]["markdown"] for rule in rules)
    assert rules[0]["fullDescription"]["text"].startswith("LiteLLM starts, and the model fails")
    results = run["results"]
    assert [rules[result["ruleIndex"]]["id"] for result in results] == [result["ruleId"] for result in results]
    assert results[0]["level"] == "error"
    assert results[0]["locations"] == [
        {"physicalLocation": {"artifactLocation": {"uri": "bad.yaml"}, "region": {"startLine": 5, "startColumn": 7}}}
    ]
    # What is wrong with a variable is in the file of the environment.
    assert results[-1]["locations"] == [
        {"physicalLocation": {"artifactLocation": {"uri": "env"}, "region": {"startLine": 3}}}
    ]


@pytest.mark.usefixtures("here")
def test_one_format() -> None:
    """--format and --json cannot be combined."""
    assert run_command(["config", "check", "bad.yaml", "--json", "--format", "sarif"]) == 64


VARIABLES = """\
LITELLM_MASTER_KEY=sk-0123456789abcdef0123456789abcdef
LITELLM_PORT=4005
LITELLM_HOST=0.0.0.0

OPENAI_API_KEY=<your-api-key>
MY_OWN=1
{}
"""
INSTALL = ("install", "--dry-run", "--root", "root", "-c", "demo.yml", "-e", "v")


def test_mistakes_in_variables_have_the_line_of_the_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`config check` and `install --dry-run` report names that nothing reads and placeholders, with their lines."""
    (here / "v").write_text(VARIABLES.format(""))
    assert run_command(["config", "check", "-e", "v", "demo.yml"]) == 0
    printed = capsys.readouterr().out
    assert "v:2: warning: LITELLM_PORT has no effect" in printed
    assert "v:5: warning: OPENAI_API_KEY is a placeholder" in printed
    assert "Neither LiteLLM nor the service reads these variables of v: MY_OWN." in printed
    assert run_command([*INSTALL]) == 2
    printed = capsys.readouterr().out
    assert "v:3: LITELLM_HOST has no effect: neither LiteLLM nor the service reads it. Write it as HOST" in printed


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("DEBUG=release", "v:7: DEBUG is release, which is no boolean"),
        ("DEBUG=app:*", "v:7: DEBUG is app:*"),
        ("LITELLM_LOG=TRACE", "v:7: LITELLM_LOG=TRACE is not a log level"),
        ("PROMETHEUS_METRICS_PORT=a", "v:7: PROMETHEUS_METRICS_PORT is a, which is no integer"),
        (
            "GOOGLE_APPLICATION_CREDENTIALS=/home/me/key.json",
            "v:7: GOOGLE_APPLICATION_CREDENTIALS is /home/me/key.json",
        ),
    ],
)
def test_a_value_that_stops_the_gateway_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], line: str, cause: str
) -> None:
    """`install` refuses it before any change, with the line; what else is wrong in the file is reported as well."""
    (here / "v").write_text(VARIABLES.format(line))
    assert run_command([*INSTALL]) == 78
    refused = capsys.readouterr().err
    assert refused.startswith(f"litellmctl: {cause}")
    assert "v:2: LITELLM_PORT has no effect" in refused
    assert not (here / "root").exists()
    assert run_command(["config", "check", "-e", "v", "demo.yml", "--json"]) == 78
    printed = json.loads(capsys.readouterr().out)
    assert "LITELLM_PORT" in json.dumps(printed)


def test_a_hidden_file_that_the_configuration_refers_to(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that a variable names, to which a key for files refers, is reported with the line of the variable."""
    model = "{model_name: a, litellm_params: {model: vertex_ai/gemini-2.5-pro, vertex_credentials: os.environ/MINE}}"
    (here / "vertex.yaml").write_text(f"model_list:\n  - {model}\n")
    (here / "v").write_text(f"{ENVIRONMENT}MINE=/home/me/key.json\n")
    assert run_command(["config", "check", "-e", "v", "vertex.yaml"]) == 78
    assert "v:3: error: MINE is /home/me/key.json, which the sandbox" in capsys.readouterr().out


def test_a_drop_in_that_shows_hidden_files(here: Path) -> None:
    """A file that the sandbox hides is an error, and a warning if a drop-in of the unit changes the sandbox."""
    model = "{model_name: a, litellm_params: {model: vertex_ai/gemini-2.5-pro, vertex_credentials: /root/key.json}}"
    layout = host(here, ENVIRONMENT, active=f"model_list:\n  - {model}\n")
    report = check_config(Request(layout, cwd=here / "host"))
    assert (codes(report), report.exit_code) == (["hidden-file"], ExitCode.CONFIG)
    drop_ins = layout.real(f"{layout.service}.d")
    drop_ins.mkdir(parents=True)
    (drop_ins / "home.conf").write_text("[Service]\nBindReadOnlyPaths=/root/key.json\n")
    report = check_config(Request(layout, cwd=here / "host"))
    assert (codes(report), report.exit_code) == (["hidden-file"], ExitCode.OK)


WRONG_NAMES = """\
model_list:
  - model_name: a
    litellm_params: {model: openai/gpt-4o, mock_response: hi, api_key: "${KEY}"}
litellm_settings: {fallbacks: [{a: [missing]}]}
"""


def test_all_errors_are_reported_at_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`install` names every error of a configuration, so that the user fixes all of them before the next attempt."""
    (here / "wrong.yml").write_text(WRONG_NAMES)
    (here / "v").write_text("LITELLM_MASTER_KEY=sk-0123456789abcdef0123456789abcdef\n")
    assert run_command(["install", "--dry-run", "--root", "root", "-c", "./wrong.yml", "-e", "v"]) == 78
    refused = capsys.readouterr().err
    assert refused.count("wrong.yml:3:") == 1
    assert refused.count("wrong.yml:4:") == 1


def test_a_question_mark_ends_a_sentence() -> None:
    """A message and its remedy in one line have one mark between them."""
    assert join_sentences("did you mean b?", "Write it as b.") == "did you mean b? Write it as b."
    assert join_sentences("it is empty", "Add a line.") == "it is empty. Add a line."
    assert join_sentences("it is empty", "") == "it is empty"
