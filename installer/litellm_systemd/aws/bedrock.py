"""What Bedrock's control plane says of models and inference profiles, asked as the service would ask.

With `aws` the only user of botocore. Nothing is taken from the caller's own environment and ~/.aws: who runs
litellmctl is another one than the service.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from litellm_systemd.aws.profiles import blank_session, proxies_for
from litellm_systemd.bedrock.model_map import Life
from litellm_systemd.bedrock.refusals import find_refusal
from litellm_systemd.errors import Unavailable

#: Seconds: for a connection, and for an answer. Nobody waits longer for what is nice to know; nothing is tried twice.
CONNECT_TIMEOUT, READ_TIMEOUT = 2, 5

Told = TypeVar("Told")


@dataclass(frozen=True, slots=True)
class Answers:
    """What Bedrock told. `lives` by model id, `profiles` the ARNs of the models behind a profile, by its id.

    `unknown` are ids that Bedrock doesn't know in that region. `refusal` says why it couldn't be asked for the rest,
    None if it told all.
    """

    lives: Mapping[str, Life] = field(default_factory=dict)
    profiles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    refusal: str | None = None


class _Refused(Exception):
    """Bedrock didn't answer, and wouldn't answer the next question either."""


def ask_bedrock(
    environ: Mapping[str, str], region: str, *, models: tuple[str, ...] = (), profiles: tuple[str, ...] = ()
) -> Answers:
    """Ask for the lifecycle of `models` and for what is behind `profiles`, with the service's environment.

    Honours its keys or API key, else the role of the EC2 instance, the role that it assumes by any of these
    (AWS_ROLE_NAME), its proxy, CA and AWS_ENDPOINT_URL_BEDROCK.
    Raises nothing: what went wrong is told in `refusal`, and the first refusal ends it.
    """
    lives: dict[str, Life] = {}
    behind: dict[str, tuple[str, ...]] = {}
    unknown: set[str] = set()
    refusal = None
    try:
        client = _client(environ, region)
        _learn(lives, unknown, models, lambda each: _lifecycle(client.get_foundation_model(modelIdentifier=each)))
        get_profile = client.get_inference_profile
        _learn(behind, unknown, profiles, lambda each: _behind(get_profile(inferenceProfileIdentifier=each)))
    except _Refused as error:
        refusal = str(error)
    return Answers(lives, behind, frozenset(unknown), refusal)


def _learn(known: dict[str, Told], unknown: set[str], names: tuple[str, ...], ask: Callable[[str], Told]) -> None:
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    for name in names:
        try:
            known[name] = ask(name)
        except ParamValidationError:
            unknown.add(name)  # nothing that could be the id of a model
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code not in ("ResourceNotFoundException", "ValidationException"):
                raise _Refused(_in_words(error, code)) from None
            unknown.add(name)
        except BotoCoreError as error:
            raise _Refused(_why(error)) from None


def _lifecycle(answer: Mapping[str, Any]) -> Life:
    found = answer.get("modelDetails", {}).get("modelLifecycle", {})
    ends = found.get("endOfLifeTime")
    return Life(str(found.get("status", "unknown")).lower(), ends.date() if isinstance(ends, datetime) else None)


def _behind(answer: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(model["modelArn"]) for model in answer.get("models", ()) if "modelArn" in model)


def _in_words(error: Any, code: str) -> str:
    words = {
        "AccessDeniedException": "these credentials may not ask ('litellmctl iam-policy' prints what they need)",
        "UnrecognizedClientException": "AWS doesn't know these credentials",
        "InvalidSignatureException": "AWS doesn't accept the signature: a wrong secret key, or a wrong clock",
        "ExpiredTokenException": "the credentials have expired",
        "ThrottlingException": "AWS asks for fewer questions; try again in a minute",
    }
    said = error.response.get("Error", {}).get("Message", "") or "no reason given"
    return words.get(code, f"{code or 'an error'}: {said}")


def _why(error: Exception) -> str:
    from botocore import exceptions as known

    if isinstance(error, known.NoCredentialsError | known.PartialCredentialsError):
        return "the service's environment has no credentials, and there is no role of an EC2 instance"
    if isinstance(error, known.SSLError):
        return "its certificate isn't trusted here (SSL_CERT_FILE names a private CA)"
    if isinstance(error, known.ProxyConnectionError):
        return "the proxy doesn't let it through"
    if isinstance(error, known.ConnectionError | known.HTTPClientError):  # no connection, or no answer in time
        return "it can't be reached from here"
    return str(error)


def try_model(environ: Mapping[str, str], region: str, model: str) -> str | None:
    """Whether the service may call a model, or a profile: asked with an empty body, which isn't billed.

    AWS looks at credentials, permission and model before it looks at the body, and then calls it not valid.

    Returns:
        AWS's refusal in its own words; None if the body alone was refused.

    Raises:
        Unavailable: it couldn't be asked; the message says why.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        _client(environ, region, "bedrock-runtime").invoke_model(modelId=model, body=b"{}")
    except ClientError as error:
        code, said = error.response.get("Error", {}).get("Code", ""), str(error)
        found = find_refusal(said)
        about_the_body = code == "ValidationException" and (found is None or found.name in _ABOUT_THE_BODY)
        return None if about_the_body else said
    except BotoCoreError as error:
        raise Unavailable(_why(error)) from None
    except _Refused as error:
        raise Unavailable(str(error)) from None
    return None


#: Refusals whose words could be about an empty body.
_ABOUT_THE_BODY = ("parameter-refused", "prompt-too-long")


def _client(environ: Mapping[str, str], region: str, service: str = "bedrock") -> Any:
    from botocore.exceptions import BotoCoreError, ClientError

    session = _session(environ)
    try:
        if environ.get("AWS_ROLE_NAME") and not environ.get(_BEARER):
            session.set_credentials(*_assumed(_build(session, environ, region, "sts"), environ))
        return _build(session, environ, region, service)
    except ClientError as error:
        said = error.response.get("Error", {}).get("Message", "no reason given")
        raise _Refused(f"the service's role can't be assumed: {said}") from None
    except (BotoCoreError, ValueError) as error:
        raise _Refused(_why(error)) from None


def _build(session: Any, environ: Mapping[str, str], region: str, service: str) -> Any:
    from botocore.config import Config

    endpoint = next((environ[name] for name in _ENDPOINTS[service] if environ.get(name)), None)
    host = (urlsplit(endpoint).hostname if endpoint else None) or f"{service}.{region}.amazonaws.com"
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
            signature_version="bearer" if environ.get(_BEARER) else "v4",
        ),
    )


_BEARER = "AWS_BEARER_TOKEN_BEDROCK"
_ENDPOINTS = {
    "bedrock": ("AWS_ENDPOINT_URL_BEDROCK", "AWS_ENDPOINT_URL"),
    "bedrock-runtime": ("AWS_BEDROCK_RUNTIME_ENDPOINT", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "AWS_ENDPOINT_URL"),
    "sts": ("AWS_STS_ENDPOINT", "AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"),
}


def _assumed(sts: Any, environ: Mapping[str, str]) -> tuple[str, str, str]:
    """The keys of the role that LiteLLM assumes, as it assumes it (llms/bedrock/base_aws_llm.py)."""
    name = environ.get("AWS_SESSION_NAME") or "litellmctl"
    external = {"ExternalId": environ["AWS_EXTERNAL_ID"]} if environ.get("AWS_EXTERNAL_ID") else {}
    keys = sts.assume_role(RoleArn=environ["AWS_ROLE_NAME"], RoleSessionName=name, **external)["Credentials"]
    return keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"]


def _session(environ: Mapping[str, str]) -> Any:
    """A session that sees the service's environment alone."""
    from botocore.tokens import ScopedEnvTokenProvider, TokenProviderChain

    session = blank_session()
    session.register_component("token_provider", TokenProviderChain([ScopedEnvTokenProvider(session, environ)]))
    if environ.get(_BEARER):
        return session
    if environ.get("AWS_PROFILE") or environ.get("AWS_WEB_IDENTITY_TOKEN"):
        raise _Refused("the service uses a profile or a web identity, which litellmctl doesn't do for it")
    access, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if access and secret:
        session.set_credentials(access, secret, environ.get("AWS_SESSION_TOKEN") or None)
    elif access or secret:
        raise _Refused("the service's environment has half a key pair")
    else:
        session.register_component("credential_provider", _instance_role(environ))
    return session


def _instance_role(environ: Mapping[str, str]) -> Any:
    from botocore.credentials import CredentialResolver, InstanceMetadataProvider
    from botocore.utils import InstanceMetadataFetcher

    # The fetcher reads AWS_EC2_METADATA_DISABLED out of the environment that it is given.
    base = {**environ, **{name: os.environ[name] for name in _METADATA if name in os.environ}}
    config = {"ec2_metadata_service_endpoint": base.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or None}
    fetcher = InstanceMetadataFetcher(timeout=1, num_attempts=1, env=base, config=config)
    return CredentialResolver([InstanceMetadataProvider(fetcher)])


#: Where the instance's metadata is, is the host's business: a caller may say so as well.
_METADATA = ("AWS_EC2_METADATA_DISABLED", "AWS_EC2_METADATA_SERVICE_ENDPOINT")
