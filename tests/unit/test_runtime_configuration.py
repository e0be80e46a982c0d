"""The text of a configuration, kept as it was when it was checked."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from litellm_systemd.errors import InputError, MissingError
from litellm_systemd.runtime.options import load_configuration

MODELS = """\
model_list:
  - model_name: demo
    litellm_params: {model: openai/demo, api_key: os.environ/DEMO_KEY, mock_response: hello}
"""
ENVIRON = {"LITELLM_MASTER_KEY": "sk-test-0123456789abcdef", "DEMO_KEY": "x"}


def test_text_is_kept(tmp_path: Path) -> None:
    """The text is kept as it was read, even if the file changes; models are counted by name."""
    path = tmp_path / "config.yaml"
    path.write_text(MODELS)
    loaded = load_configuration(path, ENVIRON)
    assert loaded.texts == {str(path): MODELS}
    assert loaded.digest == hashlib.sha256(MODELS.encode()).hexdigest()
    assert (loaded.models, loaded.name) == (1, "config.yaml")
    path.write_text("later")
    assert loaded.texts == {str(path): MODELS}
    assert "os.environ" not in repr(loaded)


def test_included_files_are_kept_too(tmp_path: Path) -> None:
    """Included files are merged into the kept text, so that they can be removed later; the digest covers
    all of them.
    """
    main, more = tmp_path / "config.yaml", tmp_path / "more.yaml"
    main.write_text("include: [more.yaml]\n" + MODELS)
    more.write_text(MODELS.replace("demo", "more") + "router_settings: {num_retries: 1}\n")
    loaded = load_configuration(main, ENVIRON)
    assert loaded.digest == hashlib.sha256((main.read_text() + more.read_text()).encode()).hexdigest()
    kept = yaml.safe_load(loaded.texts[str(main)])
    assert list(loaded.texts) == [str(main)]
    assert [model["model_name"] for model in kept["model_list"]] == ["demo", "more"]
    assert kept["router_settings"] == {"num_retries": 1}
    assert "include" not in kept


def test_links_are_resolved(tmp_path: Path) -> None:
    """LiteLLM gets the file that the link to the active configuration points to, with the included files
    next to it.
    """
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/mine.yml").write_text("include: [more.yml]\n")
    (tmp_path / "configs/more.yml").write_text(MODELS)
    link = tmp_path / "config.yaml"
    link.symlink_to("configs/mine.yml")
    loaded = load_configuration(link, ENVIRON)
    assert (loaded.name, loaded.path) == ("mine.yml", tmp_path / "configs/mine.yml")
    assert list(loaded.texts) == [str(loaded.path)]


def test_errors_pass_through(tmp_path: Path) -> None:
    """A missing file or variable is refused with the same error as in other verbs."""
    with pytest.raises(MissingError):
        load_configuration(tmp_path / "none.yaml", ENVIRON)
    (tmp_path / "config.yaml").write_text(MODELS)
    with pytest.raises(InputError, match="DEMO_KEY"):
        load_configuration(tmp_path / "config.yaml", {"LITELLM_MASTER_KEY": "sk-test-0123456789abcdef"})


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changes while it is read is read again or refused."""
    path = tmp_path / "config.yaml"
    path.write_text(MODELS)
    edits = iter("ab")

    def check_slowly(*_: object) -> None:
        path.write_text(path.read_text() + "# " + next(edits, "") + "\n")

    monkeypatch.setattr("litellm_systemd.runtime.options.check", check_slowly)
    with pytest.raises(InputError, match="changes while it is read"):
        load_configuration(path, ENVIRON)


def test_an_included_file_that_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is removed between the check and the load is a MissingError, not a traceback."""
    (tmp_path / "config.yaml").write_text("include: [more.yml]\n" + MODELS)
    (tmp_path / "more.yml").write_text("")
    monkeypatch.setattr(
        "litellm_systemd.runtime.options.check", lambda *_: (tmp_path / "more.yml").unlink(missing_ok=True)
    )
    with pytest.raises(MissingError, match=r"more\.yml"):
        load_configuration(tmp_path / "config.yaml", ENVIRON)


def test_windows_line_ends(tmp_path: Path) -> None:
    """The service starts with a configuration that has Windows line ends, which install accepts."""
    (tmp_path / "config.yaml").write_bytes(MODELS.replace("\n", "\r\n").encode())
    assert load_configuration(tmp_path / "config.yaml", ENVIRON).models == 1
