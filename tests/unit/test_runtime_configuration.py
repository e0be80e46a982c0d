"""A configuration as it was when it was checked."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from litellm_systemd.errors import InputError, MissingError
from litellm_systemd.runtime.configuration import load_configuration

MODELS = """\
model_list:
  - model_name: demo
    litellm_params: {model: openai/demo, api_key: os.environ/DEMO_KEY, mock_response: hello}
"""
ENVIRON = {"LITELLM_MASTER_KEY": "sk-test-0123456789abcdef", "DEMO_KEY": "x"}


def test_text_is_kept(tmp_path: Path) -> None:
    """The text is kept as it was read, whatever becomes of the file; models are counted by name."""
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
    """Included files are merged into the text that is kept, so that they may go later; the digest covers all."""
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


def test_it_is_the_file_that_the_link_leads_to(tmp_path: Path) -> None:
    """Through the link to the active configuration, LiteLLM is given the file, with what is included next to it."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/mine.yml").write_text("include: [more.yml]\n")
    (tmp_path / "configs/more.yml").write_text(MODELS)
    link = tmp_path / "config.yaml"
    link.symlink_to("configs/mine.yml")
    loaded = load_configuration(link, ENVIRON)
    assert (loaded.name, loaded.path) == ("mine.yml", tmp_path / "configs/mine.yml")
    assert list(loaded.texts) == [str(loaded.path)]


def test_errors_pass_through(tmp_path: Path) -> None:
    """A missing file and a missing variable are refused as everywhere."""
    with pytest.raises(MissingError):
        load_configuration(tmp_path / "none.yaml", ENVIRON)
    (tmp_path / "config.yaml").write_text(MODELS)
    with pytest.raises(InputError, match="DEMO_KEY"):
        load_configuration(tmp_path / "config.yaml", {"LITELLM_MASTER_KEY": "sk-test-0123456789abcdef"})


def test_a_file_in_motion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is being written isn't taken for what was checked: it is read again, or refused."""
    path = tmp_path / "config.yaml"
    path.write_text(MODELS)
    edits = iter("ab")

    def check_slowly(*_: object) -> None:
        path.write_text(path.read_text() + "# " + next(edits, "") + "\n")

    monkeypatch.setattr("litellm_systemd.runtime.configuration.check", check_slowly)
    with pytest.raises(InputError, match="changes while it is read"):
        load_configuration(path, ENVIRON)
