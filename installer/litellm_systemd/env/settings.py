"""`.env` to a validated, frozen `Settings`. Pure but for reading the one file that it is given."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from litellm_systemd import contract
from litellm_systemd.bedrock.regions import looks_like_region
from litellm_systemd.env import mock_testing
from litellm_systemd.env.aws import CREDENTIAL_VARIABLES, check_aws
from litellm_systemd.env.dotenv import Dotenv as Dotenv
from litellm_systemd.env.dotenv import parse_dotenv as parse_dotenv
from litellm_systemd.env.dotenv import read_dotenv as read_dotenv
from litellm_systemd.env.environment_file import MAX_TOTAL_BYTES, check_assignment
from litellm_systemd.env.network import (
    ENDPOINT_VARIABLES,
    FILE_VARIABLES,
    PROXY_VARIABLES,
    check_network,
    spare_metadata,
)
from litellm_systemd.errors import InputError

PLACEHOLDER_KEY = "sk-litellm-test-key"
REFUSED_KEYS = frozenset({"sk-1234"})
REGION_VARIABLES = ("AWS_REGION_NAME", "AWS_REGION", "AWS_DEFAULT_REGION")
CONFIG_VARIABLE = "CONFIG_FILE"

#: An empty value of these means "not set" to whoever wrote it, and something else to boto3, LiteLLM or systemd.
EMPTY_IS_UNSET = frozenset(
    {
        *REGION_VARIABLES,
        *CREDENTIAL_VARIABLES,
        *ENDPOINT_VARIABLES,
        *(contract.MASTER_KEY, contract.HOST, contract.PORT, contract.NUM_WORKERS, CONFIG_VARIABLE),
        *(contract.START_TIMEOUT, contract.DRAIN_TIMEOUT, contract.LAME_DUCK_TIMEOUT, contract.ALLOW_MOCK_TESTING),
        *(contract.WATCHDOG_TIMEOUT, contract.KEEPALIVE_TIMEOUT, *contract.RECYCLING_RANGES),
        *("OPENAI_API_KEY", "OPENAI_API_BASE", "DATABASE_URL", "DIRECT_URL", "UI_USERNAME", "UI_PASSWORD"),
        *(*PROXY_VARIABLES, "NO_PROXY", "no_proxy", *FILE_VARIABLES),
    }
)

#: LiteLLM leaves with exit 1 when one of these is set and Prisma's engine isn't there. The engine comes from a
#: host of its own and can't be part of a release; so the database stays off, and the user is told.
DATABASE_VARIABLES = ("DATABASE_URL", "DIRECT_URL", "DATABASE_URL_READ_REPLICA", "DATABASE_HOST")


@dataclass(frozen=True, slots=True)
class Settings:
    """What one `.env` asks for.

    `environment` is the whole environment of the service, in the order of the file; the other fields are those of
    its values that the installer acts on. Times are whole seconds. `workers` is None for "one for each CPU".
    Secrets don't show in `repr`.
    """

    environment: Mapping[str, str] = field(repr=False)
    host: str = contract.DEFAULT_HOST
    port: int = contract.DEFAULT_PORT
    workers: int | None = None
    config: str | None = None
    region: str | None = None
    start_timeout: int = contract.DEFAULT_START_TIMEOUT
    drain_timeout: int = contract.DEFAULT_DRAIN_TIMEOUT
    watchdog_timeout: int = contract.DEFAULT_WATCHDOG_TIMEOUT
    allows_mock_testing: bool = False
    generated_key: str | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def master_key(self) -> str:
        """The key that clients send."""
        return self.environment[contract.MASTER_KEY]

    @property
    def listen(self) -> str:
        """The address to listen on, as systemd and URLs write it: `127.0.0.1:4000`, `[::1]:4000`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        """Where a client on this host reaches the service."""
        address = ipaddress.ip_address(self.host)
        if address.is_unspecified:
            address = ipaddress.ip_address("::1" if address.version == 6 else "127.0.0.1")
        return f"http://{replace(self, host=str(address)).listen}"


def build_settings(dotenv: Dotenv, *, installed: Mapping[str, str], new_key: Callable[[], str]) -> Settings:
    """Validate the variables and work out the service's environment.

    Args:
        dotenv: the variables that the user wrote, or those that are installed already.
        installed: the environment that is installed now, empty if none is: a key that was generated is kept.
        new_key: gives a fresh master key.

    Raises:
        InputError: the first value that can't be used, with file, line and remedy.
    """
    values = {name: value for name, value in dotenv.values.items() if value or name not in EMPTY_IS_UNSET}
    warnings = _leave_out_database(values)
    host, port = (
        _host(dotenv, values),
        _number(dotenv, values, contract.PORT, contract.DEFAULT_PORT, 1, 65_535),
    )
    for name, (least, most) in contract.RECYCLING_RANGES.items():
        _number(dotenv, values, name, 0, least, most)
    region = _region(dotenv, values)
    warnings += check_aws(dotenv, values)
    warnings += check_network(dotenv, values, region)
    key, generated = _master_key(dotenv, values, installed, new_key)
    warnings += _key_warnings(dotenv, key, host)
    mocks = mock_testing.allows_mock_testing(values, dotenv.where)
    warnings += [mock_testing.WARNING] if mocks else []
    direct, notes = spare_metadata(values)
    warnings += notes
    environment = {**values, contract.MASTER_KEY: key, **direct}
    if region is not None:
        environment.setdefault("AWS_REGION_NAME", region)
    _check_environment(dotenv, environment)
    return Settings(
        environment=environment,
        host=host,
        port=port,
        workers=_number(dotenv, values, contract.NUM_WORKERS, 0, 1, 512) or None,
        config=values.get(CONFIG_VARIABLE),
        region=region,
        start_timeout=_seconds(dotenv, values, contract.START_TIMEOUT, contract.DEFAULT_START_TIMEOUT),
        drain_timeout=_seconds(dotenv, values, contract.DRAIN_TIMEOUT, contract.DEFAULT_DRAIN_TIMEOUT),
        watchdog_timeout=_seconds(dotenv, values, contract.WATCHDOG_TIMEOUT, contract.DEFAULT_WATCHDOG_TIMEOUT),
        allows_mock_testing=mocks,
        generated_key=generated,
        warnings=tuple(warnings),
    )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach the address."""
    return ipaddress.ip_address(host).is_loopback


def _leave_out_database(values: dict[str, str]) -> list[str]:
    """Take the database variables out of `values`; say so."""
    found = [name for name in DATABASE_VARIABLES if values.pop(name, None)]
    if not found:
        return []
    return [
        f"{' and '.join(found)} is not passed to the service: LiteLLM's database needs Prisma's engine, which no"
        " release of this installer has. Virtual keys and the Admin UI's log-in are off."
    ]


def _host(dotenv: Dotenv, values: Mapping[str, str]) -> str:
    text = values.get(contract.HOST, contract.DEFAULT_HOST).strip()
    text = {"localhost": "127.0.0.1", "*": "0.0.0.0"}.get(text, text.strip("[]"))  # noqa: S104
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise InputError(
            f"{dotenv.where(contract.HOST)}: HOST={text} is not an IP address",
            "Use 127.0.0.1 for this machine alone, 0.0.0.0 for every interface, or the address of one.",
        ) from None


def _number(dotenv: Dotenv, values: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = values.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,9}", text.strip()) or not least <= int(text) <= most:
        raise InputError(
            f"{dotenv.where(name)}: {name}={text} is not a whole number from {least} to {most}",
            f"Mend the line, or remove it for the default{f' ({default})' if default else ''}.",
        )
    return int(text)


def _seconds(dotenv: Dotenv, values: Mapping[str, str], name: str, default: int) -> int:
    return _number(dotenv, values, name, default, 5, 86_400)


def _region(dotenv: Dotenv, values: Mapping[str, str]) -> str | None:
    for name in REGION_VARIABLES:
        if (region := values.get(name)) is not None:
            if not looks_like_region(region):
                raise InputError(
                    f"{dotenv.where(name)}: {name}={region} doesn't look like an AWS region",
                    "Write it as AWS does: us-east-1, eu-central-1, ap-northeast-1.",
                )
            return region
    return None


def _master_key(
    dotenv: Dotenv, values: Mapping[str, str], installed: Mapping[str, str], new_key: Callable[[], str]
) -> tuple[str, str | None]:
    """The key to use, and the same again if it was made just now."""
    key = values.get(contract.MASTER_KEY) or installed.get(contract.MASTER_KEY)
    if not key:
        key = new_key()
        return key, key
    if key in REFUSED_KEYS:
        raise InputError(
            f"{dotenv.where(contract.MASTER_KEY)}: {contract.MASTER_KEY}={key} is the key of every LiteLLM tutorial",
            "Remove the line, and a strong key is generated.",
        )
    if key != key.strip() or not key.isascii():
        raise InputError(
            f"{dotenv.where(contract.MASTER_KEY)}: {contract.MASTER_KEY} has spaces around it or a character that"
            " an HTTP header can't hold",
            "Use letters, digits, - and _.",
        )
    return key, None


def _key_warnings(dotenv: Dotenv, key: str, host: str) -> list[str]:
    if key != PLACEHOLDER_KEY:
        return []
    if not is_loopback(host):
        raise InputError(
            f"{dotenv.where(contract.MASTER_KEY)}: the example key {PLACEHOLDER_KEY} can't guard HOST={host}, which"
            " other machines reach",
            f"Remove {contract.MASTER_KEY} and a strong key is generated, or set HOST=127.0.0.1.",
        )
    return [f"{contract.MASTER_KEY} is the example key {PLACEHOLDER_KEY}: anyone on this host knows it."]


def _check_environment(dotenv: Dotenv, environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        check_assignment(name, value, dotenv.where(name))
    if sum(len(f"{name}={value}".encode()) + 1 for name, value in environment.items()) > MAX_TOTAL_BYTES:
        raise InputError(
            f"{dotenv.source}: more than the kernel passes to a program (1.5 MiB in all)",
            "Keep large values in files and name the files.",
        )
