"""AWS, as the service has it: role, key, identity, and each model. Nothing here is billed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone

from litellm_systemd.aws.bedrock import try_model
from litellm_systemd.aws.client import Refused, RoleRefused, whoami
from litellm_systemd.aws.credentials import Caller, callers, needs_metadata, uses_pair
from litellm_systemd.aws.identity import Identity, identify
from litellm_systemd.aws.instance import DISABLED_HERE, DISABLED_VARIABLE, observe_instance
from litellm_systemd.aws.lifecycle import ask_lives
from litellm_systemd.aws.profiles import Credentials
from litellm_systemd.bedrock.refusals import find_refusal
from litellm_systemd.doctor.cause import Cause, Finding, looks_for
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.aws import CREDENTIAL_VARIABLES, KEY_ID, PAIR, TOKEN
from litellm_systemd.env.aws import ROLE as ROLE_NAME
from litellm_systemd.env.expiry import BEARER_VARIABLE
from litellm_systemd.errors import InputError, Unavailable
from litellm_systemd.gateway.config_types import Severity
from litellm_systemd.gateway.served_models import build_served, end_findings
from litellm_systemd.report.report import Outcome

_TOLD = ("files-not-installed", "files-gone", "environment-unusable", "configuration-unusable")
_NETWORK = (
    *("network-sandbox", "network-dns", "network-proxy", "network-unreachable", "network-certificate"),
    "environment-credentials",
)

ROLE = Cause(
    "aws-role",
    "The service takes its credentials from the EC2 instance, and that gives it none: every call fails.",
    "{remedy}",
    needs=(*_TOLD, "environment-credentials"),
    follows=("host-clock",),
)


@looks_for(ROLE)
def role(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the instance has a role whose credentials can be had, if the configuration needs that."""
    if not needs_metadata(snapshot.gateway, snapshot.environment):
        return
    trouble = observe_instance(snapshot.environment).trouble
    if trouble is not None and trouble.code == DISABLED_HERE:
        raise Unavailable(f"{DISABLED_VARIABLE}=true is set here, and not for the service")
    if trouble is not None:
        yield ROLE.found(trouble.message, remedy=trouble.hint)


KEY = Cause(
    "aws-key",
    "AWS refuses the access key of the environment: every call fails.",
    "{remedy}",
    needs=(*_TOLD, *_NETWORK),
    follows=("host-clock",),
)


@looks_for(KEY)
def key(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether STS knows the access key, if one is used."""
    environ = snapshot.environment
    if not uses_pair(snapshot.gateway, environ) or environ.get(BEARER_VARIABLE) or not environ.get(PAIR[1]):
        return
    try:
        identity = _owner_of_key(snapshot)
    except InputError as error:
        yield KEY.found(error.message, remedy=error.hint)
        return
    if identity.doubt is not None:
        raise Unavailable(identity.doubt)


def _owner_of_key(snapshot: Snapshot) -> Identity:
    """Whose the key pair of the environment is; STS is asked once."""
    environ, where = snapshot.environment, snapshot.layout.environment_file
    pair = Credentials(environ[KEY_ID], environ[PAIR[1]], environ.get(TOKEN) or None, snapshot.settings.region)
    found: Identity = snapshot.once("owner of the key", lambda: identify(pair, environ, where))
    return found


IDENTITY = Cause(
    "aws-identity",
    "The service assumes a role (AWS_ROLE_NAME, or aws_role_name of a model), and AWS doesn't let it: every call with"
    " that role fails.",
    "aws iam get-role --role-name {name} --query Role.AssumeRolePolicyDocument    # must let in the identity that is"
    " named, which needs sts:AssumeRole on {role}; and AWS_EXTERNAL_ID must be what it asks for",
    needs=(*_TOLD, *_NETWORK, "aws-role", "aws-key"),
    follows=("host-clock",),
)


@looks_for(IDENTITY)
def identity(snapshot: Snapshot) -> Iterator[Finding | str]:
    """Who the service is to AWS, and whether it may become the role that it assumes."""
    callers = find_callers(snapshot)
    with ThreadPoolExecutor(8) as pool:
        for caller, found in zip(callers, pool.map(lambda each: _identity(snapshot, each), callers), strict=True):
            role = "" if caller.environ.get(BEARER_VARIABLE) else caller.environ.get(ROLE_NAME, "")
            names = ", ".join(each.model.name for each in caller.models)
            if isinstance(found, RoleRefused):
                yield IDENTITY.found(f"{names}: {found}", role=role, name=role.rpartition("/")[2])
            elif isinstance(found, str):
                yield f"{found} calls {names}"
            elif role:
                raise Unavailable(str(found))


def _identity(snapshot: Snapshot, caller: Caller) -> str | Refused:
    """The ARN, or why it isn't known: a service that assumes no role can do without STS."""
    if _is_by_key(snapshot.environment, caller.environ):  # `key` has asked that, and nothing was wrong
        return _owner_of_key(snapshot).arn or Refused("STS knows no owner of the key")

    def ask() -> str | Refused:
        try:
            return whoami(caller.environ, caller.region)
        except Refused as error:
            return error

    return snapshot.within(ask) or Refused("STS takes too long to answer")


def _is_by_key(service: Mapping[str, str], caller: Mapping[str, str]) -> bool:
    """Whether a caller signs by the key pair of the environment, and by nothing else."""
    same = all(caller.get(name) == service.get(name) for name in CREDENTIAL_VARIABLES)
    others = (ROLE_NAME, BEARER_VARIABLE)
    return same and all(caller.get(name) for name in PAIR) and not any(caller.get(name) for name in others)


ENDED = Cause(
    "aws-model-ended",
    "Bedrock ends models on a day that it announces: after it every call is refused.",
    "sudoedit {path}    # {remedy} What there is: litellmctl models",
    needs=_TOLD,
)


@looks_for(ENDED)
def ended(snapshot: Snapshot) -> Iterator[Finding | str]:
    """Whether a model has ended, or ends soon: as Bedrock says, or as far as this release knows."""
    known = build_served(snapshot.gateway, snapshot.environment)
    asked = snapshot.within(lambda: ask_lives(snapshot.gateway, known, snapshot.environment))
    served, refusal = asked or (known, "it takes too long to answer")
    by = (
        f"by the model map of this release, since Bedrock wasn't asked: {refusal}" if refusal else "by Bedrock itself"
    )
    for item in end_findings(snapshot.gateway, served, datetime.now(timezone.utc).date()):
        outcome = Outcome.FAILED if item.severity is Severity.ERROR else Outcome.WARNING
        path = snapshot.layout.config_link
        yield ENDED.found(f"{item} ({by})", outcome=outcome, path=path, remedy=item.remedy)
    if any(each.is_called for each in served):
        yield f"the models' ends are told {by}"


ACCESS = Cause(
    "aws-model-refused",
    "AWS doesn't let the service call the model. It was asked with an empty body, which costs nothing.",
    "{remedy}",
    needs=(*_TOLD, *_NETWORK, "aws-role"),
    # Where STS can't be asked, as in a subnet with an endpoint of Bedrock alone, the models can.
    spared_by=("aws-key",),
    follows=("aws-model-ended", "host-clock"),
)


@looks_for(ACCESS)
def access(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether each model may be called with the service's credentials."""
    yield from _tell(snapshot, ACCESS, is_throttled=False)


THROTTLED = Cause(
    "aws-throttled",
    "AWS throttles the account's calls of the model, even one with an empty body: clients wait for retries, or get a"
    " fallback's answer or an error.",
    "{remedy}",
    outcome=Outcome.WARNING,
    needs=ACCESS.needs,
    spared_by=ACCESS.spared_by,
    follows=ACCESS.follows,
)


@looks_for(THROTTLED)
def throttled(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether a model is throttled at this moment."""
    yield from _tell(snapshot, THROTTLED, is_throttled=True)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What AWS says of a model, as `name (id in region)`: the words of a refusal, or why it couldn't be asked."""

    model: str
    words: str | None
    trouble: Unavailable | None = None

    @property
    def is_throttled(self) -> bool:
        return "(ThrottlingException)" in (self.words or "")


def _try_models(snapshot: Snapshot) -> tuple[_Answer, ...]:
    wanted = [
        (caller, called, name)
        for caller in find_callers(snapshot)
        for called, name in {each.found.text: each.model.name for each in caller.models if each.found}.items()
    ]
    with ThreadPoolExecutor(8) as pool:
        return tuple(pool.map(lambda each: _try(snapshot, *each), wanted))


def _try(snapshot: Snapshot, caller: Caller, called: str, name: str) -> _Answer:
    model = f"{name} ({called} in {caller.region})"

    def ask() -> _Answer:
        try:
            return _Answer(model, try_model(caller.environ, caller.region, called))
        except Unavailable as error:
            return _Answer(model, None, error)

    silent = Unavailable(
        f"{model}: the endpoint takes the connection, and no answer comes within {snapshot.patience:g} s"
    )
    return snapshot.within(ask) or _Answer(model, None, silent)


def _tell(snapshot: Snapshot, cause: Cause, *, is_throttled: bool) -> Iterator[Finding]:
    """A finding for each kind of refusal: what AWS says of the first model, and which others it says that of."""
    answers: tuple[_Answer, ...] = snapshot.once("answers of models", lambda: _try_models(snapshot))
    kinds: dict[str, list[_Answer]] = {}
    for each in answers:
        if each.words is not None and each.is_throttled is is_throttled:
            known = find_refusal(each.words)
            kinds.setdefault(known.name if known else each.words, []).append(each)
    for first, *others in kinds.values():
        known = find_refusal(first.words or "")
        remedy = known.hint if known else "sudo litellmctl verify    # what a client gets"
        also = f"; and so of {', '.join(each.model for each in others)}" if others else ""
        yield cause.found(f"{first.model}: {first.words}{also}", remedy=remedy)
    for each in answers:
        if each.trouble is not None:
            raise each.trouble


def find_callers(snapshot: Snapshot) -> tuple[Caller, ...]:
    """Who calls the models of the active configuration."""
    return callers(snapshot.gateway, build_served(snapshot.gateway, snapshot.environment), snapshot.environment)
