"""LiteLLM's switch for requests that make a model fail on purpose: who may have it, and how it is turned on.

With it every client can make the gateway fail, and pass over the models that were meant to answer. So it is for a
gateway that only this machine reaches, and for the throwaway instance of `litellmctl verify --fallbacks`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from litellm_systemd.contract import ALLOW_MOCK_TESTING, DEFAULT_HOST, HOST, TRIAL_SOCKET
from litellm_systemd.errors import InputError

#: In general_settings (litellm/proxy/route_llm_request.py).
SETTING = "dangerously_allow_mock_testing_request_params"
WARNING = (
    f"{ALLOW_MOCK_TESTING}=true: every client can make models fail by mock_testing_* parameters. Remove it outside of"
    " development."
)

_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


def allows_mock_testing(values: Mapping[str, str], where: Callable[[str], str] = str) -> bool:
    """Whether the variables ask for it; `where` names the place of a variable to the user.

    Raises:
        InputError: the value is no word for yes or no, or other machines reach the gateway.
    """
    if values.get(TRIAL_SOCKET):
        return True
    text = values.get(ALLOW_MOCK_TESTING, "")
    wanted = _WORDS.get(text.strip().lower())
    if wanted is None:
        raise InputError(
            f"{where(ALLOW_MOCK_TESTING)}: {ALLOW_MOCK_TESTING}={text} is neither true nor false",
            "Remove the line: it is for development.",
        )
    host = values.get(HOST) or DEFAULT_HOST
    if wanted and not _is_loopback(host):
        raise InputError(
            f"{where(ALLOW_MOCK_TESTING)}: {ALLOW_MOCK_TESTING}=true lets every client make models fail, and other"
            f" machines reach HOST={host}",
            f"Remove {ALLOW_MOCK_TESTING}, or set HOST=127.0.0.1.",
        )
    return wanted


def _is_loopback(host: str) -> bool:
    if host.strip() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip().strip("[]")).is_loopback
    except ValueError:
        return False


def render_allowing(document: Mapping[str, Any]) -> str:
    """The text of a LiteLLM configuration, its included files merged in, with the switch turned on."""
    settings = document.get("general_settings")
    general = {**(settings if isinstance(settings, Mapping) else {}), SETTING: True}
    merged = {name: value for name, value in document.items() if name != "include"}
    return yaml.safe_dump({**merged, "general_settings": general}, sort_keys=False, allow_unicode=True)
