"""The archive for a bug report contains no secret, in any form."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from urllib.parse import quote

import pytest

from litellm_systemd.cli import run_command
from litellm_systemd.commands import doctor
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.dotenv import render_assignments
from litellm_systemd.env.secrets import Scrubber
from litellm_systemd.errors import CannotCreate
from litellm_systemd.host.layout import Layout
from litellm_systemd.report.report import Report
from tests.canaries import find_left, forms

#: The place of a secret, and the secret.
CANARIES = {
    "master": "sk-canary-0123456789abcdef",
    "aws": "Ca/nary+wJalrXUtnFEMI/K7MDENGbPxRfiCYEX1",
    "odd name": "canary7Zk29dQpw1LmXv83",
    "phrase": 'canary "horse" \\ bättery',
    "url": "can4ry:p@ss/word",
    "config": "canary-config-literal-9",
    "folded": "canary in three lines",
    "escaped": "canary\u00e9scaped",
    "own header": "canary-header-own",
    "other config": "canary of the day before",
    "failed attempt": "canary that failed to start",
    "drop-in": "canaryDropIn-5521",
    "specifier": "canary%drop",
    "credential": "canarySetCredential",
    "four": "c4n4",
    "header": "canaryHeader.Zm9v-77",
    "journal": "sk-canaryJournal42",
}
ENVIRONMENT = {
    "LITELLM_MASTER_KEY": CANARIES["master"],
    "AWS_SECRET_ACCESS_KEY": CANARIES["aws"],
    "MY_THING": CANARIES["odd name"],
    "GREETING": CANARIES["phrase"],
    "DATABASE_URL": f"postgresql://me:{quote(CANARIES['url'], safe='')}@db.example/x",
    "UI_PASSWORD": CANARIES["four"],
    "DB_NAME": "litellm",
    "PIN_SALT": "abc",
    "PORT": "4000",
    "LITELLM_LOG": "DEBUG",
    "AWS_REGION_NAME": "us-east-1",
}
CONFIG = f"""\
model_list:
  - model_name: claude
    litellm_params: {{model: bedrock/us.anthropic.claude-sonnet-5-5, api_key: {CANARIES["config"]}}}
  - model_name: second
    litellm_params:
      model: openai/x
      api_key: >-
        canary in
        three lines
      extra_headers: {{X-Own: {CANARIES["own header"]}}}
      aws_session_token: "canary\\xe9scaped"
general_settings: {{master_key: os.environ/LITELLM_MASTER_KEY}}
"""
OTHER = f"general_settings: {{alert_webhook: [{CANARIES['other config']}]}}\n"
UNIT = f"""\
[Service]
Environment=A=1 "DEPLOY_TOKEN={CANARIES["drop-in"]}" OTHER_TOKEN=canary%%\\x64rop
SetCredential=mine:{CANARIES["credential"]}
"""


def host(root: Path) -> Layout:
    """An installation with a secret in every place that can hold one."""
    layout = Layout(root=root)
    texts = {
        layout.environment_file: render_assignments(ENVIRONMENT),
        layout.config_link: CONFIG,
        f"{layout.configs}/other.yml": OTHER,
        f"{layout.failed}/20260101T000000Z/etc-litellm-litellm.env": f'SALT="{CANARIES["failed attempt"]}"\n',
        f"{layout.units}/litellm.service": "[Service]\nUser=litellm\n",
        f"{layout.units}/litellm.service.d/mine.conf": UNIT,
    }
    for path, text in texts.items():
        real = layout.real(path)
        real.parent.mkdir(parents=True, exist_ok=True)
        real.write_text(text, encoding="utf-8")
    return layout


def journal() -> str:
    """Lines with every secret in every form, and with some that stand nowhere else."""
    lines = [f"said {form} and went on" for secret in CANARIES.values() for form in sorted(forms(secret))]
    lines += [f"Authorization: Bearer {CANARIES['header']}", f"key {CANARIES['journal']} refused"]
    return "\n".join(lines)


def test_no_secret_is_in_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets of the environment, configuration, drop-ins, URLs, headers and journal are in no file, in no form."""
    layout = host(tmp_path / "root")
    monkeypatch.setattr(doctor, "find_any_layout", lambda: layout)
    # There is no journal of systemd to read here.
    monkeypatch.setattr(doctor, "_journal", lambda _scene: journal())
    target = tmp_path / "report.tar.gz"
    seen = Report("found", data={"seen": f"key {CANARIES['master']} and {CANARIES['phrase']}"})
    report = doctor.write_bundle(seen, target)
    assert report.notes[0].startswith(f"{target}: ")
    assert target.stat().st_mode & 0o777 == 0o600
    with tarfile.open(target) as archive:
        texts = {member.name.split("/")[1]: archive.extractfile(member).read().decode() for member in archive}  # type: ignore[union-attr]
    assert {"environment.txt", "config.yaml", "units.txt", "findings.json", "journal.txt"} <= texts.keys()
    assert find_left(CANARIES.values(), texts) == set()
    assert "PORT=4000" in texts["environment.txt"]
    assert "LITELLM_LOG=DEBUG" in texts["environment.txt"]
    assert "us.anthropic.claude-sonnet-5-5" in texts["config.yaml"]
    assert "os.environ/LITELLM_MASTER_KEY" in texts["config.yaml"]
    # A value that is too short, or in every line, is masked at its place only and not searched for.
    assert "PIN_SALT=<kept back>" in texts["environment.txt"]
    assert "DB_NAME=<kept back>" in texts["environment.txt"]
    assert "litellm_params" in texts["config.yaml"]
    assert "User=litellm" in texts["units.txt"]
    # A secret has the same placeholder everywhere, in every encoding.
    assert "LITELLM_MASTER_KEY=<secret-1 LITELLM_MASTER_KEY>" in texts["environment.txt"]
    label = re.search("OTHER_TOKEN=(<secret-[0-9]+ OTHER_TOKEN>)$", texts["units.txt"], re.MULTILINE)
    assert label is not None
    assert f"said {label[1]} and went on" in texts["journal.txt"]
    assert "key <secret-1 LITELLM_MASTER_KEY> and" in texts["findings.json"]
    assert "said <secret-1 LITELLM_MASTER_KEY> and went on" in texts["journal.txt"]


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An existing file is not overwritten, and a link is not followed."""
    monkeypatch.setattr(doctor, "find_any_layout", lambda: Layout(root=tmp_path))
    target = tmp_path / "there"
    target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CannotCreate, match="already"):
        doctor.write_bundle(Report("x"), target)
    assert not (tmp_path / "elsewhere").exists()


def test_an_unwritable_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An archive that cannot be written is an error with exit code 73 before the host is examined or repaired."""
    (tmp_path / "there").touch()
    for name, said in (("there", "already"), ("gone/b.tgz", "there is no folder")):
        assert run_command(["doctor", "--fix", "--bundle", str(tmp_path / name)]) == 73
        out, err = capsys.readouterr()
        assert (out, said in err) == ("", True)


def test_a_host_without_an_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an installation the archive is still created, and says what is missing."""
    monkeypatch.setattr(doctor, "find_any_layout", lambda: Layout(root=tmp_path))
    doctor.write_bundle(Report("x"), tmp_path / "b.tar.gz")
    with tarfile.open(tmp_path / "b.tar.gz") as archive:
        missing = archive.extractfile("litellm-bug-report/missing.txt").read().decode()  # type: ignore[union-attr]
    assert "environment.txt: " in missing
    assert Snapshot(Layout(root=tmp_path)).layout.root == tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "POST /v1/chat/completions 200 5 ms 127.0.0.1",
        "model bedrock/us.anthropic.claude-sonnet-4-6",
        "max_tokens: 4096",
    ],
)
def test_other_lines_are_unchanged(text: str) -> None:
    """Ordinary lines are not changed."""
    assert Scrubber().scrub(text) == text
