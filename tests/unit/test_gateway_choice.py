"""Resolve the configuration that `-c NAME` selects."""

from __future__ import annotations

from pathlib import Path

import pytest

from litellm_systemd.errors import UsageError
from litellm_systemd.gateway.config import ConfigChoice, ConfigOrigin, resolve_name

SHIPPED = frozenset({"demo.yml", "iam_role_config.yml", "prompt_caching.yml"})
INSTALLED = frozenset({"demo.yml", "team.yaml"})
ETC = Path("/etc/litellm/configs")


def resolve(name: str, folder: Path = Path("/nowhere")) -> ConfigChoice:
    return resolve_name(name, shipped=SHIPPED, installed=INSTALLED, installed_dir=ETC, folder=folder)


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("prompt_caching.yml", ConfigChoice("prompt_caching.yml", ConfigOrigin.SHIPPED, None)),
        ("prompt_caching", ConfigChoice("prompt_caching.yml", ConfigOrigin.SHIPPED, None)),
        ("demo", ConfigChoice("demo.yml", ConfigOrigin.INSTALLED, ETC / "demo.yml")),
        ("demo.yml", ConfigChoice("demo.yml", ConfigOrigin.INSTALLED, ETC / "demo.yml")),
        ("team", ConfigChoice("team.yaml", ConfigOrigin.INSTALLED, ETC / "team.yaml")),
        ("./demo.yml", ConfigChoice("demo.yml", ConfigOrigin.PATH, Path("/nowhere/demo.yml"))),
        ("/srv/mine.yml", ConfigChoice("mine.yml", ConfigOrigin.PATH, Path("/srv/mine.yml"))),
        ("../configs/demo.yml", ConfigChoice("demo.yml", ConfigOrigin.PATH, Path("/nowhere/../configs/demo.yml"))),
    ],
)
def test_a_name_or_a_path(name: str, choice: ConfigChoice) -> None:
    """An installed file precedes a shipped one of the same name, the suffix is optional, a slash makes a path."""
    assert resolve(name) == choice


def test_an_unknown_name_selects_a_file_in_the_folder(tmp_path: Path) -> None:
    """A name that is neither installed nor shipped selects the file in the current folder."""
    (tmp_path / "mine.yml").touch()
    assert resolve("mine.yml", tmp_path) == ConfigChoice("mine.yml", ConfigOrigin.PATH, tmp_path / "mine.yml")
    assert resolve("mine", tmp_path) == ConfigChoice("mine.yml", ConfigOrigin.PATH, tmp_path / "mine.yml")


@pytest.mark.parametrize("name", ["demo.yml", "prompt_caching.yml"])
def test_a_file_in_the_folder_never_replaces_a_known_name(tmp_path: Path, name: str) -> None:
    """A demo.yml in the current folder is not used by root, and the choice reports it as passed over."""
    (tmp_path / name).touch()
    choice = resolve(name, tmp_path)
    assert choice.origin is not ConfigOrigin.PATH
    assert choice.passed_over == tmp_path / name


def test_the_installed_file_is_not_reported_as_passed_over(tmp_path: Path) -> None:
    """In the folder of the installed configurations nothing is passed over."""
    (tmp_path / "demo.yml").touch()
    choice = resolve_name("demo.yml", shipped=SHIPPED, installed=INSTALLED, installed_dir=tmp_path, folder=tmp_path)
    assert choice == ConfigChoice("demo.yml", ConfigOrigin.INSTALLED, tmp_path / "demo.yml")


@pytest.mark.parametrize(
    ("name", "guess"), [("promt_caching.yml", "prompt_caching.yml"), ("promptcaching", "prompt_")]
)
def test_an_unknown_name_is_an_error_with_a_suggestion(name: str, guess: str) -> None:
    """A misspelt name is a UsageError with the closest name and the list of names."""
    with pytest.raises(UsageError) as caught:
        resolve(name)
    assert name in caught.value.message
    assert f"Did you mean {guess}" in caught.value.hint
    assert "demo.yml, iam_role_config.yml, prompt_caching.yml, team.yaml" in caught.value.hint


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name(name: str) -> None:
    """An empty name is a UsageError with the list of names."""
    with pytest.raises(UsageError) as caught:
        resolve(name)
    assert "demo.yml" in caught.value.hint
