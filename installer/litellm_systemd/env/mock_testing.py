"""LiteLLM's switch for requests that make a model fail on purpose: when it is allowed, and how it is turned on.

With the switch on, every client can make models fail and force fallbacks. Only a gateway on loopback and the
temporary instance of `litellmctl verify --fallbacks` may use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from litellm_systemd.contract import TRIAL_SOCKET
from litellm_systemd.env.variables import ALLOW_MOCK_TESTING, HOST, is_loopback
from litellm_systemd.errors import InputError

#: In general_settings (litellm/proxy/route_llm_request.py).
SETTING = "dangerously_allow_mock_testing_request_params"
WARNING = (
    f"{ALLOW_MOCK_TESTING.name}=true: every client can make models fail with mock_testing_* parameters. Remove it"
    " outside development."
)


def allows_mock_testing(values: Mapping[str, str], where: Callable[[str], str] | None = None) -> bool:
    """Whether the variables allow mock testing.

    Args:
        values: variables by name.
        where: returns the position of a variable for messages, such as `.env:12`.

    Raises:
        InputError: the value is not a switch, or other machines can reach the gateway.
    """
    if values.get(TRIAL_SOCKET):
        return True
    wanted, host, name = ALLOW_MOCK_TESTING.read(values, where), HOST.read(values, where), ALLOW_MOCK_TESTING.name
    if wanted and not is_loopback(host):
        position = "" if where is None else f"{where(name)}: "
        raise InputError(
            f"{position}{name}=true lets every client make models fail, and other machines can reach HOST={host}",
            f"Remove {name}, or set HOST=127.0.0.1.",
        )
    return wanted


def render_allowing(document: Mapping[str, Any]) -> str:
    """The text of a LiteLLM configuration, its included files merged in, with the switch turned on."""
    settings = document.get("general_settings")
    general = {**(settings if isinstance(settings, Mapping) else {}), SETTING: True}
    merged = {name: value for name, value in document.items() if name != "include"}
    return yaml.safe_dump({**merged, "general_settings": general}, sort_keys=False, allow_unicode=True)
