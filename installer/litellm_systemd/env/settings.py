"""`.env` to a validated, frozen `Settings`: the table of variables, and the checks that only install makes. Pure."""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from litellm_systemd.bedrock.models import looks_like_region
from litellm_systemd.contract import RETIRED_KEYS
from litellm_systemd.env import variables
from litellm_systemd.env.aws import check_aws, check_network, spare_metadata
from litellm_systemd.env.database import check_database, choose_database
from litellm_systemd.env.dotenv import MAX_TOTAL_BYTES, check_assignment
from litellm_systemd.env.dotenv import Dotenv as Dotenv
from litellm_systemd.env.dotenv import parse_dotenv as parse_dotenv
from litellm_systemd.env.dotenv import read_dotenv as read_dotenv
from litellm_systemd.env.load_balancer import check_load_balancer
from litellm_systemd.env.metrics import MetricsAddress, parse_metrics
from litellm_systemd.env.placeholders import is_known_key
from litellm_systemd.env.redis import check_redis
from litellm_systemd.env.retired_keys import digest_key, read_retired_keys
from litellm_systemd.env.secret_references import find_references, is_reference
from litellm_systemd.env.tls import TlsFiles, find_files
from litellm_systemd.env.variables import (
    AWS_REGION_NAME,
    CONFIG_FILE,
    EXAMPLE_KEY,
    MASTER_KEY,
    REFUSED_KEY,
    SALT_KEY,
    SHORT_KEY,
    check_runtime_variables,
    drop_unset,
    is_loopback,
)
from litellm_systemd.errors import InputError

REGION_VARIABLES = AWS_REGION_NAME.names
CONFIG_VARIABLE = CONFIG_FILE.name


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one `.env`.

    `environment` is the whole environment of the service, in the order of the file; the other fields are those of
    its values that the installer acts on. Times are seconds. `workers` is None for "one for each CPU", `tls` is None
    for plain HTTP, `metrics` without METRICS. Secrets don't show in `repr`.
    """

    environment: Mapping[str, str] = field(repr=False)
    host: str = variables.HOST.default
    port: int = variables.PORT.default
    workers: int | None = None
    config: str | None = None
    region: str | None = None
    start_timeout: float = variables.START_TIMEOUT.default
    drain_timeout: float = variables.DRAIN_TIMEOUT.default
    deregistration_delay: float = 0.0
    watchdog_timeout: float = variables.WATCHDOG_TIMEOUT.default
    tls: TlsFiles | None = None
    metrics: MetricsAddress | None = None
    allows_mock_testing: bool = False
    generated_key: str | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def master_key(self) -> str:
        """The key that clients send."""
        return self.environment[MASTER_KEY.name]

    @property
    def listen(self) -> str:
        """The address to listen on, as systemd and URLs write it: `127.0.0.1:4000`, `[::1]:4000`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        """Where a client on this host reaches the service."""
        return f"{'https' if self.tls else 'http'}://{replace(self, host=reachable(self.host)).listen}"


def reachable(host: str) -> str:
    """The address at which this host reaches itself, for an address to listen on."""
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        return "::1" if address.version == 6 else "127.0.0.1"
    return str(address)


def build_settings(
    dotenv: Dotenv, *, installed: Mapping[str, str], new_key: Callable[[], str], database: str | None = None
) -> Settings:
    """Validate the variables and work out the service's environment.

    Args:
        dotenv: the variables that the user wrote, or those that are installed already.
        installed: the environment that is installed now, empty if none is: a key that was generated is kept.
        new_key: gives a fresh master key.
        database: the URL of the database on this host, see `env.database.choose_database`.

    Raises:
        InputError: the first value that can't be used, with file, line and remedy.
    """
    values = choose_database(drop_unset(dotenv.values), installed, database, dotenv.where)
    check_runtime_variables(values, dotenv.where)
    host = variables.HOST.read(values)
    region = _region(dotenv, values)
    # Any region: install may complete it later.
    find_references({AWS_REGION_NAME.name: "any", **values}, dotenv.where)
    warnings = check_aws(dotenv, values)
    warnings += check_network(dotenv, values, region)
    key, generated = _master_key(dotenv, values, installed, new_key)
    warnings += _key_warnings(dotenv, key, host, is_given=bool(values.get(MASTER_KEY.name)))
    warnings += [exposed] if (exposed := exposure_warning(values)) else []
    warnings += check_load_balancer(values, dotenv.where)
    warnings += _metrics_warnings(dotenv, values)
    mocks = variables.allows_mock_testing(values, dotenv.where)
    warnings += [variables.MOCK_TESTING_WARNING] if mocks else []
    warnings += _proxy_warnings(dotenv, values)
    warnings += check_database(values, dotenv.where)
    warnings += check_redis(values, dotenv.where)
    direct, notes = spare_metadata(values)
    warnings += notes
    warnings += _keep_salt_key(dotenv, values, installed)
    environment = {**values, MASTER_KEY.name: key, **direct}
    if RETIRED_KEYS in installed:
        environment[RETIRED_KEYS] = installed[RETIRED_KEYS]  # an install does not end the overlap of a rotation
    if region is not None:
        environment.setdefault(AWS_REGION_NAME.name, region)
    _check_environment(dotenv, environment)
    return Settings(
        environment=environment,
        host=host,
        port=variables.PORT.read(values),
        workers=variables.NUM_WORKERS.read(values),
        config=CONFIG_FILE.read(values),
        region=region,
        start_timeout=variables.START_TIMEOUT.read(values),
        drain_timeout=variables.DRAIN_TIMEOUT.read(values),
        deregistration_delay=variables.find_deregistration_delay(values),
        watchdog_timeout=variables.WATCHDOG_TIMEOUT.read(values),
        tls=find_files(values),
        metrics=find_metrics(values),
        allows_mock_testing=mocks,
        generated_key=generated,
        warnings=tuple(warnings),
    )


def exposure_warning(values: Mapping[str, str]) -> str:
    """A warning if other machines reach the port over plain HTTP and no proxy is named; else an empty string."""
    host = variables.HOST.read(values)
    if is_loopback(host) or find_files(values) or variables.TRUSTED_PROXIES.read(values):
        return ""
    return (
        f"HOST={host} lets other machines connect over plain HTTP: keys and prompts cross the network unencrypted."
        f" Set {variables.TLS_CERT_FILE.name} and {variables.TLS_KEY_FILE.name}, or {variables.TRUSTED_PROXIES.name}"
        " to the proxy that adds HTTPS (docs/tls.md)."
    )


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
    """The key to use, and the same again if it was just generated."""
    name = MASTER_KEY.name
    key = values.get(name) or installed.get(name)
    if not key:
        key = new_key()
        return key, key
    if digest_key(key) in {each.digest for each in read_retired_keys(installed)}:
        raise InputError(
            f"{dotenv.where(name)}: {name} is an old key, which 'litellmctl rotate-key' has replaced",
            "Remove the line: the installed key stays.",
        )
    if key == REFUSED_KEY:
        raise InputError(
            f"{dotenv.where(name)}: {name}={key} is the key of every LiteLLM tutorial",
            "Remove the line, and a strong key is generated.",
        )
    # A key that is installed already stays: the doctor reports it.
    if name in dotenv.lines and is_known_key(key):
        raise InputError(
            f"{dotenv.where(name)}: {name} is a placeholder or a key of tutorials, which protects nothing",
            "Remove the line, and a strong key is generated.",
        )
    if key != key.strip() or not key.isascii() or not key.isprintable():
        # Such as a typographic quote of a document that it was copied from.
        named = (f": U+{ord(each):04X} {unicodedata.name(each, '')}".rstrip() for each in key if not each.isascii())
        reason = f"has spaces around it or a character that an HTTP header can't hold{next(named, '')}"
        raise InputError(
            f"{dotenv.where(name)}: {name} {reason}",
            "Use letters, digits, - and _.",
        )
    return key, None


def _key_warnings(dotenv: Dotenv, key: str, host: str, *, is_given: bool) -> list[str]:
    name = MASTER_KEY.name
    if key != EXAMPLE_KEY:
        if not is_given or len(key) >= SHORT_KEY or is_reference(key):
            return []
        return [
            f"{dotenv.where(name)}: {name} has fewer than {SHORT_KEY} characters: it can be guessed. Write a longer"
            " one, such as the output of: openssl rand -hex 24"
        ]
    if not is_loopback(host):
        raise InputError(
            f"{dotenv.where(name)}: the example key {EXAMPLE_KEY} can't guard HOST={host}, which other machines"
            " reach",
            f"Remove {name} and a strong key is generated, or set HOST=127.0.0.1.",
        )
    return [f"{name} is the example key {EXAMPLE_KEY}: anyone on this host knows it."]


def find_metrics(values: Mapping[str, str]) -> MetricsAddress | None:
    """The address of METRICS, None if it is unset."""
    address = variables.METRICS.read(values)
    return None if address is None else parse_metrics(address)


def _keep_salt_key(dotenv: Dotenv, values: dict[str, str], installed: Mapping[str, str]) -> list[str]:
    """Add the installed salt key to `values`, and return warnings about a new one.

    Raises:
        InputError: `values` has another one than the installed one.
    """
    name = SALT_KEY.name
    kept, given = installed.get(name), values.get(name)
    if not kept:
        if not given or is_reference(given) or (len(given) >= SHORT_KEY and not is_known_key(given)):
            return []
        return [
            f"{dotenv.where(name)}: {name} can be guessed: it is a placeholder or has fewer than {SHORT_KEY}"
            " characters. If nothing is encrypted with it yet, remove the line: a strong key is generated."
        ]
    if given not in (None, kept):
        raise InputError(
            f"{dotenv.where(name)}: {name} is not the installed key: the credentials and models that are stored in"
            " the database would become unreadable",
            'Remove the line: the installed key stays. To change it on purpose: docs/database.md, "Salt key".',
        )
    values[name] = kept
    return []


def _metrics_warnings(dotenv: Dotenv, values: Mapping[str, str]) -> list[str]:
    """Warn of a METRICS_KEY that is missing, has no effect or can be guessed."""
    name, address = variables.METRICS_KEY.name, find_metrics(values)
    key = variables.METRICS_KEY.read(values) or ""
    if address is None:
        return [f"{dotenv.where(name)}: {name} has no effect without METRICS."] if key else []
    if address.is_open:
        return []
    if not key:
        return [
            f"METRICS={address.listen} lets other machines connect over plain HTTP, and without {name} Prometheus has"
            f" to send the master key. Set {name}."
        ]
    if is_reference(key) or (len(key) >= SHORT_KEY and not is_known_key(key)):
        return []
    return [
        f"{dotenv.where(name)}: {name} can be guessed: it is a placeholder or has fewer than {SHORT_KEY} characters."
        " Write a longer one, such as the output of: openssl rand -hex 24"
    ]


def _proxy_warnings(dotenv: Dotenv, values: Mapping[str, str]) -> list[str]:
    name, ours = "FORWARDED_ALLOW_IPS", variables.TRUSTED_PROXIES.name
    if name not in values or ours in values:
        return []
    return [f"{dotenv.where(name)}: {name}, a variable of uvicorn, has no effect here. Use {ours}."]


def _check_environment(dotenv: Dotenv, environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        check_assignment(name, value, dotenv.where(name))
    if sum(len(f"{name}={value}".encode()) + 1 for name, value in environment.items()) > MAX_TOTAL_BYTES:
        raise InputError(
            f"{dotenv.source}: more than the kernel passes to a program (1.5 MiB in all)",
            "Keep large values in files and name the files.",
        )
