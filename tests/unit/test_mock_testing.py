"""ALLOW_MOCK_TESTING: where it is accepted, and LiteLLM's configuration with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from litellm_systemd.contract import TRIAL_SOCKET
from litellm_systemd.env.settings import Settings, build_settings, parse_dotenv
from litellm_systemd.env.variables import MOCK_TESTING_WARNING
from litellm_systemd.errors import InputError
from litellm_systemd.runtime.options import MOCK_TESTING_SETTING, load_configuration, read_options

MODELS = "model_list: [{model_name: demo, litellm_params: {model: openai/demo, mock_response: hello}}]\n"
ENVIRON = {"LITELLM_MASTER_KEY": "sk-test-0123456789abcdef"}


def settings(env: str) -> Settings:
    return build_settings(parse_dotenv(env, ".env"), installed={}, new_key=lambda: "sk-made")


@pytest.mark.parametrize("host", ["", "HOST=localhost\n", "HOST=127.0.0.1\n", "HOST=::1\n", "HOST=127.8.0.1\n"])
def test_accepted_on_loopback_with_a_warning(host: str) -> None:
    """A gateway on loopback accepts it, and the installer warns what it means."""
    found = settings(f"{host}ALLOW_MOCK_TESTING=true\n")
    assert found.allows_mock_testing
    assert MOCK_TESTING_WARNING in found.warnings
    assert "every client can make models fail" in MOCK_TESTING_WARNING


@pytest.mark.parametrize("word", ["false", "0", "no", ""])
def test_switched_off(word: str) -> None:
    """A value for no is the same as no line, whatever address the gateway listens on."""
    found = settings(f"HOST=0.0.0.0\nALLOW_MOCK_TESTING={word}\n")
    assert not found.allows_mock_testing
    assert MOCK_TESTING_WARNING not in found.warnings


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "*"])
def test_refused_on_other_addresses(host: str) -> None:
    """If other machines can reach the gateway, it is refused with the line and the remedy by the installer, and by
    the service for an edited installed file.
    """
    with pytest.raises(InputError) as refused:
        settings(f"HOST={host}\nALLOW_MOCK_TESTING=true\n")
    assert refused.value.message.startswith(".env:2: ALLOW_MOCK_TESTING=true")
    assert "set HOST=127.0.0.1" in refused.value.hint
    with pytest.raises(InputError, match="ALLOW_MOCK_TESTING"):
        read_options(Path("/c"), {**ENVIRON, "HOST": host, "ALLOW_MOCK_TESTING": "yes"})


def test_invalid_value(tmp_path: Path) -> None:
    """A value that is neither yes nor no is refused with its line."""
    with pytest.raises(InputError, match=r"^.env:1: ALLOW_MOCK_TESTING=maybe is neither true nor false$"):
        settings("ALLOW_MOCK_TESTING=maybe\n")


def test_configuration_files_stay_unchanged(tmp_path: Path) -> None:
    """LiteLLM gets the configuration with one more setting, whatever files it includes; the files do not change."""
    main, more = tmp_path / "config.yaml", tmp_path / "more.yaml"
    main.write_text("include: [more.yaml]\ngeneral_settings: {master_key: os.environ/LITELLM_MASTER_KEY}\n" + MODELS)
    more.write_text(MODELS.replace("demo", "other"))
    before = main.read_text()
    loaded = load_configuration(main, {**ENVIRON, "ALLOW_MOCK_TESTING": "true"})
    served = yaml.safe_load(loaded.texts[str(main)])
    assert list(loaded.texts) == [str(main)]
    assert served["general_settings"] == {"master_key": "os.environ/LITELLM_MASTER_KEY", MOCK_TESTING_SETTING: True}
    assert [model["model_name"] for model in served["model_list"]] == ["demo", "other"]
    assert "include" not in served
    assert main.read_text() == before
    assert loaded.digest == load_configuration(main, ENVIRON).digest


def test_throwaway_instances_have_it(tmp_path: Path) -> None:
    """An instance on a private socket has mock testing whatever HOST is, and one worker."""
    environ = {**ENVIRON, "HOST": "0.0.0.0", "NUM_WORKERS": "8", TRIAL_SOCKET: str(tmp_path / "s")}
    options = read_options(Path("/c"), environ)
    assert (options.mock_testing, options.workers, options.trial_socket) == (True, 1, tmp_path / "s")
