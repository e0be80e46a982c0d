"""The output of litellmctl contains no secret: canaries of every kind, in every output with files or messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from litellm_systemd.cli import run_command
from litellm_systemd.commands.doctor import build_report
from litellm_systemd.commands.logs import build_errors, build_request
from litellm_systemd.doctor import check_configuration
from litellm_systemd.doctor.engine import run_checks
from litellm_systemd.doctor.registry import checks_of
from litellm_systemd.logs.events import group_events, read_events
from litellm_systemd.report.display import render_tables
from litellm_systemd.report.report import Report
from tests.canaries import find_left
from tests.integration.doctor_snapshot import BASE, CHECKS, make_snapshot

#: The secrets in `.env`, by variable.
VARIABLES = {
    "SLACK_WEBHOOK": "canarywebhook",
    "DB_PWD": "canary-pwd",
    "MY_AUTH": "canary.auth",
    "LITELLM_SALT": "canary_salt",
    "LITELLM_SALT_KEY": "canary-of-the-salt-key",
    "GREETING": "canary of no known name",
    "OPENAI_API_KEY": "canary-openai",
}
LOGIN, HEADER, LITERAL, ITEM, OWN = "canary-login", "canaryHeader77", "canary-literal", "canary-item", "canary-own"
SECRETS = (*VARIABLES.values(), LOGIN, HEADER, LITERAL, ITEM, OWN)
ENV = "".join(f"{name}='{value}'\n" for name, value in VARIABLES.items())
ENV += f"AWS_REGION_NAME=eu-west-1\nHTTPS_PROXY=http://me:{LOGIN}@127.0.0.1:3128\nNUM_WORKERS=3\n"
CONFIG = f"""\
model_list:
  - model_name: mine
    litellm_params:
      model: openai/x
      api_key: {LITERAL}
      extra_headers: {{X-Own: {OWN}, Authorization: "Bearer {HEADER}"}}
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
  alert_webhooks:
    - {ITEM}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with secrets in `.env` and in a configuration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(ENV, encoding="utf-8")
    (tmp_path / "mine.yml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["for people", "for programs"])
@pytest.mark.parametrize(
    ("verb", "code"),
    [
        (["install", "--dry-run", "--root", "root", "-c", "./mine.yml"], 2),
        (["config", "show", "./mine.yml"], 0),
        (["config", "check", "./mine.yml"], 0),
        (["models", "--offline", "-c", "./mine.yml"], 0),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_verbs(verb: list[str], code: int, form: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Dry run, config show, config check and models show no secret of `.env` or of the configuration."""
    (here / "root").mkdir()
    assert run_command([*verb, *form]) == code
    out, err = capsys.readouterr()
    assert find_left(SECRETS, {"out": out, "err": err}) == set()
    assert "mine" in out


def test_a_dry_run_shows_other_values(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run shows the names of all variables, and the values that are not secrets."""
    (here / "root").mkdir()
    assert run_command(["install", "--dry-run", "--root", "root", "-c", "./mine.yml"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert {f"+{name}=***" for name in VARIABLES} <= set(lines)
    assert {'+NUM_WORKERS="3"', '+AWS_REGION_NAME="eu-west-1"', "+      model: openai/x"} <= set(lines)
    assert "+  master_key: os.environ/LITELLM_MASTER_KEY" in lines


@pytest.mark.parametrize(
    ("proxy", "found"),
    [(f"http://me:{LOGIN}@127.0.0.1:9", "configuration-doubtful"), (f"me:{LOGIN}@127.0.0.1", "environment-unusable")],
)
def test_doctor(proxy: str, found: str, tmp_path: Path) -> None:
    """doctor and doctor --json report on the installed environment and configuration without their secrets."""
    snapshot = make_snapshot(tmp_path, {**BASE, **VARIABLES, "HTTPS_PROXY": proxy}, CONFIG)
    checks = (*CHECKS, *checks_of(check_configuration))
    report = build_report(run_checks(snapshot, checks), ())
    assert found in {each["id"] for each in report.data["findings"]}
    assert find_left(SECRETS, dict(shown(report))) == set()


def test_logs() -> None:
    """logs --errors and logs --request mask secrets in messages, by name and by form."""
    messages = [
        f"Authorization: Bearer {HEADER}",
        f"POST https://hooks.slack.com/{VARIABLES['SLACK_WEBHOOK']} failed",
        f"proxy http://me:{LOGIN}@127.0.0.1:3128 refused it",
        f'{{"api_key": "{LITERAL}"}}',
        f"DB_PWD={VARIABLES['DB_PWD']} in the environment",
    ]
    entries = [
        {"MESSAGE": f"request 0123456789 {text}", "PRIORITY": "3", "_PID": str(number), "__REALTIME_TIMESTAMP": "1"}
        for number, text in enumerate(messages)
    ]
    events = read_events(entries)
    reports = build_errors(group_events(events), "today"), build_request(events, "0123456789", "today")
    texts = {f"{kind}{number}": text for number, each in enumerate(reports) for kind, text in shown(each)}
    assert find_left(SECRETS, texts) == set()
    assert "failed" in texts["json0"]


def shown(report: Report) -> list[tuple[str, str]]:
    return [("json", report.as_json()), ("text", render_tables(report))]
