"""Sources of credentials: profiles of a user's ~/.aws, and the EC2 instance metadata.

The metadata give region, role and its credentials, or the reason why there are none. They are queried as boto3 does
it, without a proxy and with one second for an answer; unlike boto3 this reports the reason.
Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from litellm_systemd.command import run
from litellm_systemd.contract import SERVICE_USER
from litellm_systemd.env.credentials_expiry import parse_moment, render_moment
from litellm_systemd.errors import InputError, MissingError, PermissionDenied, Unavailable
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.service_user import as_service_user
from litellm_systemd.user_files import MAX_SIZE, read_trusted


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key pair of a profile; the profile's region and the pair's end are None if the profile doesn't have them."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str | None = None
    end: datetime | None = None


def blank_session() -> Any:
    """Return a botocore session that uses neither the profile nor the files of the calling user."""
    from botocore.session import Session

    session = Session()
    session.register_component("data_loader", _loader())
    for name, value in {"profile": None, "config_file": os.devnull, "credentials_file": os.devnull}.items():
        session.get_component("config_store").set_config_variable(name, value)
    return session


@cache
def _loader() -> Any:
    """Return one loader of botocore's service descriptions, which caches them for all clients."""
    from botocore.loaders import create_loader

    return create_loader()


def proxies_for(host: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies of `environ` by scheme, as botocore expects them; none if its NO_PROXY contains the host."""
    named = {
        scheme: environ.get(f"{scheme}_proxy") or environ.get(f"{scheme.upper()}_PROXY") or ""
        for scheme in ("http", "https")
    }
    without = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if without and proxy_bypass_environment(host, {"no": without}):
        return {}
    return {scheme: address for scheme, address in named.items() if address}


def read_profile(name: str, home: Path) -> Credentials:
    """Return the key pair of a profile in `home`/.aws. As in the AWS CLI, `credentials` has precedence over `config`.

    Raises:
        MissingError: the files or the profile don't exist.
        InputError: the profile has no key pair; the message says what it has instead.
        PermissionDenied: a file can't be read.
    """
    return _read_profile(name, home / ".aws" / "credentials", home / ".aws" / "config", read_trusted)


def read_service_profile(name: str, environ: Mapping[str, str], home: Path) -> Credentials:
    """The same from the files that the service reads: those that its environment names, else those in its home."""
    credentials, config = (environ.get(each) for each in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"))
    folder = home / ".aws"
    files = Path(credentials or folder / "credentials"), Path(config or folder / "config")
    return _read_profile(name, *files, _read_as_service)


def _read_as_service(path: Path) -> bytes:
    """The content of a file that the service reads. Root reads it with the rights of the service's user, who may
    have replaced it, or may not read it.
    """
    argv = as_service_user(Layout(), ("head", f"--bytes={MAX_SIZE + 1}", "--", str(path)))
    if os.geteuid() != 0 or argv[0] == "head":  # before the first install
        return read_trusted(path)
    with tempfile.TemporaryFile() as copy:
        done = run(argv, check=False, timeout=_SECONDS_TO_READ, target=copy)
        copy.seek(0)
        content = copy.read()
    if "Permission denied" in done.stderr:
        hint = f"sudo chgrp {SERVICE_USER} {path} && sudo chmod g+r {path}"
        if path.is_relative_to(Layout().state):  # where the service's user may own everything
            hint = f"sudo chown -R {SERVICE_USER}: {path.parent}"
        raise UnreadableByService(f"{path}: the user {SERVICE_USER} cannot read it", hint)
    if done.returncode:
        raise FileNotFoundError(path)  # or it is a folder
    if len(content) > MAX_SIZE:
        raise ValueError(f"{path} is too large")
    return content


class UnreadableByService(InputError):
    """A file of profiles that is there, and that the service cannot read. The hint is a command."""


#: Less than a check of doctor may take. A pipe in place of the file has no end.
_SECONDS_TO_READ = 2


class UsableByBoto3(InputError):
    """A profile without a key pair that may work for the service: boto3 gets one by a role, a program or SSO."""


def _read_profile(name: str, credentials: Path, config: Path, read: Callable[[Path], bytes]) -> Credentials:
    of_config, of_credentials = _profiles(config, read, headed=True), _profiles(credentials, read)
    found = {**_texts(of_config.get(name, {})), **_texts(of_credentials.get(name, {}))}
    if not found:
        known = ", ".join(sorted({*of_config, *of_credentials})) or "none"
        raise MissingError(
            f"there is no profile {name} in {credentials}",
            f"Found: {known}. 'aws configure --profile {name}' adds it.",
        )
    if not found.get("aws_access_key_id") or not found.get("aws_secret_access_key"):
        usable = _may_work(found, {*of_config, *of_credentials}, credentials.parent)
        kind = UsableByBoto3 if usable else InputError
        raise kind(f"the profile {name} in {credentials.parent} {_what_it_is(found)}", _KEY_PAIR_HINT)
    return Credentials(
        found["aws_access_key_id"],
        found["aws_secret_access_key"],
        found.get("aws_session_token"),
        found.get("region"),
        next((end for name in _ENDS if (end := parse_moment(found.get(name, "")))), None),
    )


#: Names under which tools store the end of temporary pairs in profiles; the AWS CLI itself has none.
_ENDS = (
    *("x_security_token_expires", "aws_session_expiration", "aws_expiration", "aws_credential_expiration"),
    "expiration",
)
_KEY_PAIR_HINT = (
    "A service needs a key pair of its own (aws_access_key_id and aws_secret_access_key), or on EC2 an IAM role:"
    " CONFIG_FILE=iam_role_config.yml. For a day or so 'aws configure export-credentials --profile NAME --format"
    " env-no-export' prints lines for .env."
)


def _may_work(found: Mapping[str, str], known: set[str], folder: Path) -> bool:
    """Whether boto3 may get a key pair by a profile without one of its own; in doubt, it may."""
    if "role_arn" in found:
        return "source_profile" not in found or found["source_profile"] in known
    if program := found.get("credential_process", "").partition(" ")[0]:
        return not program.startswith("/") or Path(program).exists()
    # SSO and `aws login`: what a person's sign-in has left is in the same folder.
    return not {"sso_session", "sso_start_url", "login_session"}.isdisjoint(found) and (
        (folder / "sso").exists() or (folder / "login").exists()
    )


def _what_it_is(found: dict[str, str]) -> str:
    if "credential_process" in found:
        program = found["credential_process"].partition(" ")[0]  # an argument may be a secret
        return f"runs a program for its credentials (credential_process: {program})"
    if "sso_session" in found or "sso_start_url" in found:
        return "signs in through SSO, which needs a person at a browser"
    if "login_session" in found:
        return "signs in by 'aws login', which needs a person at a browser"
    if "role_arn" in found:
        source = f" by source_profile {found['source_profile']}" if "source_profile" in found else ""
        return f"assumes a role{source} and has no key pair of its own"
    return "has no complete key pair"


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): value.strip() for key, value in values.items() if isinstance(value, str)}


def _profiles(path: Path, read: Callable[[Path], bytes], *, headed: bool = False) -> dict[str, dict[str, Any]]:
    """Return the profiles of a file by name. `headed`: sections are "[profile NAME]", as in `config`."""
    from botocore.configloader import build_profile_map, raw_config_parse
    from botocore.exceptions import ConfigNotFound, ConfigParseError

    if not os.path.lexists(path):  # also in a folder of another user, where root reads nothing
        return {}
    try:
        content = read(path)  # botocore ignores a file that can't be read
        with os.fdopen(os.memfd_create("profiles"), "w+b") as copy:  # botocore parses only what has a path
            copy.write(content)
            copy.flush()
            found: dict[str, dict[str, Any]] = raw_config_parse(f"/proc/self/fd/{copy.fileno()}")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ConfigNotFound):
        return {}
    except PermissionError:
        raise PermissionDenied(f"{path}: can't be read by this user", "Run it as the user who owns it.") from None
    except (ConfigParseError, ValueError) as error:
        wrong = error.kwargs.get("error") if isinstance(error, ConfigParseError) else None
        # Without the text of the line, which may have a secret.
        line = getattr(wrong, "lineno", None) or next((each[0] for each in getattr(wrong, "errors", ())), None)
        raise InputError(
            f"{path}{f':{line}' if line else ''}: not in the format of the AWS CLI",
            "Fix it, or run 'aws configure' again.",
        ) from None
    return build_profile_map(found)["profiles"] if headed else found


DISABLED_VARIABLE = "AWS_EC2_METADATA_DISABLED"
#: The failure code if this process's environment alone disables the metadata: the service will use them.
DISABLED_HERE = "disabled-here"
_VARIABLES = (DISABLED_VARIABLE, "AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE")
_BASE, _BASE_IPV6 = "http://169.254.169.254", "http://[fd00:ec2::254]"
#: Seconds for the connection, and for each answer.
METADATA_TIMEOUT = 1.0
_SIGN_IN = "/latest/api/token"
_DATA = "/latest/meta-data/"
_ROLES = f"{_DATA}iam/security-credentials/"
_CHANGE = "aws ec2 modify-instance-metadata-options --instance-id ID"


@dataclass(frozen=True, slots=True)
class MetadataFailure:
    """Why the instance metadata gives no credentials: a stable `code` for programs, the reason, and what to do."""

    code: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Instance:
    """What the metadata report: region, role and credentials where they are known, otherwise why they are missing."""

    region: str | None = None
    role: str | None = None
    trouble: MetadataFailure | None = None
    credentials: Credentials | None = None


class _Stop(Exception):
    """Further queries would fail as well."""

    def __init__(self, trouble: MetadataFailure) -> None:
        super().__init__(trouble.code)
        self.trouble = trouble


def observe_instance(environ: Mapping[str, str]) -> Instance:
    """Query the instance metadata, version 2. Takes two seconds at most if nothing answers.

    Uses AWS_EC2_METADATA_DISABLED, AWS_EC2_METADATA_SERVICE_ENDPOINT and its _MODE from the service's environment
    (`environ`), otherwise from this process's, since the endpoint is a property of the host.
    """
    disabled = "disabled" if DISABLED_VARIABLE in environ else DISABLED_HERE
    environ = {**{name: os.environ[name] for name in _VARIABLES if name in os.environ}, **environ}
    if environ.get(DISABLED_VARIABLE, "").lower() == "true":
        message = f"{DISABLED_VARIABLE}=true disables the instance metadata"
        return Instance(trouble=MetadataFailure(disabled, message, "Remove it, or use an access key."))
    metadata = _Metadata(_find_base(environ))
    try:
        metadata.sign_in()
        metadata.find_region()
        credentials = metadata.find_credentials(metadata.find_role())
        return Instance(metadata.region, metadata.role, credentials=credentials)
    except _Stop as stop:
        return Instance(metadata.region, metadata.role, stop.trouble)


def read_metadata(environ: Mapping[str, str], *paths: str) -> tuple[str, ...]:
    """Values of the instance metadata, version 2, by their paths below meta-data/; empty where there is none.

    Raises:
        Unavailable: no instance metadata answers.
    """
    metadata = _Metadata(
        _find_base({**{name: os.environ[name] for name in _VARIABLES if name in os.environ}, **environ})
    )
    try:
        metadata.sign_in()
        return tuple(metadata.read(path) for path in paths)
    except _Stop as stop:
        raise Unavailable(stop.trouble.message, stop.trouble.hint) from None


def _find_base(environ: Mapping[str, str]) -> str:
    is_ipv6 = environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "").lower() == "ipv6"
    base = environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or (_BASE_IPV6 if is_ipv6 else _BASE)
    return base.rstrip("/")


class _Metadata:
    """A series of queries with one token."""

    def __init__(self, base: str) -> None:
        from botocore.httpsession import URLLib3Session

        self._base = base
        self._session = URLLib3Session(timeout=(METADATA_TIMEOUT, METADATA_TIMEOUT))
        self._token: str | None = None
        self.region: str | None = None
        self.role: str | None = None

    def sign_in(self) -> None:
        answer = self._ask_twice("PUT", _SIGN_IN, {"x-aws-ec2-metadata-token-ttl-seconds": "60"})
        if answer is None:
            raise _Stop(_HOP_LIMIT)
        if answer.status_code == 403:
            raise _Stop(_SWITCHED_OFF)
        if answer.status_code != 200:
            raise _Stop(self._why_no_token())
        self._token = answer.text.strip()

    def _why_no_token(self) -> MetadataFailure:
        answer = self._ask("GET", _DATA)
        if answer is None or answer.status_code != 200:
            return _not_ec2(f"{self._base} answers, but not as EC2 instance metadata")
        return _VERSION_1

    def read(self, path: str) -> str:
        """Return a value; empty if there is none."""
        answer = self._get(f"{_DATA}{path}")
        return str(answer.text).strip() if answer.status_code == 200 else ""

    def find_region(self) -> None:
        self.region = self.read("placement/region") or None

    def find_role(self) -> str:
        answer = self._get(_ROLES)
        name = answer.text.strip().split("\n")[0] if answer.status_code == 200 else ""
        if answer.status_code not in (200, 404):
            raise _Stop(_odd(f"{answer.status_code} to {_ROLES}"))
        if not name:
            raise _Stop(_NO_ROLE)
        self.role = name
        return name

    def find_credentials(self, role: str) -> Credentials:
        answer = self._get(_ROLES + role)
        try:
            found = dict(json.loads(answer.text))
        except (ValueError, TypeError):
            raise _Stop(_odd(f"{answer.status_code} to {_ROLES}{role}")) from None
        if answer.status_code != 200 or found.get("Code") != "Success":
            raise _Stop(_refused(role, str(found.get("Code") or answer.status_code)))
        end = parse_moment(str(found.get("Expiration", "")))
        if end is not None and end <= datetime.now(timezone.utc):
            raise _Stop(_expired(role, end))
        try:
            key_id, secret, token = (str(found[name]) for name in ("AccessKeyId", "SecretAccessKey", "Token"))
        except KeyError as error:
            raise _Stop(_odd(f"without {error.args[0]} to {_ROLES}{role}")) from None
        return Credentials(key_id, secret, token, self.region, end)

    def _get(self, path: str) -> Any:
        answer = self._ask_twice("GET", path, {"x-aws-ec2-metadata-token": self._token or ""})
        if answer is None:
            raise _Stop(_odd(f"nothing to {path}"))
        return answer

    def _ask_twice(self, method: str, path: str, headers: Mapping[str, str]) -> Any:
        """As `_ask`, and again if no answer arrives in time: a hop limit that is too small loses both."""
        return self._ask(method, path, headers) or self._ask(method, path, headers)

    def _ask(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Any:
        """Return the answer; None if the connection is open and no answer arrives."""
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError, ReadTimeoutError

        request = AWSRequest(method=method, url=self._base + path, headers=dict(headers or {}))
        try:
            return self._session.send(request.prepare())
        except ReadTimeoutError:
            return None
        except BotoCoreError:
            raise _Stop(_not_ec2(f"no instance metadata answers at {self._base}")) from None


def _not_ec2(why: str) -> MetadataFailure:
    return MetadataFailure(
        "not-ec2",
        f"this is not an EC2 instance: {why}",
        "Outside of EC2 use an access key: litellmctl init --from-profile NAME, which chooses access_key_config.yml."
        " On EC2, a firewall or a route blocks the metadata.",
    )


def _odd(what: str) -> MetadataFailure:
    return MetadataFailure(
        "odd-answer", f"the instance metadata answers {what}", "Try again; if it fails again, reboot."
    )


def _refused(role: str, code: str) -> MetadataFailure:
    return MetadataFailure(
        "role-refused",
        f"EC2 gives the instance no credentials for its role {role}: {code}",
        "The role's trust policy must let ec2.amazonaws.com assume it, and the role must still exist.",
    )


def _expired(role: str, end: datetime) -> MetadataFailure:
    return MetadataFailure(
        "expired",
        f"the credentials of the role {role} expired at {render_moment(end)}",
        "Is this host's clock right (timedatectl)? If so, EC2 no longer renews them: is the role still attached?",
    )


_NO_ROLE = MetadataFailure(
    "no-role",
    "this EC2 instance has no IAM role",
    "Attach an instance profile (in the EC2 console: Actions, Security, Modify IAM role), and run this again."
    " 'litellmctl iam-policy' prints the policy of its role.",
)
_HOP_LIMIT = MetadataFailure(
    "hop-limit",
    "the instance metadata accepts the connection, but its token doesn't arrive: the hop limit is too small for this"
    " container",
    f"Where the AWS CLI is installed: {_CHANGE} --http-put-response-hop-limit 2",
)
_SWITCHED_OFF = MetadataFailure(
    "switched-off",
    "the instance metadata is disabled for this EC2 instance (403)",
    f"Where the AWS CLI is installed: {_CHANGE} --http-endpoint enabled --http-tokens required",
)
_VERSION_1 = MetadataFailure(
    "version-1",
    "the metadata service here supports version 1 alone, which any request forgery can read keys from; EC2's supports"
    " version 2",
    "On EC2, a proxy for the metadata (such as kube2iam) answers; outside of EC2 use an access key.",
)
