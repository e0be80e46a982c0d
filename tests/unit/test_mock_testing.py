"""ALLOW_MOCK_TESTING: who may have it, and what LiteLLM is given then."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from litellm_systemd.contract import TRIAL_SOCKET
from litellm_systemd.env.mock_testing import SETTING, WARNING
from litellm_systemd.env.settings import Settings, build_settings, parse_dotenv
from litellm_systemd.errors import InputError
from litellm_systemd.runtime.configuration import load_configuration
from litellm_systemd.runtime.options import read_options

MODELS = "model_list: [{model_name: demo, litellm_params: {model: openai/demo, mock_response: hello}}]\n"
ENVIRON = {"LITELLM_MASTER_KEY": "sk-test-0123456789abcdef"}


def settings(env: str) -> Settings:
    return build_settings(parse_dotenv(env, ".env"), installed={}, new_key=lambda: "sk-made")


@pytest.mark.parametrize("host", ["", "HOST=localhost\n", "HOST=127.0.0.1\n", "HOST=::1\n", "HOST=127.8.0.1\n"])
def test_on_loopback_it_is_taken_with_a_warning(host: str) -> None:
    """A gateway that only this machine reaches may have it, and the installer says what it means."""
    found = settings(f"{host}ALLOW_MOCK_TESTING=true\n")
    assert found.allows_mock_testing
    assert WARNING in found.warnings
    assert "every client can make models fail" in WARNING


@pytest.mark.parametrize("word", ["false", "0", "no", ""])
def test_off_is_off(word: str) -> None:
    """A word for no is as good as no line at all, wherever the gateway listens."""
    found = settings(f"HOST=0.0.0.0\nALLOW_MOCK_TESTING={word}\n")
    assert not found.allows_mock_testing
    assert found.warnings == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "*"])
def test_where_others_reach_it_it_is_refused(host: str) -> None:
    """Where other machines reach the gateway it is refused with the line and the remedy: by the installer, and by the
    service as well, for who edits the installed file."""
    with pytest.raises(InputError) as refused:
        settings(f"HOST={host}\nALLOW_MOCK_TESTING=true\n")
    assert refused.value.message.startswith(".env:2: ALLOW_MOCK_TESTING=true")
    assert "set HOST=127.0.0.1" in refused.value.hint
    with pytest.raises(InputError, match="ALLOW_MOCK_TESTING"):
        read_options(Path("/c"), {**ENVIRON, "HOST": host, "ALLOW_MOCK_TESTING": "yes"})


def test_a_word_that_is_neither(tmp_path: Path) -> None:
    """A value that is neither yes nor no is refused with its line."""
    with pytest.raises(InputError, match=r"^.env:1: ALLOW_MOCK_TESTING=maybe is neither true nor false$"):
        settings("ALLOW_MOCK_TESTING=maybe\n")


def test_litellm_gets_the_switch_and_the_file_does_not(tmp_path: Path) -> None:
    """The service's LiteLLM reads its own configuration with the one setting more, whatever includes what; the files
    stay as they are."""
    main, more = tmp_path / "config.yaml", tmp_path / "more.yaml"
    main.write_text("include: [more.yaml]\ngeneral_settings: {master_key: os.environ/LITELLM_MASTER_KEY}\n" + MODELS)
    more.write_text(MODELS.replace("demo", "other"))
    before = main.read_text()
    loaded = load_configuration(main, {**ENVIRON, "ALLOW_MOCK_TESTING": "true"})
    served = yaml.safe_load(loaded.texts[str(main)])
    assert list(loaded.texts) == [str(main)]
    assert served["general_settings"] == {"master_key": "os.environ/LITELLM_MASTER_KEY", SETTING: True}
    assert [model["model_name"] for model in served["model_list"]] == ["demo", "other"]
    assert "include" not in served
    assert main.read_text() == before
    assert loaded.digest == load_configuration(main, ENVIRON).digest


def test_a_throwaway_instance_has_it_by_itself(tmp_path: Path) -> None:
    """What serves on a private socket alone has the switch whatever HOST is, and one worker."""
    environ = {**ENVIRON, "HOST": "0.0.0.0", "NUM_WORKERS": "8", TRIAL_SOCKET: str(tmp_path / "s")}
    options = read_options(Path("/c"), environ)
    assert (options.mock_testing, options.workers, options.trial_socket) == (True, 1, tmp_path / "s")
