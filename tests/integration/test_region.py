"""The source of the AWS region, with instance metadata on loopback that record the requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from litellm_systemd.commands.resolve import Request
from litellm_systemd.commands.service_config import resolve_service
from litellm_systemd.errors import InputError, UsageError
from litellm_systemd.host.layout import Layout
from tests.fakes import Seen, run_cloud


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Seen]]:
    """The requests to the instance metadata during the test."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_REGION_NAME", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with run_cloud("eu-central-1") as aws:
        for name, value in aws.environment.items():
            monkeypatch.setenv(name, value)
        yield aws.seen


def request(folder: Path, env: str, config: str) -> Request:
    (folder / ".env").write_text(env, encoding="utf-8")
    return Request(Layout(root=folder / "root"), config=config, cwd=folder)


def test_region_of_the_instance(tmp_path: Path, asked: list[Seen]) -> None:
    """If .env names no region, the service and the configuration get that of the instance."""
    wanted = resolve_service(request(tmp_path, "", "iam_role_config.yml"))
    assert wanted.settings.environment["AWS_REGION_NAME"] == "eu-central-1"
    assert b"bedrock/eu.anthropic." in wanted.configs["shared/models.yml"]
    assert asked


def test_region_of_the_env_file(tmp_path: Path, asked: list[Seen]) -> None:
    """If .env names a region, the instance is not queried."""
    wanted = resolve_service(request(tmp_path, "AWS_REGION_NAME=us-east-1\n", "iam_role_config.yml"))
    assert wanted.settings.region == "us-east-1"
    assert asked == []


def test_region_of_the_command_line(tmp_path: Path, asked: list[Seen]) -> None:
    """The region of the command line precedes the instance's, and that of .env precedes both."""
    with_region = replace(request(tmp_path, "", "iam_role_config.yml"), region="eu-west-1")
    assert resolve_service(with_region).settings.environment["AWS_REGION_NAME"] == "eu-west-1"
    (tmp_path / ".env").write_text("AWS_REGION_NAME=us-east-1\n", encoding="utf-8")
    assert resolve_service(with_region).settings.region == "us-east-1"
    assert asked == []


def test_invalid_region(tmp_path: Path, asked: list[Seen]) -> None:
    """An invalid region on the command line is refused."""
    with pytest.raises(UsageError, match="mars"):
        resolve_service(replace(request(tmp_path, "", "iam_role_config.yml"), region="mars"))
    assert asked == []


def test_demo_does_not_query_the_instance(tmp_path: Path, asked: list[Seen]) -> None:
    """The demo configuration, which calls no model, does not query the instance."""
    assert resolve_service(request(tmp_path, "", "demo.yml")).settings.region is None
    assert asked == []


def test_configuration_in_another_encoding(tmp_path: Path, asked: list[Seen]) -> None:
    """A configuration that is not UTF-8 is an error with its name, not a defect of litellmctl."""
    (tmp_path / "mine.yml").write_bytes(b"model_list: # gr\xf6\xdfe\n")
    with pytest.raises(InputError, match=r"mine\.yml"):
        resolve_service(request(tmp_path, "", "./mine.yml"))
    assert asked == []


def test_users_file_among_the_installed_ones(tmp_path: Path) -> None:
    """A configuration that the user added to the installed ones is read there and not changed."""
    installed = tmp_path / "root/etc/litellm/configs/mine.yml"
    installed.parent.mkdir(parents=True)
    installed.write_text("model_list: [{model_name: m, litellm_params: {model: openai/m, api_key: x}}]\n", "utf-8")
    wanted = resolve_service(request(tmp_path, "", "mine.yml"))
    assert (wanted.own, wanted.gateway.names) == (installed, ("m",))
    assert "mine.yml" not in wanted.configs
