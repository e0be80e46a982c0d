"""What Bedrock's control plane says of models and inference profiles, asked as the service would ask.

Nothing is taken from the caller's own environment and ~/.aws: who runs litellmctl is another one than the service.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from litellm_systemd.aws.client import Refused, connect, in_words, why
from litellm_systemd.bedrock.refusals import find_refusal
from litellm_systemd.errors import Unavailable
from litellm_systemd.gateway.model_map import Lifecycle

Told = TypeVar("Told")


@dataclass(frozen=True, slots=True)
class BedrockCatalogue:
    """What Bedrock told. `lives` by model id, `profiles` the ARNs of the models behind a profile, by its id.

    `unknown` are ids that Bedrock doesn't know in that region. `refusal` says why it couldn't be asked for the rest,
    None if it told all.
    """

    lives: Mapping[str, Lifecycle] = field(default_factory=dict)
    profiles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    refusal: str | None = None


def ask_bedrock(
    environ: Mapping[str, str], region: str, *, models: tuple[str, ...] = (), profiles: tuple[str, ...] = ()
) -> BedrockCatalogue:
    """Ask for the lifecycle of `models` and for what is behind `profiles`, with the service's environment.

    Honours its keys or API key, else the role of the EC2 instance, the role that it assumes by any of these
    (AWS_ROLE_NAME), its proxy, CA and AWS_ENDPOINT_URL_BEDROCK.
    Raises nothing: what went wrong is told in `refusal`, and the first refusal ends it.
    """
    lives: dict[str, Lifecycle] = {}
    behind: dict[str, tuple[str, ...]] = {}
    unknown: set[str] = set()
    refusal = None
    try:
        client = connect(environ, region)
        _learn(lives, unknown, models, lambda each: _lifecycle(client.get_foundation_model(modelIdentifier=each)))
        get_profile = client.get_inference_profile
        _learn(behind, unknown, profiles, lambda each: _behind(get_profile(inferenceProfileIdentifier=each)))
    except Refused as error:
        refusal = str(error)
    return BedrockCatalogue(lives, behind, frozenset(unknown), refusal)


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
                raise Refused(in_words(error)) from None
            unknown.add(name)
        except BotoCoreError as error:
            raise Refused(why(error)) from None


def _lifecycle(answer: Mapping[str, Any]) -> Lifecycle:
    found = answer.get("modelDetails", {}).get("modelLifecycle", {})
    ends = found.get("endOfLifeTime")
    return Lifecycle(str(found.get("status", "unknown")).lower(), ends.date() if isinstance(ends, datetime) else None)


def _behind(answer: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(model["modelArn"]) for model in answer.get("models", ()) if "modelArn" in model)


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
        connect(environ, region, "bedrock-runtime").invoke_model(modelId=model, body=b"{}")
    except ClientError as error:
        code, said = error.response.get("Error", {}).get("Code", ""), str(error)
        found = find_refusal(said)
        about_the_body = code == "ValidationException" and (found is None or found.name in _ABOUT_THE_BODY)
        return None if about_the_body else said
    except BotoCoreError as error:
        raise Unavailable(why(error)) from None
    except Refused as error:
        raise Unavailable(str(error)) from None
    return None


#: Refusals whose words could be about an empty body.
_ABOUT_THE_BODY = ("parameter-refused", "prompt-too-long")
