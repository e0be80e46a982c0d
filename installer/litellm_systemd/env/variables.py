"""The table of variables: everything that install, the runtime or the doctor reads from a `.env`, defined once.

To add a variable, add one `Variable` here and run `python -m litellm_systemd.env`, which writes configs/env.example
and docs/variables.md. If the runtime reads it, set `runtime=True`: install then refuses exactly what the runtime
refuses.

The runtime imports this module, so it needs nothing but the standard library and our own errors.
"""

from __future__ import annotations

import ipaddress
import os.path
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

from litellm_systemd.contract import TRIAL_SOCKET
from litellm_systemd.env.metrics import parse_host, parse_metrics
from litellm_systemd.errors import InputError

T_co = TypeVar("T_co", covariant=True)

#: One day, the upper limit of most times.
_DAY = 86_400
_NINE_DIGITS = 999_999_999

#: LiteLLM refuses the first one itself (proxy/auth/master_key_boot_check.py). The second one is the workshop's.
REFUSED_KEY = "sk-1234"
EXAMPLE_KEY = "sk-litellm-test-key"
#: What the sandbox of the service hides: ProtectHome=yes and PrivateTmp=yes in units/litellm.service.j2.
HIDDEN = re.compile(r"/(home|root|run/user|tmp|var/tmp)(?:/|$)")
#: Characters. A client that guesses keys finds a shorter one; a generated key has 46.
SHORT_KEY = 20


@dataclass(frozen=True, slots=True)
class ValueType(Generic[T_co]):
    """How the text of a value is read.

    `label` and `range` describe the type in the reference. `refusal` completes the message about a bad value
    ("PORT=x ..."). `parse` raises ValueError. `strips`: white space around the value has no meaning, and a blank
    value is unset.
    """

    label: str
    refusal: str
    parse: Callable[[str], T_co]
    remedy: str = "Correct the value"
    strips: bool = True
    range: str = ""


def whole_number(least: int, most: int) -> ValueType[int]:
    """Digits alone: no sign, no unit, no separators."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"0*[0-9]{1,9}", text) or not least <= int(text[-9:]) <= most:
            raise ValueError(text)
        return int(text[-9:])

    refusal = f"is not a whole number from {least} to {most}"
    return ValueType("whole number", refusal, parse, range=f"{least} to {most}")


def seconds(least: float, most: float = _DAY) -> ValueType[float]:
    """Seconds, with decimals or without: no sign, no exponent, no separators."""

    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+", text) or not least <= float(text) <= most:
            raise ValueError(text)
        return float(text)

    limits = f"{least:.9g} to {most:.9g}"
    return ValueType("seconds", f"is not a number of seconds from {limits}", parse, range=limits)


_SWITCH_WORDS = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)
_LOG_LEVELS = frozenset({"CRITICAL", "FATAL", "ERROR", "WARNING", "WARN", "INFO", "DEBUG", "NOTSET"})


def _parse_switch(text: str) -> bool:
    try:
        return _SWITCH_WORDS[text.lower()]
    except KeyError:
        raise ValueError(text) from None


def _parse_plain_switch(text: str) -> bool:
    try:
        return {"true": True, "false": False}[text.lower()]
    except KeyError:
        raise ValueError(text) from None


def _parse_certificate_check(text: str) -> str:
    if text not in ("required", "optional", "none"):
        raise ValueError(text)
    return text


def _parse_key(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(text)
    return text


def _parse_networks(text: str) -> tuple[str, ...]:
    if "%" in text:  # a zone, as in fe80::1%eth0, which no peer address has
        raise ValueError(text)
    return tuple(str(ipaddress.ip_network(each.strip())) for each in text.split(",") if each.strip())


def _parse_path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(text)
    return text


def _parse_credential_path(text: str) -> str:
    # A line of the unit has this path: no line break, no continuation, and only the form that systemd accepts.
    if not text.startswith("/") or text.startswith("//") or text != os.path.normpath(text):
        raise ValueError(text)
    if not text.isprintable() or text.endswith("\\"):
        raise ValueError(text)
    return text


def _parse_level(text: str) -> str:
    if text.upper() not in _LOG_LEVELS:
        raise ValueError(text)
    return text.upper()


SWITCH = ValueType("true or false", "is neither true nor false", _parse_switch, "Write true or false")
ADDRESS = ValueType(
    "IP address",
    "is not an IP address",
    parse_host,
    "Use 127.0.0.1 for this machine alone, 0.0.0.0 for every interface, or the address of one interface",
)
METRICS_ADDRESS = ValueType(
    "IP address and port, or UNIX socket",
    "is neither an IP address with a port nor the path of a UNIX socket",
    lambda text: parse_metrics(text).listen,
    "Write 127.0.0.1:9400 for this machine alone, 0.0.0.0:9400 for every interface, or a path outside of /run/litellm"
    " such as /run/litellm-metrics.sock",
)
NETWORKS = ValueType(
    "addresses and networks",
    "is not a list of IP addresses and networks",
    _parse_networks,
    "Write addresses such as 10.0.1.7 and networks such as 10.0.0.0/16, separated by commas",
)
KEY = ValueType(
    "text", "has a space or a character that an HTTP header can't hold", _parse_key, "Use letters, digits, - and _"
)
PATH = ValueType("absolute path", "is not an absolute path", _parse_path, "Write the whole path", strips=False)
#: A file that systemd reads as root and passes to the service, which needs no access to the path itself.
CREDENTIAL_PATH = ValueType(
    "absolute path", "is not an absolute path", _parse_credential_path, "Write the whole path, without . and .."
)
#: LiteLLM knows fewer words for its own switches.
PLAIN_SWITCH = ValueType("true or false", "is neither true nor false", _parse_plain_switch, "Write true or false")
CERTIFICATE_CHECK = ValueType(
    "required, optional or none",
    "is none of required, optional and none",
    _parse_certificate_check,
    "Write required, or none to accept any certificate",
)
#: LiteLLM looks the word up in Python's logging module and does not start with any other.
LOG_LEVEL = ValueType(
    "ERROR, WARNING, INFO or DEBUG",
    "is not a log level",
    _parse_level,
    "Use ERROR, WARNING, INFO or DEBUG",
    strips=False,
)
# Install alone checks the content of these: see `Variable.install_check`.
TEXT = ValueType("text", "", str, strips=False)
REGION = ValueType("AWS region", "", str, strips=False)
ENDPOINT_URL = ValueType("URL of an endpoint", "", str, strips=False)
PROXY_URL = ValueType("URL of a proxy", "", str, strips=False)


class Section(Enum):
    """The sections of configs/env.example and of the reference: title and introduction."""

    GATEWAY = "The gateway", ""
    BEDROCK = "Amazon Bedrock", ""
    CREDENTIALS = ("Credentials for AWS", "With the IAM role of an EC2 instance, set none of these.")
    NETWORK = "Network path to AWS", "For hosts that do not reach AWS over the open internet."
    SERVICE = "Processes and time limits", "The defaults suit most hosts."
    LOAD_BALANCER = ("Behind a load balancer", "For one of several instances (docs/load-balancer.md).")
    LIMITS = (
        "Limits for clients",
        "They hold before the key is checked. The defaults suit coding agents and load balancers. 0 is no limit.",
    )
    LOGS = "Logs", ""
    METRICS = "Metrics", ""
    LITELLM = "LiteLLM and other providers", ""
    DEVELOPMENT = "Development", ""
    DATABASE = (
        "Database",
        "With a database LiteLLM has keys for persons and teams, budgets, spend and the Admin UI (docs/database.md).",
    )
    REDIS = (
        "Redis",
        "With Redis or Valkey the workers of all instances share rate limits, cooldowns, spend counters and, for"
        " requests that want it, cached responses (docs/redis.md).",
    )

    @property
    def title(self) -> str:
        return self.value[0]

    @property
    def introduction(self) -> str:
        """A sentence below the heading, or nothing."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Variable(Generic[T_co]):
    """One variable.

    Attributes:
        name: as written in `.env`.
        type: how its value is read.
        doc: what it does, in one sentence.
        default: its value when it is unset or empty.
        section: where the reference lists it.
        runtime: whether the runtime reads it. Install then checks it in the same way.
        secret: whether its value must be masked wherever it would be shown.
        unset: the default in words, where `default` itself says too little.
        unit: the unit of a number.
        more: further sentences for env.example and the reference.
        install_check: what install alone checks, as the end of the sentence "Install checks that ...".
        aliases: other names that LiteLLM or a library reads in the same way. The runtime reads `name` alone.
        sample: the value in env.example. None: only the reference lists the variable.
        active: whether env.example sets the variable; otherwise its line is commented out.
    """

    name: str
    type: ValueType[Any]
    doc: str
    default: T_co
    section: Section
    runtime: bool = False
    secret: bool = False
    unset: str = ""
    unit: str = ""
    more: str = ""
    install_check: str = ""
    aliases: tuple[str, ...] = ()
    sample: str | None = None
    active: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    @property
    def default_text(self) -> str:
        """The default for people; empty if there is none."""
        if self.unset or self.default is None:
            return self.unset
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)

    def is_unset(self, value: str) -> bool:
        """Whether a value counts as none. boto3, LiteLLM and systemd do not agree on what an empty value means."""
        return not (value.strip() if self.type.strips else value)

    def read(self, values: Mapping[str, str], where: Callable[[str], str] | None = None) -> T_co:
        """The value in `values`, or the default.

        `where`: gives the position of a variable for messages, such as `.env:12`.

        Raises:
            InputError: the value cannot be used.
        """
        text = values.get(self.name, "")
        if self.is_unset(text):
            return self.default
        try:
            value: T_co = self.type.parse(text.strip() if self.type.strips else text)
        except ValueError:
            raise self._refusal(text, where) from None
        return value

    def _refusal(self, text: str, where: Callable[[str], str] | None) -> InputError:
        position = "" if where is None else f"{where(self.name)}: "
        # After an unclosed quote, the value continues with the next variables: perhaps with a secret.
        first, *others = text.splitlines()
        assignment = self.name if self.secret else f"{self.name}={first}{' …' if others else ''}"
        default = f": the default is {self.default_text}" if self.default_text else ""
        return InputError(
            f"{position}{assignment} {self.type.refusal}", f"{self.type.remedy}, or remove {self.name}{default}."
        )


def _text(name: str, doc: str, section: Section, **more: Any) -> Variable[None]:
    """A variable of any text, without a default."""
    return Variable(name, TEXT, doc, None, section, **more)


# --- The gateway ---------------------------------------------------------------------------------------------------

MASTER_KEY = _text(
    "LITELLM_MASTER_KEY",
    "The key that clients send.",
    Section.GATEWAY,
    secret=True,
    unset="generated at the first install and shown once",
    more="For one key on several instances: aws-secretsmanager:NAME#KEY or aws-ssm:/NAME (docs/operations.md).",
    install_check=f"the key is not {REFUSED_KEY}, is ASCII without spaces around it, and is not the example key"
    f" {EXAMPLE_KEY} where other machines reach HOST",
    sample="",
    active=True,
)
CONFIG_FILE: Variable[str | None] = _text(
    "CONFIG_FILE",
    "The LiteLLM configuration to serve: iam_role_config.yml, access_key_config.yml, prompt_caching.yml, demo.yml"
    " (needs no AWS account), or the path of your own file.",
    Section.GATEWAY,
    unset="iam_role_config.yml",
    install_check="the configuration exists",
    sample="iam_role_config.yml",
    active=True,
)
HOST = Variable(
    "HOST",
    ADDRESS,
    "The address to listen on: 127.0.0.1 for this machine alone, 0.0.0.0 for every machine that the firewall admits.",
    "127.0.0.1",
    Section.GATEWAY,
    runtime=True,
    sample="127.0.0.1",
    active=True,
)
PORT = Variable(
    "PORT", whole_number(1, 65_535), "The TCP port.", 4000, Section.GATEWAY, runtime=True, sample="4000", active=True
)
TRUSTED_PROXIES: Variable[tuple[str, ...]] = Variable(
    "TRUSTED_PROXIES",
    NETWORKS,
    "The proxies and load balancers in front of the gateway: the addresses of clients are read from their"
    " X-Forwarded-For.",
    (),
    Section.GATEWAY,
    runtime=True,
    unset="this machine alone",
    more="A header of any other client is ignored. A proxy on this machine needs no entry.",
    sample="10.0.0.0/16",
)
API_DOCS = Variable(
    "API_DOCS",
    SWITCH,
    "Serve LiteLLM's API documentation (/, /redoc, /openapi.json) and its public catalogues (/public) without a key.",
    False,
    Section.GATEWAY,
    runtime=True,
    more="LiteLLM's DOCS_URL, REDOC_URL and OPENAPI_URL move the pages.",
    sample="true",
)
CORS_ORIGINS = _text(
    "LITELLM_CORS_ORIGINS",
    "The origins of web pages that may call the gateway from a browser, separated by commas.",
    Section.GATEWAY,
    unset="none",
    more="A page needs the key as well.",
    sample="https://chat.example.com",
)


TLS_CERT_FILE: Variable[str | None] = Variable(
    "TLS_CERT_FILE",
    CREDENTIAL_PATH,
    "Serve HTTPS with this certificate: a PEM file with that of the host first, then the intermediate ones.",
    None,
    Section.GATEWAY,
    runtime=True,
    unset="plain HTTP",
    more="systemd passes the file to the service, so root alone may be able to read it. After a renewal:"
    " systemctl reload litellm",
    sample="/etc/letsencrypt/live/gateway.example.com/fullchain.pem",
)
TLS_KEY_FILE: Variable[str | None] = Variable(
    "TLS_KEY_FILE",
    CREDENTIAL_PATH,
    "The private key of that certificate, as PEM without a passphrase.",
    None,
    Section.GATEWAY,
    runtime=True,
    sample="/etc/letsencrypt/live/gateway.example.com/privkey.pem",
)

# --- Amazon Bedrock ------------------------------------------------------------------------------------------------

AWS_REGION_NAME = Variable(
    "AWS_REGION_NAME",
    REGION,
    "The region to call.",
    None,
    Section.BEDROCK,
    unset="the region of the EC2 instance",
    more="Every configuration but demo.yml needs one.",
    # LiteLLM looks for them in this order (llms/bedrock/base_aws_llm.py).
    aliases=("AWS_REGION", "AWS_DEFAULT_REGION"),
    install_check="the value has the form of an AWS region",
    sample="us-east-1",
)

# --- Credentials for AWS -------------------------------------------------------------------------------------------

_PAIR = (
    "the key pair is complete and has the form of an AWS key, a temporary key (ASIA...) has its token, and only one"
    " kind of credentials is set"
)
AWS_ACCESS_KEY_ID = _text(
    "AWS_ACCESS_KEY_ID",
    "The id of an access key, for access_key_config.yml.",
    Section.CREDENTIALS,
    secret=True,
    more="'litellmctl init --from-profile NAME' copies a key pair from ~/.aws/credentials.",
    install_check=_PAIR,
    sample="",
)
AWS_SECRET_ACCESS_KEY = _text(
    "AWS_SECRET_ACCESS_KEY",
    "The secret of the access key.",
    Section.CREDENTIALS,
    secret=True,
    install_check=_PAIR,
    sample="",
)
AWS_SESSION_TOKEN = _text(
    "AWS_SESSION_TOKEN",
    "The token of a temporary access key, whose id starts with ASIA.",
    Section.CREDENTIALS,
    secret=True,
    more="The key stops working when the token expires.",
    install_check=_PAIR,
    sample="",
)
AWS_CREDENTIAL_EXPIRATION = _text(
    "AWS_CREDENTIAL_EXPIRATION",
    "When the token expires, such as 2026-01-31T18:00:00Z: 'litellmctl status' then warns in time.",
    Section.CREDENTIALS,
    install_check="the value is a time in ISO 8601",
    sample="",
)
AWS_ROLE_NAME = _text(
    "AWS_ROLE_NAME",
    "The whole ARN of a role to assume with the credentials above, of another account for example.",
    Section.CREDENTIALS,
    install_check="the value is the ARN of a role, and only one kind of credentials is set",
    sample="arn:aws:iam::123456789012:role/NAME",
)
AWS_SESSION_NAME = _text(
    "AWS_SESSION_NAME",
    "The session name for that role.",
    Section.CREDENTIALS,
    install_check="AssumeRole accepts the value",
    sample="litellm",
)
AWS_EXTERNAL_ID = _text(
    "AWS_EXTERNAL_ID",
    "The external id that the trust policy of that role requires.",
    Section.CREDENTIALS,
    install_check="AssumeRole accepts the value",
    sample="",
)
AWS_BEARER_TOKEN_BEDROCK = _text(
    "AWS_BEARER_TOKEN_BEDROCK",
    "A Bedrock API key, in place of all other credentials.",
    Section.CREDENTIALS,
    secret=True,
    more="Use it with iam_role_config.yml or prompt_caching.yml.",
    install_check="the key has no spaces, quotes or brackets, and only one kind of credentials is set",
    sample="",
)
AWS_PROFILE_NAME = _text(
    "AWS_PROFILE_NAME",
    "A profile of the file that AWS_SHARED_CREDENTIALS_FILE or AWS_CONFIG_FILE names.",
    Section.CREDENTIALS,
    aliases=("AWS_PROFILE",),
    install_check="only one kind of credentials is set",
)
_VISIBLE = "the path is absolute, outside of /home, /root and /tmp, which the service cannot see"
AWS_SHARED_CREDENTIALS_FILE = Variable(
    "AWS_SHARED_CREDENTIALS_FILE",
    PATH,
    "A file of AWS profiles with keys.",
    None,
    Section.CREDENTIALS,
    install_check=_VISIBLE,
)
AWS_CONFIG_FILE: Variable[str | None] = Variable(
    "AWS_CONFIG_FILE", PATH, "A file of AWS profiles.", None, Section.CREDENTIALS, install_check=_VISIBLE
)
AWS_WEB_IDENTITY_TOKEN_FILE = Variable(
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    PATH,
    "A file with a web identity token, for AWS_ROLE_ARN.",
    None,
    Section.CREDENTIALS,
    install_check=_VISIBLE,
)
AWS_WEB_IDENTITY_TOKEN = _text(
    "AWS_WEB_IDENTITY_TOKEN", "A web identity token, or where LiteLLM finds one.", Section.CREDENTIALS, secret=True
)
AWS_ROLE_ARN = _text(
    "AWS_ROLE_ARN",
    "The role for AWS_WEB_IDENTITY_TOKEN_FILE; LiteLLM itself reads AWS_ROLE_NAME.",
    Section.CREDENTIALS,
)
AWS_CONTAINER_CREDENTIALS_FULL_URI = _text(
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "Where a container gets its credentials, as ECS and EKS set it.",
    Section.CREDENTIALS,
    aliases=("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",),
)
AWS_STS_ENDPOINT = Variable(
    "AWS_STS_ENDPOINT",
    ENDPOINT_URL,
    "The endpoint of STS, which gives out the credentials of roles.",
    None,
    Section.CREDENTIALS,
    install_check="the value is the URL of an endpoint",
)

# --- Network path to AWS -------------------------------------------------------------------------------------------

AWS_BEDROCK_RUNTIME_ENDPOINT = Variable(
    "AWS_BEDROCK_RUNTIME_ENDPOINT",
    ENDPOINT_URL,
    "A VPC endpoint (PrivateLink) of bedrock-runtime.",
    None,
    Section.NETWORK,
    install_check="the value is the URL of an endpoint, in the region of AWS_REGION_NAME",
    sample="https://vpce-0123-abcd.bedrock-runtime.us-east-1.vpce.amazonaws.com",
)
AWS_ENDPOINT_URL = Variable(
    "AWS_ENDPOINT_URL",
    ENDPOINT_URL,
    "An endpoint for all AWS services, or for STS alone.",
    None,
    Section.NETWORK,
    aliases=("AWS_ENDPOINT_URL_STS",),
    install_check="the value is the URL of an endpoint",
)
AWS_ENDPOINT_URL_SECRETS_MANAGER = Variable(
    "AWS_ENDPOINT_URL_SECRETS_MANAGER",
    ENDPOINT_URL,
    "A VPC endpoint of Secrets Manager or SSM, for secrets that are kept there.",
    None,
    Section.NETWORK,
    aliases=("AWS_ENDPOINT_URL_SSM",),
    install_check="the value is the URL of an endpoint",
)
_PROXY_CHECK = "the value is the URL of a proxy, and the upper-case and lower-case names do not differ"
HTTPS_PROXY = Variable(
    "HTTPS_PROXY",
    PROXY_URL,
    "A proxy for HTTPS.",
    None,
    Section.NETWORK,
    aliases=("https_proxy",),
    install_check=_PROXY_CHECK,
    sample="http://proxy.example:3128",
)
HTTP_PROXY = Variable(
    "HTTP_PROXY",
    PROXY_URL,
    "A proxy for HTTP.",
    None,
    Section.NETWORK,
    aliases=("http_proxy",),
    install_check=_PROXY_CHECK,
)
ALL_PROXY = Variable(
    "ALL_PROXY",
    PROXY_URL,
    "A proxy for both.",
    None,
    Section.NETWORK,
    aliases=("all_proxy",),
    install_check=_PROXY_CHECK,
)
NO_PROXY = _text(
    "NO_PROXY",
    "Hosts that are reached without the proxy, separated by commas.",
    Section.NETWORK,
    more="Install adds the instance metadata and this host.",
    aliases=("no_proxy",),
    sample="",
)
SSL_CERT_FILE = Variable(
    "SSL_CERT_FILE",
    PATH,
    "One PEM file with all trusted CAs, outside of /home, /root and /tmp, which the service cannot see.",
    None,
    Section.NETWORK,
    install_check=_VISIBLE,
    sample="/etc/ssl/certs/ca-certificates.crt",
)
SSL_CERT_DIR = Variable(
    "SSL_CERT_DIR", PATH, "A folder of trusted CAs.", None, Section.NETWORK, install_check=_VISIBLE
)
AWS_CA_BUNDLE = Variable(
    "AWS_CA_BUNDLE", PATH, "The trusted CAs for boto3 alone.", None, Section.NETWORK, install_check=_VISIBLE
)
REQUESTS_CA_BUNDLE = Variable(
    "REQUESTS_CA_BUNDLE", PATH, "The trusted CAs for requests alone.", None, Section.NETWORK, install_check=_VISIBLE
)
AWS_ENDPOINT_URL_BEDROCK_RUNTIME = _text(
    "AWS_ENDPOINT_URL_BEDROCK_RUNTIME",
    "Endpoints of single AWS services for the checks of litellmctl.",
    Section.NETWORK,
    more="LiteLLM itself reads AWS_BEDROCK_RUNTIME_ENDPOINT.",
    aliases=("AWS_ENDPOINT_URL_BEDROCK", "AWS_ENDPOINT_URL_SERVICE_QUOTAS", "AWS_ENDPOINT_URL_AUTO_SCALING"),
)
AWS_EC2_METADATA_DISABLED = _text(
    "AWS_EC2_METADATA_DISABLED",
    "With true, the instance metadata is not queried, neither for credentials nor for the region.",
    Section.NETWORK,
)

AWS_EC2_METADATA_SERVICE_ENDPOINT = _text(
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "The URL of the instance metadata, or with _MODE the word IPv4 or IPv6.",
    Section.NETWORK,
    aliases=("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",),
)

# --- Processes and time limits -------------------------------------------------------------------------------------

NUM_WORKERS: Variable[int | None] = Variable(
    "NUM_WORKERS",
    whole_number(1, 1024),
    "The number of worker processes.",
    None,
    Section.SERVICE,
    runtime=True,
    unset="one for each CPU",
    more="Each takes about 100 MB of memory, besides the main process with about 375 MB.",
    sample="2",
)
KEEPALIVE_TIMEOUT = Variable(
    "KEEPALIVE_TIMEOUT",
    whole_number(1, _DAY),
    "How long an idle connection stays open.",
    75,
    Section.SERVICE,
    runtime=True,
    unit="seconds",
    more="The default is longer than the 60 seconds of an AWS load balancer, so that the load balancer closes first.",
    sample="75",
)
START_TIMEOUT: Variable[float] = Variable(
    "START_TIMEOUT",
    seconds(1),
    "How long a start may take before it counts as failed.",
    180,
    Section.SERVICE,
    runtime=True,
    unit="seconds",
    sample="180",
)
DRAIN_TIMEOUT: Variable[float] = Variable(
    "DRAIN_TIMEOUT",
    seconds(0),
    "How long in-flight requests may run on when the gateway stops or restarts.",
    600,
    Section.SERVICE,
    runtime=True,
    unit="seconds",
    more="With 0 they are cut at once.",
    sample="600",
)
LAME_DUCK_TIMEOUT: Variable[float] = Variable(
    "LAME_DUCK_TIMEOUT",
    # Earlier releases checked no upper limit, and a host may have any number installed.
    seconds(0, _NINE_DIGITS),
    "How long a draining worker keeps idle connections open, so that clients lose no request.",
    3,
    Section.SERVICE,
    runtime=True,
    unit="seconds",
    more="DRAIN_TIMEOUT ends it too.",
    sample="3",
)
WATCHDOG_TIMEOUT: Variable[float] = Variable(
    "WATCHDOG_TIMEOUT",
    seconds(2),
    "How long the gateway may answer no health check before systemd restarts it.",
    30,
    Section.SERVICE,
    runtime=True,
    unit="seconds",
    sample="30",
)
MAX_REQUESTS = Variable(
    "MAX_REQUESTS_BEFORE_RESTART",
    whole_number(1, _NINE_DIGITS),
    "The number of requests after which a worker is replaced, without losing any request.",
    0,
    Section.SERVICE,
    runtime=True,
    unset="never",
    more="For memory leaks. Workers are replaced one at a time, each when it has finished all its requests.",
    sample="10000",
)
MAX_REQUESTS_JITTER: Variable[int | None] = Variable(
    "MAX_REQUESTS_BEFORE_RESTART_JITTER",
    whole_number(0, _NINE_DIGITS),
    "Up to this many more requests, at random for each worker, so that not all workers are due at once.",
    None,
    Section.SERVICE,
    runtime=True,
    unset="a tenth of MAX_REQUESTS_BEFORE_RESTART",
    sample="1000",
)
WORKER_MEMORY_LIMIT: Variable[int | None] = Variable(
    "WORKER_MEMORY_LIMIT",
    whole_number(64, 1_048_576),
    "The memory (RSS, shared memory included) above which a worker is replaced in the same way.",
    None,
    Section.SERVICE,
    runtime=True,
    unset="80 % of the memory, divided by NUM_WORKERS + 1, and at least 512 MiB",
    unit="MiB",
    more="The memory is that of the host, or MemoryMax= of the service if that is less.",
    sample="1024",
)

# --- Behind a load balancer ----------------------------------------------------------------------------------------

BEHIND_LOAD_BALANCER = Variable(
    "BEHIND_LOAD_BALANCER",
    SWITCH,
    "Whether a load balancer checks /health/readiness of this instance, which then answers 503 before a stop.",
    False,
    Section.LOAD_BALANCER,
    runtime=True,
    unset="true if DEREGISTRATION_DELAY is set, else false",
    more="Requests that still arrive in that time are served. Then the port closes.",
    sample="true",
)
DEREGISTRATION_DELAY: Variable[float | None] = Variable(
    "DEREGISTRATION_DELAY",
    seconds(1, 3600),
    "How long the port stays open while /health/readiness answers 503.",
    None,
    Section.LOAD_BALANCER,
    runtime=True,
    unset="30 behind a load balancer, else 0",
    unit="seconds",
    more="It must be longer than the load balancer takes to notice: the interval of its health check, times the"
    " failures that it allows.",
    sample="30",
)
LOAD_BALANCER_IDLE_TIMEOUT: Variable[float] = Variable(
    "LOAD_BALANCER_IDLE_TIMEOUT",
    seconds(1),
    "How long the load balancer keeps an idle connection to this instance open.",
    60,
    Section.LOAD_BALANCER,
    unit="seconds",
    more="It is also how long the load balancer waits for the next byte of a response.",
    install_check="KEEPALIVE_TIMEOUT is longer than LOAD_BALANCER_IDLE_TIMEOUT behind a load balancer",
    sample="60",
)
LIFECYCLE_HEARTBEAT_TIMEOUT: Variable[float | None] = Variable(
    "LIFECYCLE_HEARTBEAT_TIMEOUT",
    seconds(30, 172_800),
    "How long the lifecycle hook of an Auto Scaling group waits for this instance to drain.",
    None,
    Section.LOAD_BALANCER,
    unset="not checked",
    unit="seconds",
    install_check="a stop fits into LIFECYCLE_HEARTBEAT_TIMEOUT: DEREGISTRATION_DELAY, DRAIN_TIMEOUT and 30 seconds",
    sample="900",
)


def find_deregistration_delay(values: Mapping[str, str]) -> float:
    """Seconds for which the port stays open after a drain is planned; 0 without a load balancer.

    Raises:
        InputError: a value cannot be used.
    """
    delay = DEREGISTRATION_DELAY.read(values)
    is_set = not BEHIND_LOAD_BALANCER.is_unset(values.get(BEHIND_LOAD_BALANCER.name, ""))
    if not (BEHIND_LOAD_BALANCER.read(values) if is_set else delay is not None):
        return 0.0
    return 30.0 if delay is None else delay


# --- Limits for clients --------------------------------------------------------------------------------------------

MAX_REQUEST_SIZE = Variable(
    "MAX_REQUEST_SIZE",
    whole_number(0, 4096),
    "The size of the body of a request, above which the answer is 413.",
    32,
    Section.LIMITS,
    runtime=True,
    unit="MiB",
    more="A request without the key that needs none may have 1 MiB.",
    sample="32",
)
MAX_HEADER_SIZE = Variable(
    "MAX_HEADER_SIZE",
    whole_number(0, 4096),
    "The size of the request line and all headers of a request, above which the answer is 431.",
    64,
    Section.LIMITS,
    runtime=True,
    unit="KiB",
    more="The request line and each header may have a quarter of it, and a request may have 100 headers.",
    sample="64",
)
HEADER_TIMEOUT: Variable[float] = Variable(
    "HEADER_TIMEOUT",
    seconds(0),
    "How long a client may take for the headers of a request, before the answer is 408.",
    30,
    Section.LIMITS,
    runtime=True,
    unit="seconds",
    more="A connection without a request is closed after KEEPALIVE_TIMEOUT.",
    sample="30",
)
MIN_UPLOAD_RATE = Variable(
    "MIN_UPLOAD_RATE",
    whole_number(0, _NINE_DIGITS),
    "How fast the body of a request must arrive on average, after the first HEADER_TIMEOUT seconds; the answer to a"
    " slower one is 408.",
    500,
    Section.LIMITS,
    runtime=True,
    unit="bytes per second",
    sample="500",
)
MAX_CONNECTIONS = Variable(
    "MAX_CONNECTIONS",
    whole_number(0, 1_000_000),
    "The number of connections of a worker, above which it closes the oldest one that has not sent the right key.",
    2000,
    Section.LIMITS,
    runtime=True,
    more="No connection is refused, so that a client with the key still gets in. At most half of the files that the"
    " process may open (LimitNOFILE=).",
    sample="2000",
)
MAX_CONNECTIONS_PER_ADDRESS = Variable(
    "MAX_CONNECTIONS_PER_ADDRESS",
    whole_number(0, 1_000_000),
    "The same for the connections of one address (of one /64 with IPv6) that have not sent the right key.",
    500,
    Section.LIMITS,
    runtime=True,
    more="Connections of this machine and of TRUSTED_PROXIES do not count.",
    sample="500",
)

# --- Logs ----------------------------------------------------------------------------------------------------------

LITELLM_LOG = Variable(
    "LITELLM_LOG",
    LOG_LEVEL,
    "How much LiteLLM writes to the journal.",
    None,
    Section.LOGS,
    runtime=True,
    more="DEBUG writes prompts.",
    sample="INFO",
)
JSON_LOGS = Variable(
    "JSON_LOGS",
    SWITCH,
    "Write every line of the log as one JSON object with message, level and timestamp, tracebacks included.",
    False,
    Section.LOGS,
    runtime=True,
    sample="true",
)
ACCESS_LOG = Variable(
    "ACCESS_LOG",
    SWITCH,
    "Write one line for each finished request: method, path without the query, status, milliseconds, client.",
    False,
    Section.LOGS,
    runtime=True,
    more="Keys, headers and bodies are never in it.",
    sample="true",
)

# --- Metrics -------------------------------------------------------------------------------------------------------

METRICS: Variable[str | None] = Variable(
    "METRICS",
    METRICS_ADDRESS,
    "Serve metrics for Prometheus at /metrics on this address: HOST:PORT, [HOST]:PORT for IPv6, or the path of a UNIX"
    " socket.",
    None,
    Section.METRICS,
    runtime=True,
    unset="off",
    more="Where other machines can connect, a scrape needs a key: METRICS_KEY or the master key, as Bearer token.",
    sample="127.0.0.1:9400",
)
METRICS_KEY: Variable[str | None] = Variable(
    "METRICS_KEY",
    KEY,
    "A key for METRICS alone, so that Prometheus does not need the master key.",
    None,
    Section.METRICS,
    runtime=True,
    secret=True,
    sample="",
)

# --- LiteLLM and other providers -----------------------------------------------------------------------------------

OPENAI_API_KEY = _text("OPENAI_API_KEY", "The key for models of OpenAI.", Section.LITELLM, secret=True)
OPENAI_API_BASE = _text("OPENAI_API_BASE", "The base URL for models of OpenAI.", Section.LITELLM)
LITELLM_DROP_PARAMS = _text(
    "LITELLM_DROP_PARAMS",
    "With true, parameters that a model does not accept are dropped instead of refused.",
    Section.LITELLM,
)
LITELLM_ENABLE_ANTHROPIC_PROMPT_CACHING = _text(
    "LITELLM_ENABLE_ANTHROPIC_PROMPT_CACHING",
    "With true, LiteLLM adds cache points to requests for models of Anthropic.",
    Section.LITELLM,
)
CUSTOM_TIKTOKEN_CACHE_DIR = _text(
    "CUSTOM_TIKTOKEN_CACHE_DIR", "A folder with the files of tiktoken.", Section.LITELLM
)
UI_USERNAME = _text("UI_USERNAME", "The login of the Admin UI, which needs a database.", Section.LITELLM)
UI_PASSWORD = _text("UI_PASSWORD", "The password of that login.", Section.LITELLM, secret=True)

# --- Development ---------------------------------------------------------------------------------------------------

ALLOW_MOCK_TESTING = Variable(
    "ALLOW_MOCK_TESTING",
    SWITCH,
    "Let every client make a model fail (mock_testing_fallbacks in a request), to see the fallback answer.",
    False,
    Section.DEVELOPMENT,
    runtime=True,
    more="Refused unless HOST is this machine alone. 'litellmctl verify --fallbacks' does without it.",
    sample="true",
)

# --- Database ------------------------------------------------------------------------------------------------------

_DATABASE_CHECKS = (
    "the URL means the same to Prisma and to PostgreSQL's own programs, a connection to another host is encrypted,"
    " and the database accepts the login"
)
DATABASE_URL = _text(
    "DATABASE_URL",
    "The PostgreSQL database of LiteLLM.",
    Section.DATABASE,
    secret=True,
    unset="no database",
    more="'litellmctl install --with-postgres' sets one up on this host. Percent-encode the password: @ is %40.",
    install_check=_DATABASE_CHECKS,
    sample="postgresql://litellm:PASSWORD@db.example.com:5432/litellm?sslmode=require",
)
DIRECT_URL = _text(
    "DIRECT_URL",
    "The same database without the connection pool that DATABASE_URL goes through, for migrations.",
    Section.DATABASE,
    secret=True,
    install_check=_DATABASE_CHECKS,
)
DATABASE_URL_READ_REPLICA = _text(
    "DATABASE_URL_READ_REPLICA",
    "A read replica of that database.",
    Section.DATABASE,
    secret=True,
    install_check=_DATABASE_CHECKS,
)
DATABASE_HOST = _text(
    "DATABASE_HOST",
    "In place of DATABASE_URL: the host of the database, with :PORT if that is not 5432.",
    Section.DATABASE,
    more="Needs DATABASE_USERNAME and DATABASE_NAME too.",
    install_check=_DATABASE_CHECKS,
)
DATABASE_USERNAME = _text(
    "DATABASE_USERNAME", "The user of that database.", Section.DATABASE, install_check=_DATABASE_CHECKS
)
DATABASE_PASSWORD = _text(
    "DATABASE_PASSWORD",
    "The password of that user, which needs no encoding.",
    Section.DATABASE,
    secret=True,
    install_check=_DATABASE_CHECKS,
)
DATABASE_NAME = _text("DATABASE_NAME", "The name of that database.", Section.DATABASE, install_check=_DATABASE_CHECKS)
IAM_TOKEN_DB_AUTH = Variable(
    "IAM_TOKEN_DB_AUTH",
    SWITCH,
    "Log in to a database on RDS or Aurora with the AWS credentials of the service, without a password.",
    False,
    Section.DATABASE,
    more="Needs DATABASE_HOST, DATABASE_USER, DATABASE_NAME and DATABASE_SSLMODE or DATABASE_SSLROOTCERT.",
    install_check=_DATABASE_CHECKS,
)
DATABASE_USER = _text(
    "DATABASE_USER",
    "With IAM_TOKEN_DB_AUTH: the user of that database.",
    Section.DATABASE,
    install_check=_DATABASE_CHECKS,
)
DATABASE_PORT = Variable(
    "DATABASE_PORT",
    whole_number(1, 65535),
    "With IAM_TOKEN_DB_AUTH: the port of that database.",
    5432,
    Section.DATABASE,
    install_check=_DATABASE_CHECKS,
)
AWS_RDS_REGION = Variable(
    "AWS_RDS_REGION",
    REGION,
    "With IAM_TOKEN_DB_AUTH: the region of that database.",
    None,
    Section.DATABASE,
    unset="the region in DATABASE_HOST, else AWS_REGION_NAME",
)
DATABASE_SCHEMA = _text("DATABASE_SCHEMA", "The schema in that database.", Section.DATABASE, unset="public")
DATABASE_SSLMODE = _text(
    "DATABASE_SSLMODE", "How TLS is used to that database: require or verify-full.", Section.DATABASE
)
DATABASE_SSLROOTCERT = _text(
    "DATABASE_SSLROOTCERT",
    "The file of the authority that signed the certificate of that database.",
    Section.DATABASE,
    more="Without DATABASE_SSLMODE it means verify-full.",
)
DATABASE_CONNECTION_LIMIT: Variable[int | None] = Variable(
    "DATABASE_CONNECTION_LIMIT",
    whole_number(1, 1000),
    "The largest number of connections of each worker to the database.",
    None,
    Section.DATABASE,
    runtime=True,
    unset="10, or fewer if the database accepts too few for NUM_WORKERS",
)
SALT_KEY: Variable[str | None] = _text(
    "LITELLM_SALT_KEY",
    "The key with which LiteLLM encrypts the credentials and models that it stores in the database.",
    Section.DATABASE,
    secret=True,
    unset="generated by the first install with a database",
    more="It can be given once and never changes: what is stored would be unreadable. Several instances on one"
    " database need the same.",
    install_check="the key is the installed one, and decrypts what the database has",
)
ALLOW_PLAINTEXT_DATABASE = Variable(
    "ALLOW_PLAINTEXT_DATABASE",
    SWITCH,
    "Let the connection to a database on another host be unencrypted, in a network that you trust.",
    False,
    Section.DATABASE,
    install_check=_DATABASE_CHECKS,
    sample="true",
)


# --- Redis ---------------------------------------------------------------------------------------------------------

_REDIS_CHECKS = "every part of LiteLLM reads the same from them, and Redis accepts the login and writes"
REDIS_URL = _text(
    "REDIS_URL",
    "The Redis or Valkey server that all instances share.",
    Section.REDIS,
    secret=True,
    unset="each worker counts and caches on its own",
    more="Such as rediss://:PASSWORD@redis.example.com:6379/0, with redis:// for no TLS. Percent-encode the"
    " password: @ is %40.",
    install_check=_REDIS_CHECKS,
)
REDIS_HOST = _text(
    "REDIS_HOST",
    "The host of the same in place of REDIS_URL, with the login and TLS in variables of their own.",
    Section.REDIS,
    install_check=_REDIS_CHECKS,
    sample="redis.example.com",
)
REDIS_PORT = Variable(
    "REDIS_PORT",
    whole_number(1, 65535),
    "With REDIS_HOST: the port.",
    6379,
    Section.REDIS,
    install_check=_REDIS_CHECKS,
    sample="6379",
)
REDIS_USERNAME: Variable[str | None] = _text(
    "REDIS_USERNAME", "With REDIS_HOST: the user.", Section.REDIS, unset="default", install_check=_REDIS_CHECKS
)
REDIS_PASSWORD: Variable[str | None] = _text(
    "REDIS_PASSWORD",
    "With REDIS_HOST: the password or auth token, which needs no encoding.",
    Section.REDIS,
    secret=True,
    install_check=_REDIS_CHECKS,
    sample="",
)
REDIS_DB = Variable(
    "REDIS_DB",
    whole_number(0, 9999),
    "With REDIS_HOST: the number of the database.",
    0,
    Section.REDIS,
    install_check=_REDIS_CHECKS,
)
REDIS_SSL = Variable(
    "REDIS_SSL",
    PLAIN_SWITCH,
    "With REDIS_HOST: connect with TLS.",
    False,
    Section.REDIS,
    install_check=_REDIS_CHECKS,
    sample="true",
)
REDIS_SSL_CA_CERTS: Variable[str | None] = Variable(
    "REDIS_SSL_CA_CERTS",
    PATH,
    "With REDIS_SSL: the file of the authority that signed the certificate of the server.",
    None,
    Section.REDIS,
    unset="the authorities of this host",
    install_check=_REDIS_CHECKS,
)
REDIS_SSL_CERT_REQS = Variable(
    "REDIS_SSL_CERT_REQS",
    CERTIFICATE_CHECK,
    "With REDIS_SSL: whether the certificate of the server is checked.",
    "required",
    Section.REDIS,
    install_check=_REDIS_CHECKS,
)
REDIS_CLUSTER_NODES: Variable[str | None] = _text(
    "REDIS_CLUSTER_NODES",
    "In place of REDIS_HOST: nodes of a cluster as JSON, also for ElastiCache Serverless.",
    Section.REDIS,
    more='Such as [{"host": "cache.example.com", "port": 6379}].',
    install_check=_REDIS_CHECKS,
)
REDIS_SENTINEL_NODES: Variable[str | None] = _text(
    "REDIS_SENTINEL_NODES",
    "In place of REDIS_HOST: Sentinels as JSON, with REDIS_SERVICE_NAME.",
    Section.REDIS,
    more='Such as [["sentinel.example.com", 26379]]. litellmctl does not connect to them.',
    install_check=_REDIS_CHECKS,
)
REDIS_SERVICE_NAME: Variable[str | None] = _text(
    "REDIS_SERVICE_NAME",
    "With REDIS_SENTINEL_NODES: the name of the service that they watch.",
    Section.REDIS,
    install_check=_REDIS_CHECKS,
)
REDIS_SENTINEL_PASSWORD: Variable[str | None] = _text(
    "REDIS_SENTINEL_PASSWORD", "With REDIS_SENTINEL_NODES: the password of the Sentinels.", Section.REDIS, secret=True
)
REDIS_AWS_IAM_AUTH = Variable(
    "REDIS_AWS_IAM_AUTH",
    PLAIN_SWITCH,
    "Log in to ElastiCache with the AWS credentials of the service, without a password.",
    False,
    Section.REDIS,
    more="Needs TLS, REDIS_AWS_IAM_USER_NAME and REDIS_AWS_IAM_CACHE_NAME.",
    install_check=_REDIS_CHECKS,
)
REDIS_AWS_IAM_USER_NAME: Variable[str | None] = _text(
    "REDIS_AWS_IAM_USER_NAME",
    "With REDIS_AWS_IAM_AUTH: the user, whose id and name are the same.",
    Section.REDIS,
    install_check=_REDIS_CHECKS,
)
REDIS_AWS_IAM_CACHE_NAME: Variable[str | None] = _text(
    "REDIS_AWS_IAM_CACHE_NAME",
    "With REDIS_AWS_IAM_AUTH: the id of the replication group, or the name of the serverless cache.",
    Section.REDIS,
    install_check=_REDIS_CHECKS,
)
REDIS_AWS_IAM_REGION: Variable[str | None] = Variable(
    "REDIS_AWS_IAM_REGION",
    REGION,
    "With REDIS_AWS_IAM_AUTH: the region of the cache.",
    None,
    Section.REDIS,
    unset="AWS_REGION, else AWS_DEFAULT_REGION",
    install_check=_REDIS_CHECKS,
)
REDIS_AWS_IAM_SERVERLESS = Variable(
    "REDIS_AWS_IAM_SERVERLESS",
    PLAIN_SWITCH,
    "With REDIS_AWS_IAM_AUTH: the cache is ElastiCache Serverless.",
    False,
    Section.REDIS,
    install_check=_REDIS_CHECKS,
)


#: Every variable that is defined above, in that order.
TABLE: tuple[Variable[Any], ...] = tuple(each for each in list(globals().values()) if isinstance(each, Variable))
#: The variables that the runtime reads. For each, install and the runtime refuse the same values.
RUNTIME_VARIABLES = tuple(each for each in TABLE if each.runtime)
#: The names of all variables whose values are masked wherever they would be shown.
SECRET_NAMES = frozenset(name for each in TABLE if each.secret for name in each.names)
#: What install checks of any variable. What it checks of single ones is in `Variable.install_check`.
GENERAL_INSTALL_CHECKS = (
    "The name is one that a service's environment can hold, and systemd does not set the variable itself.",
    "The value is UTF-8 text without NUL and noncharacters, and fits: 128 KiB for one variable, 1.5 MiB in all.",
    "Files that variables name exist, and the service may read them.",
    "The files of TLS_CERT_FILE and TLS_KEY_FILE are a pair in PEM, the certificate has not expired, and the key has"
    " no passphrase.",
    "AWS accepts a new key pair.",
)

_BY_NAME = {name: each for each in TABLE for name in each.names}


def names_of_type(of: ValueType[Any]) -> tuple[str, ...]:
    """The names of all variables of a type, aliases included."""
    return tuple(name for each in TABLE if each.type is of for name in each.names)


def names_in(section: Section) -> tuple[str, ...]:
    """The names of all variables of a section, aliases included."""
    return tuple(name for each in TABLE if each.section is section for name in each.names)


def drop_unset(values: Mapping[str, str]) -> dict[str, str]:
    """The variables without those of the table that count as unset. An unknown variable may be empty."""
    return {
        name: value for name, value in values.items() if name not in _BY_NAME or not _BY_NAME[name].is_unset(value)
    }


def check_runtime_variables(values: Mapping[str, str], where: Callable[[str], str] | None = None) -> None:
    """Check each variable that the runtime reads; see `Variable.read`.

    Raises:
        InputError: the first value that the runtime cannot use.
    """
    for each in RUNTIME_VARIABLES:
        each.read(values, where)
    metrics, host, port = METRICS.read(values), HOST.read(values), PORT.read(values)
    if metrics is not None and parse_metrics(metrics).takes(host, port):
        position = "" if where is None else f"{where(METRICS.name)}: "
        raise InputError(
            f"{position}METRICS={metrics} is the address of the gateway itself (HOST={host}, PORT={port})",
            "Use another port, such as METRICS=127.0.0.1:9400.",
        )
    for given, missing in ((TLS_CERT_FILE, TLS_KEY_FILE), (TLS_KEY_FILE, TLS_CERT_FILE)):
        if (path := given.read(values)) and not missing.read(values):
            position = "" if where is None else f"{where(given.name)}: "
            raise InputError(
                f"{position}{given.name}={path} needs {missing.name} as well", f"Set both, or remove {given.name}."
            )


def is_on(values: Mapping[str, str], switch: Variable[bool]) -> bool:
    """Whether a switch is on, before the values have been checked: a bad value counts as off."""
    try:
        return switch.read(values)
    except InputError:
        return False


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host: a name, or an address as HOST= or a URL has it."""
    name = host.strip().strip("[]")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


MOCK_TESTING_WARNING = (
    f"{ALLOW_MOCK_TESTING.name}=true: every client can make models fail with mock_testing_* parameters. Remove it"
    " outside development."
)


def allows_mock_testing(values: Mapping[str, str], where: Callable[[str], str] | None = None) -> bool:
    """Whether the variables allow LiteLLM's mock testing, with which every client can make models fail on purpose.

    Only a gateway on loopback and the temporary instance of `litellmctl verify --fallbacks` may allow it.

    `where`: returns the position of a variable for messages, such as `.env:12`.

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


def install_checks() -> Iterator[tuple[tuple[str, ...], str]]:
    """What only install checks: names of variables and the end of the sentence "Install checks that ..."."""
    sentences = dict.fromkeys(each.install_check for each in TABLE if each.install_check)
    for sentence in sentences:
        yield tuple(name for each in TABLE if each.install_check == sentence for name in each.names), sentence
