"""Models that have reached or approach their end of life: errors, warnings, and later installs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from litellm_systemd.commands.config_check import active_ends
from litellm_systemd.commands.resolve import Request
from litellm_systemd.commands.service_config import ServiceConfig, resolve_service
from litellm_systemd.errors import InputError
from litellm_systemd.host.layout import Layout

OLD = "anthropic.claude-3-7-sonnet-20250219-v1:0"
ENDING = "anthropic.claude-sonnet-4-5-20250929-v1:0"
TODAY = date(2027, 2, 1)
ENVIRONMENT = "AWS_REGION_NAME=us-east-1\nLITELLM_MASTER_KEY=sk-of-these-tests\n"


def config_of(*models: str) -> str:
    entries = "".join(
        f"- {{model_name: m-{i}, litellm_params: {{model: 'bedrock/us.{each}'}}}}\n" for i, each in enumerate(models)
    )
    return f"model_list:\n{entries}litellm_settings: {{drop_params: true}}\n{MASTER}"


MASTER = "general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a `.env` and a configuration with a model that has ended."""
    (tmp_path / ".env").write_text(ENVIRONMENT, encoding="utf-8")
    (tmp_path / "old.yml").write_text(config_of(OLD), encoding="utf-8")
    return tmp_path


def install_active(root: Path, text: str) -> None:
    """Write the files of an install that the next one reads."""
    configs = root / "etc/litellm/configs"
    configs.mkdir(parents=True)
    (root / "etc/litellm/litellm.env").write_text(ENVIRONMENT, encoding="utf-8")
    (configs / "active.yml").write_text(text, encoding="utf-8")
    (root / "etc/litellm/config.yaml").symlink_to("configs/active.yml")


def work(folder: Path, config: str | None = "./old.yml", *, allow: bool = False) -> ServiceConfig:
    request = Request(Layout(root=folder / "root"), config=config, cwd=folder, today=TODAY)
    return resolve_service(replace(request, allow_ended=allow))


def test_an_ended_model_is_refused(folder: Path) -> None:
    """A configuration with a model past its end of life is refused with the line, the date and the remedy."""
    with pytest.raises(InputError) as caught:
        work(folder)
    assert "old.yml:2" in caught.value.message
    assert f"{OLD}, which Bedrock ended on 2026-04-28" in caught.value.message
    assert "--allow-eol" in caught.value.hint


def test_allow_eol_accepts_an_ended_model(folder: Path) -> None:
    """With --allow-eol such a model is accepted with a warning."""
    assert any("ended on 2026-04-28" in note for note in work(folder, allow=True).notes)


def test_a_second_run_only_warns(folder: Path) -> None:
    """A model that was installed with --allow-eol is only a warning later, also if the configuration gets another
    model.
    """
    install_active(folder / "root", config_of(OLD))
    for config in (None, "active.yml", "./old.yml"):
        assert any("ended on 2026-04-28" in note for note in work(folder, config).notes)
    (folder / "more.yml").write_text(config_of(OLD, "anthropic.claude-sonnet-5-5"), encoding="utf-8")
    assert work(folder, "./more.yml").notes


def test_another_ended_model_is_refused(folder: Path) -> None:
    """An exception for one ended model does not apply to another one."""
    install_active(folder / "root", config_of(OLD))
    (folder / "worse.yml").write_text(config_of(OLD, "anthropic.claude-opus-4-20250514-v1:0"), encoding="utf-8")
    with pytest.raises(InputError, match="claude-opus-4-20250514"):
        work(folder, "./worse.yml")


def test_a_model_that_ends_soon(folder: Path) -> None:
    """A model within 90 days of its end of life is accepted with a warning."""
    (folder / "soon.yml").write_text(config_of(ENDING), encoding="utf-8")
    assert [note for note in work(folder, "./soon.yml").notes if "ends on 2027-04-08" in note]


def test_reload_warns_of_active_models(folder: Path) -> None:
    """A reload warns about the models of the active configuration, and reports nothing without an installation."""
    layout = Layout(root=folder / "root")
    assert active_ends(layout, {}, TODAY) == ()
    install_active(folder / "root", config_of(ENDING, OLD))
    notes = active_ends(layout, {"AWS_REGION_NAME": "us-east-1"}, TODAY)
    assert ["which Bedrock ends on 2027-04-08" in notes[0], "which Bedrock ended on 2026-04-28" in notes[1]] == [
        True,
        True,
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="files of other owners take root")
def test_the_exit_code(folder: Path) -> None:
    """`install` exits with 78 and changes nothing; with --allow-eol it continues."""
    root = folder / "root"
    root.mkdir()
    argv = (sys.executable, "-m", "litellm_systemd", "install", "--root", str(root), "-c", "./old.yml", "--json")
    env = {**os.environ, "UV_OFFLINE": "1", "AWS_EC2_METADATA_DISABLED": "true"}
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 78, done.stdout + done.stderr
    assert "ended on" in json.loads(done.stdout)["error"]
    assert [path for path in root.rglob("*") if path.is_file()] == []
    again = subprocess.run(
        (*argv, "--allow-eol", "--dry-run"),
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert again.returncode == 2, again.stdout + again.stderr
    assert any("ended on" in note for note in json.loads(again.stdout)["notes"])
