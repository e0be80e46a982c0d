"""How long LiteLLM waits for a model, against the times of a load balancer and of a stop. Pure.

`Router._get_timeout` takes the first of these that is set: the parameters of the model,
litellm_settings.request_timeout, the variable REQUEST_TIMEOUT, router_settings.timeout, 6000 seconds. HTTP clients
apply it to each wait for a byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil, isfinite

from litellm_systemd.env.load_balancer import KEEPALIVE_MARGIN, read_times
from litellm_systemd.errors import InputError
from litellm_systemd.gateway.config_types import ENVIRONMENT, GatewayConfig, KeyPath, LintFinding, resolve_reference

#: Seconds: DEFAULT_REQUEST_TIMEOUT_SECONDS in litellm/constants.py.
_DEFAULT = 6000.0
_COMMON: KeyPath = ("litellm_settings", "request_timeout")
_VARIABLE = "REQUEST_TIMEOUT"
#: Seconds by which the load balancer should wait longer, so that the client gets the error of the gateway.
_MARGIN = 10
_OF_MODEL = ("timeout", "request_timeout", "stream_timeout")


def timeout_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Waits that are longer than the load balancer's, so that it answers 504, or than a drain, which cuts them."""
    try:
        times = read_times(environ)
    except InputError:
        return  # an install refuses it with the line of .env
    if not times.is_behind:
        return
    for path, seconds in _waits(config, environ):
        is_default = seconds == _DEFAULT and path == _COMMON
        subject = f"is {'not set, which means ' if is_default else ''}{seconds:.9g} s"
        lower = "set a lower one" if is_default else "lower it"
        if seconds > times.idle:
            longer = ceil(seconds) + _MARGIN
            message = (
                f"{subject}, and the load balancer ends a request without a byte for"
                f" LOAD_BALANCER_IDLE_TIMEOUT={times.idle:.9g} s"
            )
            remedy = (
                f"Set {longer} s in the load balancer, LOAD_BALANCER_IDLE_TIMEOUT={longer} and"
                f" KEEPALIVE_TIMEOUT={longer + KEEPALIVE_MARGIN} in .env, or {lower}."
            )
            yield config.warning("longer-than-balancer", path, message, remedy)
        if seconds > times.drain:
            message = f"{subject}, and a stop ends requests after DRAIN_TIMEOUT={times.drain:.9g} s"
            remedy = f"Set DRAIN_TIMEOUT={ceil(seconds)} in .env, or {lower}."
            yield config.warning("longer-than-drain", path, message, remedy)


def _waits(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[tuple[KeyPath, float]]:
    """The waits that the configuration sets, and the one of all models without an own one."""
    uses_common = False
    for model in config.models:
        if model.mocked:
            continue
        params = config.called_params(model)
        own = [(name, seconds) for name in _OF_MODEL if (seconds := _seconds(params.get(name), environ))]
        for name, seconds in own:
            yield config.param_path(model, name), seconds
        uses_common = uses_common or not {"timeout", "request_timeout"} & {name for name, _ in own}
    if uses_common:
        yield _common(config, environ)


def _common(config: GatewayConfig, environ: Mapping[str, str]) -> tuple[KeyPath, float]:
    places: tuple[tuple[KeyPath, object], ...] = (
        (_COMMON, config.section("litellm_settings").get("request_timeout")),
        ((ENVIRONMENT, _VARIABLE), environ.get(_VARIABLE)),
        (("router_settings", "timeout"), config.section("router_settings").get("timeout")),
    )
    found = ((path, seconds) for path, value in places if (seconds := _seconds(value, environ)))
    return next(found, (_COMMON, _DEFAULT))


def _seconds(value: object, environ: Mapping[str, str]) -> float | None:
    """The seconds of a setting; None if it has no number, which another rule reports, or an infinite one."""
    if isinstance(value, bool):
        return None
    try:
        seconds = float(value if isinstance(value, int | float) else resolve_reference(value, environ) or "")
    except (ValueError, OverflowError):
        return None
    return seconds if isfinite(seconds) else None
