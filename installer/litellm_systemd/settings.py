"""`.env` to a validated, frozen `Settings`. Pure but for reading the one file that it is given."""

from __future__ import annotations

import io
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from litellm_systemd import contract
from litellm_systemd.bedrock_regions import looks_like_region
from litellm_systemd.environment_file import MAX_TOTAL_BYTES, check_assignment
from litellm_systemd.errors import InputError, MissingError, PermissionDenied

PLACEHOLDER_KEY = "sk-litellm-test-key"
REFUSED_KEYS = frozenset({"sk-1234"})
REGION_VARIABLES = ("AWS_REGION_NAME", "AWS_REGION", "AWS_DEFAULT_REGION")
CONFIG_VARIABLE = "CONFIG_FILE"

#: An empty value of these means "not set" to whoever wrote it, and something else to boto3, LiteLLM or systemd.
EMPTY_IS_UNSET = frozenset(
    {
        *REGION_VARIABLES,
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ROLE_NAME"),
        *("AWS_PROFILE_NAME", "AWS_SESSION_NAME", "AWS_STS_ENDPOINT", "AWS_EXTERNAL_ID", "AWS_WEB_IDENTITY_TOKEN"),
        *("AWS_BEARER_TOKEN_BEDROCK", "AWS_BEDROCK_RUNTIME_ENDPOINT", "AWS_ENDPOINT_URL"),
        *(contract.MASTER_KEY, contract.HOST, contract.PORT, contract.NUM_WORKERS, CONFIG_VARIABLE),
        *(contract.START_TIMEOUT, contract.DRAIN_TIMEOUT, contract.LAME_DUCK_TIMEOUT),
        *(contract.WATCHDOG_TIMEOUT, contract.KEEPALIVE_TIMEOUT, *contract.RECYCLING_RANGES),
        *("OPENAI_API_KEY", "OPENAI_API_BASE", "DATABASE_URL", "DIRECT_URL", "UI_USERNAME", "UI_PASSWORD"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"),
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


@dataclass(frozen=True, slots=True)
class Dotenv:
    """The variables of one file, and the line that each was last set on."""

    source: str
    values: Mapping[str, str] = field(repr=False)
    lines: Mapping[str, int] = field(repr=False, default_factory=dict)

    def where(self, name: str) -> str:
        """Name the place of a variable to a user: `.env:12`, or just the file."""
        line = self.lines.get(name)
        return self.source if line is None else f"{self.source}:{line}"


def read_dotenv(path: Path) -> Dotenv:
    """Read a `.env` as python-dotenv does, with a byte order mark and CRLF allowed.

    Raises:
        MissingError: there is no such file.
        PermissionDenied: it can't be read.
        InputError: it isn't UTF-8, or a line isn't an assignment (python-dotenv would skip it in silence).
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file", "Write one with 'litellmctl init', or name yours.") from None
    except PermissionError:
        raise PermissionDenied(f"{path}: can't be read by this user", "Run it with sudo.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder", "Name the file in it.") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: not UTF-8 text", "Save the file as UTF-8.") from None
    return parse_dotenv(text, str(path))


def parse_dotenv(text: str, source: str) -> Dotenv:
    """Parse the text of a `.env`; see `read_dotenv`."""
    lines = {}
    for binding in parse_stream(io.StringIO(text)):
        blank = len(binding.original.string) - len(binding.original.string.lstrip())
        line = binding.original.line + binding.original.string[:blank].count("\n")
        if binding.error:
            raise InputError(
                f"{source}:{line}: not an assignment: {_masked_line(binding.original.string)}",
                "Write NAME=value; put a value with spaces, quotes or # in quotes and close them.",
            )
        if binding.key is not None:
            lines[binding.key] = line
    values = dotenv_values(stream=io.StringIO(text))
    return Dotenv(source, {name: value for name, value in values.items() if value is not None}, lines)


def _masked_line(text: str) -> str:
    """The name that a line begins with, never its value: it may be a key."""
    head = text.strip().splitlines()[0]
    return repr(head.split("=")[0][:40] + ("=…" if "=" in head else ""))


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
    _check_aws_keys(dotenv, values)
    region = _region(dotenv, values)
    key, generated = _master_key(dotenv, values, installed, new_key)
    warnings += _key_warnings(dotenv, key, host)
    environment = {**values, contract.MASTER_KEY: key}
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


def _check_aws_keys(dotenv: Dotenv, values: Mapping[str, str]) -> None:
    pair = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    present = [name for name in pair if name in values]
    if len(present) == 1:
        missing = pair[1 - pair.index(present[0])]
        raise InputError(
            f"{dotenv.where(present[0])}: {present[0]} is set and {missing} is not",
            f"Set {missing} too, or remove both to use the IAM role of the instance.",
        )
    for name in (*present, *(["AWS_SESSION_TOKEN"] if "AWS_SESSION_TOKEN" in values else [])):
        if re.search(r"[\s\"'<>]", values[name]):
            raise InputError(
                f"{dotenv.where(name)}: {name} holds a space, a quote or a bracket, which no key has",
                "Copy the value again, without what surrounds it.",
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
