"""A client of one of AWS's services, with the credentials, proxy, CA and endpoints of the service's environment.

Nothing is taken from the caller's own environment and ~/.aws: who runs litellmctl is another one than the service.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from litellm_systemd.aws.instance import observe_instance
from litellm_systemd.aws.profiles import Credentials, blank_session, proxies_for
from litellm_systemd.bedrock.regions import default_endpoint
from litellm_systemd.env.aws import (
    EXTERNAL_ID,
    PAIR,
    PROFILE,
    PROFILE_NAME,
    ROLE,
    SESSION_NAME,
    STS_ENDPOINTS,
    TOKEN,
    WEB_IDENTITY,
)
from litellm_systemd.env.expiry import BEARER_VARIABLE

#: Seconds: for a connection, and for an answer. Nobody waits longer for what is nice to know; nothing is tried twice.
CONNECT_TIMEOUT, READ_TIMEOUT = 2, 5


class Refused(Exception):
    """AWS can't be asked, and the next question wouldn't be answered either; the text says why."""


class RoleRefused(Refused):
    """STS answers, and doesn't let the service assume its role."""


def load() -> None:
    """Import all of botocore that this package imports when it needs it. For callers with threads, before they start.

    Threads that import parts of one package at the same time can be given half of it: importlib lets none wait for
    another that waits for it (`_ModuleLock` in importlib/_bootstrap.py).
    """
    import botocore.configloader
    import botocore.httpsession
    import botocore.session
    import botocore.tokens  # noqa: F401


def connect(environ: Mapping[str, str], region: str, service: str = "bedrock") -> Any:
    """A client that asks as the service would: by its keys or API key, or the role of the EC2 instance.

    With AWS_ROLE_NAME it has assumed that role by any of these. What the client itself can't do it says with an error
    of botocore, for which `why` has words.

    Raises:
        Refused: there are no such credentials, or they can't be had.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    session = _session(environ)
    try:
        if environ.get(ROLE) and not environ.get(BEARER_VARIABLE):
            _take_on_role(session, environ, region)
        return _build(session, environ, region, service)
    except ClientError as error:
        said = error.response.get("Error", {}).get("Message", "no reason given")
        raise RoleRefused(f"the service's role can't be assumed: {said}") from None
    except (BotoCoreError, ValueError) as error:
        raise Refused(why(error)) from None


def whoami(environ: Mapping[str, str], region: str) -> str:
    """The ARN of the identity that the service's calls are made by.

    Raises:
        RoleRefused: it may not assume its role.
        Refused: STS can't be asked, or knows no such identity.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    if environ.get(BEARER_VARIABLE):
        raise Refused("STS takes no Bedrock API key")
    try:
        return str(connect(environ, region, "sts").get_caller_identity()["Arn"])
    except ClientError as error:
        raise Refused(in_words(error)) from None
    except BotoCoreError as error:
        raise Refused(why(error)) from None


def in_words(error: Any) -> str:
    """What AWS's refusal (a ClientError) comes to."""
    found = error.response.get("Error", {})
    code, said = found.get("Code", ""), found.get("Message", "") or "no reason given"
    return _WORDS.get(code, f"{code or 'an error'}: {said}")


_WORDS = {
    "AccessDeniedException": "these credentials may not ask ('litellmctl iam-policy' prints what they need)",
    "UnrecognizedClientException": "AWS doesn't know these credentials",
    "InvalidSignatureException": "AWS doesn't accept the signature: a wrong secret key, or a wrong clock",
    "ExpiredTokenException": "the credentials have expired",
    "ThrottlingException": "AWS asks for fewer questions; try again in a minute",
    "TooManyRequestsException": "AWS asks for fewer questions; try again in a minute",
}


def why(error: Exception) -> str:
    """Why nothing was answered: words for an error of botocore's own."""
    from botocore import exceptions as known

    if isinstance(error, known.SSLError):
        return "its certificate isn't trusted here (SSL_CERT_FILE names a private CA)"
    if isinstance(error, known.ProxyConnectionError):
        return "the proxy doesn't let it through"
    if isinstance(error, known.ConnectionError | known.HTTPClientError):  # no connection, or no answer in time
        return "it can't be reached from here"
    return str(error)


def connect_by_pair(credentials: Credentials, environ: Mapping[str, str], region: str, service: str) -> Any:
    """A client that asks by this pair and by nothing else, on the way that `environ` names."""
    session = blank_session()
    session.set_credentials(credentials.access_key, credentials.secret_key, credentials.session_token)
    return _build(session, environ, region, service)


def _build(session: Any, environ: Mapping[str, str], region: str, service: str) -> Any:
    from botocore.config import Config

    endpoint = next((environ[name] for name in _ENDPOINTS[service] if environ.get(name)), None)
    # The names of services and hosts differ where one has a hyphen.
    host = urlsplit(endpoint or default_endpoint(region, _HOSTS.get(service, service))).hostname or ""
    takes_api_key = service in ("bedrock", "bedrock-runtime") and environ.get(BEARER_VARIABLE)
    return session.create_client(
        service,
        region_name=region,
        endpoint_url=endpoint,
        verify=environ.get("AWS_CA_BUNDLE") or environ.get("SSL_CERT_FILE") or None,
        config=Config(
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            retries={"total_max_attempts": 1},
            proxies=proxies_for(host, environ),
            ignore_configured_endpoint_urls=True,
            # Said aloud, since botocore looks for an API key in the caller's environment otherwise.
            signature_version="bearer" if takes_api_key else "v4",
        ),
    )


_ENDPOINTS = {
    "bedrock": ("AWS_ENDPOINT_URL_BEDROCK", "AWS_ENDPOINT_URL"),
    "bedrock-runtime": ("AWS_BEDROCK_RUNTIME_ENDPOINT", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "AWS_ENDPOINT_URL"),
    "service-quotas": ("AWS_ENDPOINT_URL_SERVICE_QUOTAS", "AWS_ENDPOINT_URL"),
    "sts": STS_ENDPOINTS,
}
_HOSTS = {"service-quotas": "servicequotas"}


def _take_on_role(session: Any, environ: Mapping[str, str], region: str) -> None:
    """Let the session have the role that LiteLLM assumes, as it does that (llms/bedrock/base_aws_llm.py).

    Raises:
        ClientError: STS refuses it.
    """
    from botocore.exceptions import ClientError

    sts = _build(session, environ, region, "sts")
    name = environ.get(SESSION_NAME) or "litellmctl"
    external = {"ExternalId": environ[EXTERNAL_ID]} if environ.get(EXTERNAL_ID) else {}
    try:
        keys = sts.assume_role(RoleArn=environ[ROLE], RoleSessionName=name, **external)["Credentials"]
    except ClientError:
        if not _is_role(environ[ROLE], str(sts.get_caller_identity()["Arn"])):
            raise
    else:
        session.set_credentials(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])


def _is_role(role: str, identity: str) -> bool:
    """Whether somebody is that role already: LiteLLM assumes none then."""
    held = re.sub(r":iam::(\d+):role/(?:.*/)?([^/]+)$", r":sts::\1:assumed-role/\2/", role)
    return identity.startswith(held) and held != role


def _session(environ: Mapping[str, str]) -> Any:
    """A session that sees the service's environment alone."""
    from botocore.tokens import ScopedEnvTokenProvider, TokenProviderChain

    session = blank_session()
    session.register_component("token_provider", TokenProviderChain([ScopedEnvTokenProvider(session, environ)]))
    if environ.get(BEARER_VARIABLE):
        return session
    if any(environ.get(name) for name in (PROFILE, PROFILE_NAME, WEB_IDENTITY)):
        raise Refused("the service uses a profile or a web identity, which litellmctl doesn't do for it")
    access, secret = (environ.get(name) for name in PAIR)
    if access and secret:
        session.set_credentials(access, secret, environ.get(TOKEN) or None)
    elif access or secret:
        raise Refused("the service's environment has half a key pair")
    else:
        keys = _instance_role(environ)
        session.set_credentials(keys.access_key, keys.secret_key, keys.session_token)
    return session


def _instance_role(environ: Mapping[str, str]) -> Credentials:
    # Not by botocore's own fetcher: that one goes by the proxy of the caller's environment, and says no reason.
    found = observe_instance(environ)
    if found.credentials is None:
        reason = f", and {found.trouble.message}" if found.trouble else ""
        raise Refused(f"the service's environment has no credentials{reason}")
    return found.credentials
