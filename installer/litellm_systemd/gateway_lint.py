"""What LiteLLM boots through in silence: see `lint`."""

from __future__ import annotations

from collections.abc import Mapping

from litellm_systemd.gateway_model import Finding, GatewayConfig


def lint(config: GatewayConfig, environ: Mapping[str, str]) -> tuple[Finding, ...]:
    """All that is wrong with a configuration in the service's environment, errors first."""
    del config, environ
    return ()
