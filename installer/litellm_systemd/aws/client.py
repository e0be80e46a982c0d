"""Queries to AWS with the credentials, proxy, CA and endpoints of the service's environment.

STS gives the owner of a key; Bedrock models, inference profiles and lifecycles; Service Quotas quotas.

The environment and ~/.aws of the user who runs litellmctl are not used, since the service doesn't have them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

from litellm_systemd.aws.credentials import callers
from litellm_systemd.aws.sources import (
    Credentials,
    blank_session,
    observe_instance,
    proxies_for,
    read_service_profile,
)
from litellm_systemd.bedrock.models import IdKind, Quota, default_endpoint, parse_bedrock_id
from litellm_systemd.bedrock.refusals import find_refusal
from litellm_systemd.env.aws import (
    BEARER_VARIABLE,
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
from litellm_systemd.env.secret_references import is_reference
from litellm_systemd.errors import InputError, InstallerError, Unavailable
from litellm_systemd.gateway.config_types import GatewayConfig
from litellm_systemd.gateway.installed_litellm import Lifecycle, find_entry
from litellm_systemd.gateway.models import ServedModel
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.stored_secrets import with_stored_secrets

#: GetCallerIdentity gives the same answer in every region of a partition.
_ANY_REGION = "us-east-1"
#: Of a proxy or a firewall that answers in place of AWS.
NOT_AWS = "not AWS answers, but something in between"
_SKEW = ("Signature expired", "Signature not yet current")


class ClockWrong(InputError):
    """AWS rejects the requests of this host because of its clock, not because of the key."""


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """The owner of a key; or, if it is unknown, the reason (`doubt`)."""

    arn: str | None = None
    doubt: str | None = None

    @property
    def is_root_user(self) -> bool:
        """Whether the key belongs to the account's root user, which may do everything."""
        return self.arn is not None and self.arn.endswith(":root")


def identify(credentials: Credentials, environ: Mapping[str, str], where: str) -> KeyOwner:
    """Query STS for the owner of a key (GetCallerIdentity, which needs no permission).

    Args:
        credentials: the key pair, with its token if it has one. No other is tried.
        environ: the service's environment, with its endpoint, proxy and CA.
        where: the source of the pair, for messages.

    Raises:
        InputError: AWS refuses the pair; the message says why.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        client = connect_by_pair(credentials, environ, credentials.region or _ANY_REGION, "sts")
        answer = client.get_caller_identity()
    except ClientError as error:
        return _refusal(error.response, credentials, where)
    except (ResponseParserError, KeyError):
        return KeyOwner(doubt=NOT_AWS)
    except (BotoCoreError, ValueError) as error:
        return KeyOwner(doubt=_unreached(error, environ))
    return KeyOwner(arn=str(answer["Arn"]))


def _refusal(response: Mapping[str, Any], credentials: Credentials, where: str) -> KeyOwner:
    said = response.get("Error", {})
    code, text = str(said.get("Code", "")), str(said.get("Message", ""))
    shown = f"the access key {credentials.access_key[:4]}…{credentials.access_key[-4:]}"
    if code in ("InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId"):
        raise InputError(
            f"{where}: AWS doesn't know {shown}: it was deleted, deactivated or mistyped",
            "Create a new one in the IAM console (Users, Security credentials), or copy this one again.",
        )
    if code in ("ExpiredToken", "ExpiredTokenException"):
        raise InputError(
            f"{where}: {shown} is temporary and has expired", "Sign in again, and use the new key and token."
        )
    if code == "RequestExpired" or text.startswith(_SKEW):
        date = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        raise ClockWrong(
            f"{where}: AWS rejects requests from this host because its clock is wrong"
            + (f" (the time of AWS: {date})" if date else ""),
            "Set the clock: sudo timedatectl set-ntp true",
        )
    if code == "SignatureDoesNotMatch":
        raise InputError(
            f"{where}: the secret of {shown} is wrong", "Copy the complete secret again, without quotes."
        )
    if _is_page(code):
        return KeyOwner(doubt=NOT_AWS)
    return KeyOwner(doubt=f"STS answers {code or 'an unknown error'}{f': {text}' if text else ''}")


def _is_page(code: str) -> bool:
    """Whether an answer is a page: botocore then takes the status as the code, and AWS's codes are words."""
    return not code or code.isdigit()


def _unreached(error: Exception, environ: Mapping[str, str]) -> str:
    from botocore.exceptions import ProxyConnectionError, SSLError

    if isinstance(error, SSLError):
        named = environ.get("SSL_CERT_FILE")
        return (
            f"the certificate of STS isn't trusted: {named} doesn't contain its CA"
            if named
            else ("the certificate of STS isn't trusted: behind a proxy that opens TLS, set SSL_CERT_FILE to its CA")
        )
    if isinstance(error, ProxyConnectionError):
        return "the proxy for STS can't be reached"
    return f"STS can't be reached ({type(error).__name__})"


#: Seconds for a connection and for an answer. These queries are optional, so they must be short; none is retried.
CONNECT_TIMEOUT, READ_TIMEOUT = 2, 5


class Refused(Exception):
    """AWS can't be queried, and further queries would fail as well; the text says why."""


class RoleRefused(Refused):
    """STS does not let the service assume its role."""


def load() -> None:
    """Import all parts of botocore that this package imports on demand. Call it before threads are started.

    Threads that import parts of one package at the same time can get a partially imported module: to prevent a
    deadlock importlib lets no thread wait for one that waits for it (`_ModuleLock` in importlib/_bootstrap.py).
    """
    import botocore.configloader
    import botocore.httpsession
    import botocore.session
    import botocore.tokens  # noqa: F401


def connect(environ: Mapping[str, str], region: str, service: str = "bedrock") -> Any:
    """Return a client with the service's keys or API key, otherwise the role of the EC2 instance.

    With AWS_ROLE_NAME it has assumed that role with any of these. Calls of the client raise errors of botocore, which
    `describe_error` and `describe_refusal` turn into text.

    Raises:
        Refused: there are no credentials, or they can't be loaded.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    environ = _with_api_key(environ)
    session = _session(environ)
    try:
        if environ.get(ROLE) and not environ.get(BEARER_VARIABLE):
            _assume_role(session, environ, region)
        return _build(session, environ, region, service)
    except ClientError as error:
        said = error.response.get("Error", {}).get("Message", "no reason given")
        raise RoleRefused(f"the service's role can't be assumed: {said}") from None
    except (BotoCoreError, ValueError) as error:
        raise Refused(describe_error(error)) from None


def _with_api_key(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment with the API key itself, if that is kept in AWS."""
    if not is_reference(environ.get(BEARER_VARIABLE, "")):
        return environ
    try:
        return with_stored_secrets(environ)
    except InstallerError as error:
        raise Refused(error.message) from None


def whoami(environ: Mapping[str, str], region: str) -> str:
    """Return the ARN of the identity that the service calls AWS with.

    Raises:
        RoleRefused: the service may not assume its role.
        Refused: STS can't be queried, or doesn't know the credentials.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    if environ.get(BEARER_VARIABLE):
        raise Refused("STS accepts no Bedrock API key")
    try:
        return str(connect(environ, region, "sts").get_caller_identity()["Arn"])
    except ClientError as error:
        raise Refused(describe_refusal(error)) from None
    except (ResponseParserError, KeyError):
        raise Refused(NOT_AWS) from None
    except BotoCoreError as error:
        raise Refused(describe_error(error)) from None


def sign_database_token(environ: Mapping[str, str], region: str, host: str, port: int, user: str) -> str:
    """A password for a database on RDS or Aurora with IAM authentication, valid for 15 minutes.

    RDS is not queried. The credentials are those of LiteLLM (proxy/auth/rds_iam_token.py), also next to an API key of
    Bedrock, which signs nothing.

    Raises:
        Refused: there are no credentials, or they can't be loaded.
    """
    from botocore.exceptions import BotoCoreError

    client = connect({name: value for name, value in environ.items() if name != BEARER_VARIABLE}, region, "rds")
    try:
        return str(client.generate_db_auth_token(host, port, user, Region=region))
    except BotoCoreError as error:
        raise Refused(describe_error(error)) from None
    finally:
        client.close()


def sign_cache_token(
    environ: Mapping[str, str], region: str, cache: str, user: str, *, is_serverless: bool = False
) -> str:
    """A password for ElastiCache with IAM authentication, valid for 15 minutes.

    AWS is not queried, but for the credentials of an instance. They are those of LiteLLM, which assumes no role here
    (_redis_credential_provider.py).

    Raises:
        Refused: there are no credentials, or they can't be loaded.
    """
    from botocore.auth import SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.exceptions import BotoCoreError

    try:
        credentials = _session(environ).get_credentials()
    except BotoCoreError as error:
        raise Refused(describe_error(error)) from None
    if credentials is None:
        raise Refused("there are none")
    query = {"Action": "connect", "User": user, **({"ResourceType": "ServerlessCache"} if is_serverless else {})}
    request = AWSRequest(method="GET", url=f"https://{cache}/?{urlencode(query)}")
    SigV4QueryAuth(credentials.get_frozen_credentials(), "elasticache", region, expires=900).add_auth(request)
    return str(request.url).removeprefix("https://")


def describe_refusal(error: Any) -> str:
    """Return the meaning of an error response of AWS (a ClientError)."""
    found = error.response.get("Error", {})
    code, said = found.get("Code", ""), found.get("Message", "") or "no reason given"
    return _WORDS.get(code, f"{code or 'an error'}: {said}")


_WORDS = {
    "AccessDeniedException": "these credentials lack the permission ('litellmctl iam-policy' prints what they need)",
    "UnrecognizedClientException": "AWS doesn't know these credentials",
    "InvalidSignatureException": "AWS doesn't accept the signature: the secret key or the clock is wrong",
    "ExpiredTokenException": "the credentials have expired",
    "ThrottlingException": "AWS throttles the requests; try again in a minute",
    "TooManyRequestsException": "AWS throttles the requests; try again in a minute",
}


def describe_error(error: Exception) -> str:
    """Return why there is no answer: the meaning of an error of botocore itself."""
    from botocore import exceptions as known

    if isinstance(error, known.SSLError):
        return "its certificate isn't trusted here (SSL_CERT_FILE names a private CA)"
    if isinstance(error, known.ProxyConnectionError):
        return "the proxy refuses the connection"
    if isinstance(error, known.ConnectionError | known.HTTPClientError):  # no connection, or no answer in time
        return "it can't be reached from here"
    return str(error)


def connect_by_pair(credentials: Credentials, environ: Mapping[str, str], region: str, service: str) -> Any:
    """Return a client with this key pair alone, and with the endpoint, proxy and CA that `environ` names."""
    session = blank_session()
    session.set_credentials(credentials.access_key, credentials.secret_key, credentials.session_token)
    return _build(session, environ, region, service)


def _build(session: Any, environ: Mapping[str, str], region: str, service: str) -> Any:
    from botocore.config import Config

    endpoint = next((environ[name] for name in _ENDPOINTS[service] if environ.get(name)), None)
    # For names with a hyphen, service and host differ.
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
            # Explicit, since botocore would otherwise look for an API key in the caller's environment.
            signature_version="bearer" if takes_api_key else "v4",
        ),
    )


_ENDPOINTS = {
    "autoscaling": ("AWS_ENDPOINT_URL_AUTO_SCALING", "AWS_ENDPOINT_URL"),
    "bedrock": ("AWS_ENDPOINT_URL_BEDROCK", "AWS_ENDPOINT_URL"),
    "bedrock-runtime": ("AWS_BEDROCK_RUNTIME_ENDPOINT", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "AWS_ENDPOINT_URL"),
    "rds": (),
    "service-quotas": ("AWS_ENDPOINT_URL_SERVICE_QUOTAS", "AWS_ENDPOINT_URL"),
    "sts": STS_ENDPOINTS,
}
_HOSTS = {"service-quotas": "servicequotas"}


def _assume_role(session: Any, environ: Mapping[str, str], region: str) -> None:
    """Give the session the role that LiteLLM assumes, in the same way (llms/bedrock/base_aws_llm.py).

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
    """Whether the identity is that role already. LiteLLM assumes no role in this case."""
    held = re.sub(r":iam::(\d+):role/(?:.*/)?([^/]+)$", r":sts::\1:assumed-role/\2/", role)
    return identity.startswith(held) and held != role


def _session(environ: Mapping[str, str]) -> Any:
    """Return a session that uses the service's environment alone."""
    from botocore.tokens import ScopedEnvTokenProvider, TokenProviderChain

    session = blank_session()
    session.register_component("token_provider", TokenProviderChain([ScopedEnvTokenProvider(session, environ)]))
    if environ.get(BEARER_VARIABLE):
        return session
    if environ.get(WEB_IDENTITY):
        raise Refused("the service uses a web identity, which litellmctl doesn't support")
    access, secret = (environ.get(name) for name in PAIR)
    if profile := environ.get(PROFILE_NAME) or environ.get(PROFILE):
        keys = _profile(profile, environ)
        session.set_credentials(keys.access_key, keys.secret_key, keys.session_token)
    elif access and secret:
        session.set_credentials(access, secret, environ.get(TOKEN) or None)
    elif access or secret:
        raise Refused("the service's environment has half a key pair")
    else:
        keys = _instance_role(environ)
        session.set_credentials(keys.access_key, keys.secret_key, keys.session_token)
    return session


def _profile(name: str, environ: Mapping[str, str]) -> Credentials:
    try:
        return read_service_profile(name, environ, Path(Layout().state))
    except InstallerError as error:
        raise Refused(error.message) from None


def _instance_role(environ: Mapping[str, str]) -> Credentials:
    # Not botocore's own fetcher: it uses the proxy of the caller's environment, and reports no reason.
    found = observe_instance(environ)
    if found.credentials is None:
        reason = f", and {found.trouble.message}" if found.trouble else ""
        raise Refused(f"the service's environment has no credentials{reason}")
    return found.credentials


#: The largest page of Service Quotas. Bedrock has more than a thousand quotas, and they can't be filtered by model.
_PAGE = 100
_DENIED = "the service may not query Service Quotas: the statement AskForQuotas of 'litellmctl iam-policy' allows it"

Found = TypeVar("Found")

#: Refusals whose messages could refer to the empty body.
_BODY_REFUSALS = ("parameter-refused", "prompt-too-long")


@dataclass(frozen=True, slots=True)
class BedrockCatalogue:
    """What Bedrock returned: `lifecycles` by model id, and in `profiles` the ARNs of the models behind each profile.

    `unknown` are the ids that Bedrock doesn't know in that region. `refusal` is the reason why the rest is missing,
    None if the answer is complete.
    """

    lifecycles: Mapping[str, Lifecycle] = field(default_factory=dict)
    profiles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    refusal: str | None = None


def ask_bedrock(
    environ: Mapping[str, str], region: str, *, models: tuple[str, ...] = (), profiles: tuple[str, ...] = ()
) -> BedrockCatalogue:
    """Query the lifecycles of `models` and the models behind `profiles`, with the service's environment.

    Uses its keys or API key, otherwise the role of the EC2 instance; the role that it assumes with them
    (AWS_ROLE_NAME); its proxy, CA and AWS_ENDPOINT_URL_BEDROCK.
    Raises nothing: the first failure ends the query, and `refusal` has its reason.
    """
    lifecycles: dict[str, Lifecycle] = {}
    behind: dict[str, tuple[str, ...]] = {}
    unknown: set[str] = set()
    refusal = None
    try:
        client = connect(environ, region)
        _learn(
            lifecycles, unknown, models, lambda each: _lifecycle(client.get_foundation_model(modelIdentifier=each))
        )
        get_profile = client.get_inference_profile
        _learn(behind, unknown, profiles, lambda each: _behind(get_profile(inferenceProfileIdentifier=each)))
    except Refused as error:
        refusal = str(error)
    return BedrockCatalogue(lifecycles, behind, frozenset(unknown), refusal)


def _learn(known: dict[str, Found], unknown: set[str], names: tuple[str, ...], ask: Callable[[str], Found]) -> None:
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    for name in names:
        try:
            known[name] = ask(name)
        except ParamValidationError:
            unknown.add(name)  # not the format of a model id
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code not in ("ResourceNotFoundException", "ValidationException"):
                raise Refused(describe_refusal(error)) from None
            unknown.add(name)
        except BotoCoreError as error:
            raise Refused(describe_error(error)) from None


def _lifecycle(answer: Mapping[str, Any]) -> Lifecycle:
    found = answer.get("modelDetails", {}).get("modelLifecycle", {})
    ends = found.get("endOfLifeTime")
    return Lifecycle(str(found.get("status", "unknown")).lower(), ends.date() if isinstance(ends, datetime) else None)


def _behind(answer: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(model["modelArn"]) for model in answer.get("models", ()) if "modelArn" in model)


def try_model(environ: Mapping[str, str], region: str, model: str) -> str | None:
    """Check whether the service may call a model or profile, by a request with an empty body, which is not billed.

    AWS checks credentials, permission and model first, and then refuses the body as not valid.

    Returns:
        The message of AWS's refusal; None if AWS refused the body alone.

    Raises:
        Unavailable: AWS can't be reached; the message says why.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = connect(environ, region, "bedrock-runtime").invoke_model(modelId=model, body=b"{}")
    except ClientError as error:
        code, said = str(error.response.get("Error", {}).get("Code", "")), str(error)
        if _is_page(code):
            return f"{NOT_AWS} (status {code or 'unknown'})"
        found = find_refusal(said)
        refers_to_body = code == "ValidationException" and (found is None or found.name in _BODY_REFUSALS)
        return None if refers_to_body else said
    except BotoCoreError as error:
        raise Unavailable(describe_error(error)) from None
    except Refused as error:
        raise Unavailable(str(error)) from None
    # A server of the user's own, AWS_BEDROCK_RUNTIME_ENDPOINT, may accept it and send JSON.
    kind = str(answer.get("contentType", ""))
    return None if "json" in kind else f"{NOT_AWS} (status 200, {kind or 'without a type'})"


def query_lifecycles(
    config: GatewayConfig, served: tuple[ServedModel, ...], environ: Mapping[str, str]
) -> tuple[tuple[ServedModel, ...], str | None]:
    """Return the models with the lifecycles that Bedrock reports, and the reason of the first failure, if any.

    Models without an answer keep the lifecycle of the model map. Raises nothing.
    """
    updated: dict[ServedModel, ServedModel] = {}
    refusals = []
    for caller in callers(config, served, environ):
        opaque = {each.found.text for each in caller.models if each.found is not None and _is_opaque(each)}
        profiles = (
            ask_bedrock(caller.environ, caller.region, profiles=tuple(sorted(opaque)))
            if opaque
            else BedrockCatalogue()
        )
        models = {each: _resolve_profile(each, profiles) for each in caller.models}
        ids = {
            each.found.model for each in models.values() if each.found is not None and each.found.model is not None
        }
        answers = ask_bedrock(caller.environ, caller.region, models=tuple(sorted(ids)))
        updated |= {each: _with_lifecycle(resolved, answers) for each, resolved in models.items()}
        refusals += [refusal for refusal in (profiles.refusal, answers.refusal) if refusal is not None]
    return tuple(updated.get(each, each) for each in served), next(iter(refusals), None)


def _is_opaque(served: ServedModel) -> bool:
    return served.found is not None and served.found.kind is IdKind.APPLICATION_PROFILE and served.found.model is None


def _resolve_profile(served: ServedModel, answers: BedrockCatalogue) -> ServedModel:
    """Return an application inference profile with its model; any other model unchanged."""
    found = served.found
    arns = answers.profiles.get(found.text, ()) if found is not None else ()
    behind = parse_bedrock_id(f"bedrock/{arns[0]}") if arns else None
    if found is None or behind is None:
        return served
    found = replace(found, model=behind.model)
    entry = find_entry(found, served.region)
    return replace(served, found=found, entry=entry, life=Lifecycle(None, entry.ends if entry is not None else None))


def _with_lifecycle(served: ServedModel, answers: BedrockCatalogue) -> ServedModel:
    """Return a model with the lifecycle that Bedrock reports; without one it keeps that of the model map."""
    model = served.found.model if served.found is not None else None
    if model in answers.unknown:
        return replace(served, life=replace(served.life, status="unknown to Bedrock"))
    return replace(served, life=answers.lifecycles.get(model or "", served.life))


def list_quotas(environ: Mapping[str, str], region: str) -> Iterator[Quota]:
    """Yield Bedrock's quotas of the service's account; each page is a request.

    Raises:
        Unavailable: a page can't be read; the message says why.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    if environ.get(BEARER_VARIABLE):
        raise Unavailable("Service Quotas accepts no Bedrock API key")
    try:
        pages = connect(environ, region, "service-quotas").get_paginator("list_service_quotas")
        for page in pages.paginate(ServiceCode="bedrock", PaginationConfig={"PageSize": _PAGE}):
            yield from map(_quota, page["Quotas"])
    except ClientError as error:
        denied = error.response.get("Error", {}).get("Code") == "AccessDeniedException"
        raise Unavailable(_DENIED if denied else f"Service Quotas: {describe_refusal(error)}") from None
    except BotoCoreError as error:
        raise Unavailable(f"Service Quotas: {describe_error(error)}") from None
    except Refused as error:
        raise Unavailable(str(error)) from None


def find_default(environ: Mapping[str, str], region: str, code: str) -> float | None:
    """Return the default of AWS for a quota, None if it can't be read."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client = connect(environ, region, "service-quotas")
        return float(client.get_aws_default_service_quota(ServiceCode="bedrock", QuotaCode=code)["Quota"]["Value"])
    except (BotoCoreError, ClientError, Refused):
        return None


def _quota(found: Mapping[str, Any]) -> Quota:
    return Quota(str(found["QuotaName"]), str(found["QuotaCode"]), float(found["Value"]), bool(found["Adjustable"]))
