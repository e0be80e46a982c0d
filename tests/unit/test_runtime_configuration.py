"""A configuration as it was when it was checked."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from litellm_systemd.errors import InputError, MissingError
from litellm_systemd.runtime.configuration import load_configuration

MODELS = """\
model_list:
  - model_name: demo
    litellm_params: {model: openai/demo, api_key: os.environ/DEMO_KEY, mock_response: hello}
"""
ENVIRON = {"LITELLM_MASTER_KEY": "sk-test-0123456789abcdef", "DEMO_KEY": "x"}


def test_texts_are_kept(tmp_path: Path) -> None:
    """The text of every file is kept as it was read, with one digest over all; models are counted by name."""
    main, more = tmp_path / "config.yaml", tmp_path / "more.yaml"
    main.write_text("include: [more.yaml]\n" + MODELS)
    more.write_text(MODELS)
    loaded = load_configuration(main, ENVIRON)
    assert loaded.texts == {str(main): main.read_text(), str(more): more.read_text()}
    assert loaded.digest == hashlib.sha256((main.read_text() + more.read_text()).encode()).hexdigest()
    assert (loaded.models, loaded.name) == (1, "config.yaml")
    main.write_text("later")
    assert "later" not in loaded.texts.values()
    assert "os.environ" not in repr(loaded)


def test_its_name_is_that_of_the_file(tmp_path: Path) -> None:
    """Through the link to the active configuration, the name is that of the file which it led to then."""
    (tmp_path / "mine.yml").write_text(MODELS)
    link = tmp_path / "config.yaml"
    link.symlink_to("mine.yml")
    assert load_configuration(link, ENVIRON).name == "mine.yml"


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
