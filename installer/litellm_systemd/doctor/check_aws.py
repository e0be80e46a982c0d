"""AWS with the service's credentials: instance role, access key, identity, each model, quotas. Nothing is billed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from ipaddress import ip_address, ip_network
from pathlib import Path

from litellm_systemd.aws.client import (
    NOT_AWS,
    ClockWrong,
    KeyOwner,
    Refused,
    RoleRefused,
    find_default,
    identify,
    list_quotas,
    query_lifecycles,
    try_model,
    whoami,
)
from litellm_systemd.aws.credentials import METADATA_ADDRESSES, Caller, callers, needs_metadata, uses_pair
from litellm_systemd.aws.sources import (
    DISABLED_HERE,
    DISABLED_VARIABLE,
    Credentials,
    UnreadableByService,
    UsableByBoto3,
    observe_instance,
    read_service_profile,
)
from litellm_systemd.bedrock.models import ENOUGH_TOKENS, BedrockId, Quota, applies_to, has_quota, is_too_small
from litellm_systemd.bedrock.refusals import MODELS, find_refusal
from litellm_systemd.doctor.engine import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.aws import BEARER_VARIABLE, CREDENTIAL_VARIABLES, KEY_ID, PAIR, PROFILE_NAME, TOKEN
from litellm_systemd.env.aws import PROFILE as AWS_PROFILE
from litellm_systemd.env.aws import ROLE as ROLE_NAME
from litellm_systemd.errors import InputError, MissingError, PermissionDenied, Unavailable
from litellm_systemd.gateway.config_types import Model, Place, Severity
from litellm_systemd.gateway.installed_litellm import bedrock_models, misspelt_model
from litellm_systemd.gateway.models import build_served, end_findings
from litellm_systemd.host.aws_profile import find_key_line
from litellm_systemd.host.observe import is_booted
from litellm_systemd.report.report import Outcome

_CONFIGURED = ("files-not-installed", "files-gone", "environment-unusable", "configuration-unusable")
_NETWORK = (
    *("network-sandbox", "network-dns", "network-proxy", "network-unreachable", "network-certificate"),
    "environment-credentials",
)

ROLE = Cause(
    "aws-role",
    "The service uses the IAM role of the EC2 instance, but gets no credentials from the instance: every call fails.",
    "{remedy}",
    requires=(*_CONFIGURED, "environment-credentials"),
    caused_by=("host-clock",),
)


@detects(ROLE)
def detect_aws_role(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect an instance that provides no credentials of a role, if the configuration needs them."""
    if not needs_metadata(snapshot.gateway, snapshot.environment):
        return
    if is_booted() and denies_metadata(snapshot.service):
        evidence = f"its unit denies it the instance metadata: IPAddressDeny={snapshot.service['IPAddressDeny']}"
        yield ROLE.finding(evidence, remedy="sudo litellmctl install --installed    # or remove the drop-in's line")
        return
    problem = observe_instance(snapshot.environment).trouble
    if problem is not None and problem.code == DISABLED_HERE:
        raise Unavailable(f"{DISABLED_VARIABLE}=true is set in this shell but not for the service")
    if problem is not None:
        yield ROLE.finding(problem.message, remedy=problem.hint)


def denies_metadata(properties: Mapping[str, str]) -> bool:
    """Whether a unit with these properties may not connect to the instance metadata (systemd.resource-control(5))."""
    denied, allowed = (_has_metadata(properties.get(name, "")) for name in ("IPAddressDeny", "IPAddressAllow"))
    return denied and not allowed


def _has_metadata(networks: str) -> bool:
    address = ip_address(METADATA_ADDRESSES[0])
    return any(address in ip_network(each, strict=False) for each in networks.split())


KEY = Cause(
    "aws-key",
    "AWS rejects the access key in the environment file: every call fails.",
    "{remedy}",
    requires=(*_CONFIGURED, *_NETWORK),
    caused_by=("host-clock",),
)


@detects(KEY)
def detect_aws_key(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect an access key that STS rejects, if the configuration uses one."""
    environ = snapshot.environment
    if not uses_pair(snapshot.gateway, environ) or environ.get(BEARER_VARIABLE) or not environ.get(PAIR[1]):
        return
    try:
        identity = _key_owner(snapshot)
    except InputError as error:
        edit = f"{snapshot.edit_command(KEY_ID)} && sudo litellmctl restart    # {error.hint}"
        yield KEY.finding(error.message, remedy=error.hint if isinstance(error, ClockWrong) else edit)
        return
    if identity.doubt is not None:
        raise Unavailable(identity.doubt)


def _key_owner(snapshot: Snapshot) -> KeyOwner:
    """The identity that owns the access key of the environment, from a single request to STS."""
    environ, where = snapshot.environment, snapshot.dotenv.where(KEY_ID)
    pair = Credentials(environ[KEY_ID], environ[PAIR[1]], environ.get(TOKEN) or None, snapshot.settings.region)
    found: KeyOwner = snapshot.cached("key owner", lambda: identify(pair, environ, where))
    return found


PROFILE = Cause(
    "aws-profile",
    "The files of AWS profiles that the service reads do not have its profile, or no credentials in it, or boto3"
    " cannot read them: every call fails.",
    "{edit}    # {found}",
    requires=_CONFIGURED,
    caused_by=("environment-file",),
)


@detects(PROFILE)
def detect_aws_profile(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a profile that does not exist or has no usable credentials, and files that boto3 cannot read."""
    reported = set()
    for caller in find_callers(snapshot):
        name = next((each for each in (PROFILE_NAME, AWS_PROFILE) if caller.environ.get(each)), "")
        profile = caller.environ.get(name, "")
        if not profile or profile in reported or caller.environ.get(BEARER_VARIABLE):
            continue
        reported.add(profile)
        try:
            read_service_profile(profile, caller.environ, Path(snapshot.layout.state))
        except UsableByBoto3:
            continue
        except UnreadableByService as error:
            edit = f"{error.hint} && sudo litellmctl restart"
            yield PROFILE.finding(error.message, edit=edit, found="the service runs as that user")
        except InputError as error:
            files = (caller.environ.get(each) for each in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"))
            path = next(filter(None, files), f"{snapshot.layout.state}/.aws/credentials")
            path = error.message.partition(":")[0] if error.message.startswith("/") else path
            edit = f"sudoedit {path} && sudo litellmctl restart"
            yield PROFILE.finding(error.message, edit=edit, found=error.hint.partition(". ")[0])
        except MissingError as error:
            where, edit = snapshot.config_path, f"sudoedit {snapshot.config_path}"
            if snapshot.environment.get(name) == profile:
                where, edit = snapshot.dotenv.where(name), snapshot.edit_command(name)
            remedy = f"{edit} && sudo litellmctl restart"
            yield PROFILE.finding(f"{where}: {error.message}", edit=remedy, found=error.hint.partition(". ")[0])
        except PermissionDenied as error:
            # Root must not read a file that the service can replace.
            raise Unavailable(error.message) from None


IDENTITY = Cause(
    "aws-identity",
    "AWS does not allow the service to assume its role (AWS_ROLE_NAME, or aws_role_name of a model): every call with"
    " that role fails.",
    "aws iam get-role --role-name {name} --query Role.AssumeRolePolicyDocument    # must allow the identity named"
    " above and match AWS_EXTERNAL_ID; the identity needs sts:AssumeRole on {role}",
    requires=(*_CONFIGURED, *_NETWORK, "aws-role", "aws-key"),
    skipped_if=("aws-profile",),
    caused_by=("host-clock",),
)


@detects(IDENTITY)
def detect_aws_identity(snapshot: Snapshot) -> Iterator[Finding | str]:
    """Report the identity of the service at AWS; detect a role that it is not allowed to assume."""
    callers = find_callers(snapshot)
    with ThreadPoolExecutor(8) as pool:
        for caller, found in zip(callers, pool.map(lambda each: _identity(snapshot, each), callers), strict=True):
            role = "" if caller.environ.get(BEARER_VARIABLE) else caller.environ.get(ROLE_NAME, "")
            names = ", ".join(each.model.name for each in caller.models)
            if isinstance(found, RoleRefused):
                yield IDENTITY.finding(f"{names}: {found}", role=role, name=role.rpartition("/")[2])
            elif isinstance(found, str):
                yield f"{found} calls {names}"
            elif role:
                raise Unavailable(str(found))


def _identity(snapshot: Snapshot, caller: Caller) -> str | Refused:
    """The ARN, or the reason why it is unknown: a service that assumes no role works without STS."""
    if _uses_only_the_key(snapshot.environment, caller.environ):  # detect_aws_key has already requested it
        return _key_owner(snapshot).arn or Refused("STS returned no owner of the key")

    def ask() -> str | Refused:
        try:
            return whoami(caller.environ, caller.region)
        except Refused as error:
            return error

    return snapshot.with_timeout(ask) or Refused("STS did not answer in time")


def _uses_only_the_key(service: Mapping[str, str], caller: Mapping[str, str]) -> bool:
    """Whether a caller signs with the access key of the environment, without a role or a Bedrock API key."""
    same = all(caller.get(name) == service.get(name) for name in CREDENTIAL_VARIABLES)
    others = (ROLE_NAME, BEARER_VARIABLE)
    return same and all(caller.get(name) for name in PAIR) and not any(caller.get(name) for name in others)


ENDED = Cause(
    "aws-model-ended",
    "Bedrock ends the model on an announced date: from that day on it rejects every call.",
    "sudoedit {path}    # {remedy} To list models and their end: litellmctl models",
    requires=_CONFIGURED,
)


@detects(ENDED)
def detect_aws_model_ended(snapshot: Snapshot) -> Iterator[Finding | str]:
    """Detect models that have ended or end soon, by Bedrock's own data or else by that of this release."""
    known = build_served(snapshot.gateway, snapshot.environment)
    asked = snapshot.with_timeout(lambda: query_lifecycles(snapshot.gateway, known, snapshot.environment))
    served, refusal = asked or (known, "it did not answer in time")
    source = f"the model map of this release; Bedrock could not be queried: {refusal}" if refusal else "Bedrock"
    for item in end_findings(snapshot.gateway, served, datetime.now(timezone.utc).date()):
        outcome = Outcome.FAILED if item.severity is Severity.ERROR else Outcome.WARNING
        path = item.place.file or snapshot.config_path
        yield ENDED.finding(f"{item} (source: {source})", outcome=outcome, path=path, remedy=item.remedy)
    if any(each.is_called for each in served):
        yield f"source of the models' end dates: {source}"


ACCESS = Cause(
    "aws-model-refused",
    "AWS rejects the service's calls of the model. The check sends an empty body, which costs nothing.",
    "{remedy}",
    requires=(*_CONFIGURED, *_NETWORK, "aws-role"),
    # Without a route to STS, as in a subnet with only a Bedrock endpoint, the models can still be called.
    skipped_if=("aws-key", "aws-profile"),
    caused_by=("aws-model-ended", "host-clock"),
)


@detects(ACCESS)
def detect_aws_model_refused(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect models that AWS does not allow the service's credentials to call."""
    yield from _rejected_models(snapshot, ACCESS, is_throttled=False)


THROTTLED = Cause(
    "aws-throttled",
    "AWS throttles the account's calls of the model, even one with an empty body: clients wait for retries, or get an"
    " error or the answer of a fallback.",
    "{remedy}",
    outcome=Outcome.WARNING,
    requires=ACCESS.requires,
    skipped_if=ACCESS.skipped_if,
    caused_by=ACCESS.caused_by,
)


@detects(THROTTLED)
def detect_aws_throttled(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect models whose calls AWS throttles at this moment."""
    yield from _rejected_models(snapshot, THROTTLED, is_throttled=True)


@dataclass(frozen=True, slots=True)
class _TrialCall:
    """The result of one call: `model` as `name (id in region)`, AWS's `refusal`, or the `error` if none came.

    `caller` made it. `place`: where the configuration has the id. `meant`: the id that was probably meant.
    """

    caller: Caller
    model: str
    refusal: str | None
    error: Unavailable | None = None
    place: Place | None = None
    meant: str = ""

    @property
    def is_throttled(self) -> bool:
        return "(ThrottlingException)" in (self.refusal or "")


def _try_models(snapshot: Snapshot) -> tuple[_TrialCall, ...]:
    calls = [
        (caller, found, model)
        for caller in find_callers(snapshot)
        for found, model in {
            each.found.text: (each.found, each.model) for each in caller.models if each.found
        }.values()
    ]
    with ThreadPoolExecutor(8) as pool:
        return tuple(pool.map(lambda call: _try(snapshot, *call), calls))


def _try(snapshot: Snapshot, caller: Caller, found: BedrockId, entry: Model) -> _TrialCall:
    called = found.text
    model = f"{entry.name} ({called} in {caller.region})"

    def call() -> _TrialCall:
        try:
            place = snapshot.gateway.place((*entry.key, "litellm_params", "model"))
            refusal = try_model(caller.environ, caller.region, called)
            is_unknown = (known := find_refusal(refusal or "")) is not None and known.name == "model-unknown"
            meant = misspelt_model(found, bedrock_models()) if is_unknown else None
            return _TrialCall(caller, model, refusal, place=place, meant=meant or "")
        except Unavailable as error:
            return _TrialCall(caller, model, None, Unavailable(f"{model}: {error.message}"))

    silent = Unavailable(
        f"{model}: the endpoint accepted the connection but did not answer within {snapshot.optional_timeout:.3g} s"
    )
    return snapshot.with_timeout(call) or _TrialCall(caller, model, None, silent)


#: If a page comes in place of AWS's answer.
_ALLOW = (
    "curl -sv https://bedrock-runtime.{region}.amazonaws.com/    # shows who answers; allow the host in that firewall"
    " or proxy"
)


def _rejected_models(snapshot: Snapshot, cause: Cause, *, is_throttled: bool) -> Iterator[Finding]:
    """One finding for each kind of refusal: AWS's message for the first model, and the other models that get it."""
    calls: tuple[_TrialCall, ...] = snapshot.cached("trial calls", lambda: _try_models(snapshot))
    kinds: dict[str, list[_TrialCall]] = {}
    for call in calls:
        if call.refusal is not None and call.is_throttled is is_throttled:
            known = find_refusal(call.refusal)
            kinds.setdefault(f"{known.name if known else call.refusal} {call.meant}", []).append(call)
    for first, *others in kinds.values():
        known = find_refusal(first.refusal or "")
        remedy = known.hint if known else "sudo litellmctl verify    # shows what a client gets"
        if (first.refusal or "").startswith(NOT_AWS):
            remedy = _ALLOW.format(region=first.caller.region)
        also = f"; the same for {', '.join(call.model for call in others)}" if others else ""
        evidence = f"{first.model}: {first.refusal}{also}"
        if known is not None and known.name in _OF_THE_KEY and (place := _key_of_profile(snapshot, first.caller)):
            evidence = f"{place[0]}:{place[1]}: {evidence}"
            remedy = f"sudoedit {place[0]} && sudo litellmctl restart    # correct the key of the profile"
        elif known in MODELS and first.place is not None and first.place.line is not None:
            evidence = f"{first.place.file}:{first.place.line}: {evidence}"
            guess = f"did you mean {first.meant}? " if first.meant else ""
            remedy = f"sudoedit {first.place.file} && sudo litellmctl reload    # {guess}{remedy}"
        yield cause.finding(evidence, remedy=remedy, subject=known.name if known else "")
    for call in calls:
        if call.error is not None:
            raise call.error


#: Refusals of the key pair itself.
_OF_THE_KEY = ("wrong-secret", "key-unknown", "session-expired")


def _key_of_profile(snapshot: Snapshot, caller: Caller) -> tuple[Path, int] | None:
    """The file and the line of the key pair that a caller has from a profile; None if it has another one."""
    if any(caller.environ.get(name) for name in (BEARER_VARIABLE, KEY_ID, ROLE_NAME)):
        return None
    profile = caller.environ.get(PROFILE_NAME) or caller.environ.get(AWS_PROFILE, "")
    return find_key_line(profile, caller.environ, Path(snapshot.layout.state)) if profile else None


def find_callers(snapshot: Snapshot) -> tuple[Caller, ...]:
    """The identities that call the models of the active configuration."""
    return callers(snapshot.gateway, build_served(snapshot.gateway, snapshot.environment), snapshot.environment)


SMALL = Cause(
    "aws-quota-small",
    "The account's quota of tokens per minute is so small, as is usual for new accounts, that a coding agent keeps"
    " getting status 429; with a quota of 0 every call fails.",
    "{remedy}",
    outcome=Outcome.WARNING,
    requires=ACCESS.requires,
    skipped_if=ACCESS.skipped_if,
)


@detects(SMALL)
def detect_aws_quota_small(snapshot: Snapshot) -> Iterator[Finding | str]:
    """Detect quotas that are too small for a coding agent, if the service may query Service Quotas."""
    end = time.monotonic() + snapshot.optional_timeout
    callers = find_callers(snapshot)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda caller: _CallerQuotas(caller, end), callers))
    for quotas in found:
        yield from quotas.findings()
    for quotas in found:
        if quotas.error:
            raise Unavailable(quotas.error)


class _CallerQuotas:
    """The quotas of one caller's models, by the ids in its calls; `error` says why some are missing."""

    def __init__(self, caller: Caller, end: float) -> None:
        self._caller = caller
        self._models = {each.found.text: each for each in caller.models if each.found and has_quota(each.found)}
        self._quotas: dict[str, Quota] = {}
        self.error = ""
        try:
            self._read(end)
        except Unavailable as error:
            self.error = error.message

    def _read(self, end: float) -> None:
        """Read until every model has a sufficient quota, or to the end: of two matching quotas the larger counts."""
        if not self._models:
            return
        for quota in list_quotas(self._caller.environ, self._caller.region):
            for called, each in self._models.items():
                before = self._quotas.get(called)
                if each.found and applies_to(quota, each.found) and (before is None or before.value < quota.value):
                    self._quotas[called] = quota
            if all(called in self._quotas and not self._is_small(called) for called in self._models):
                return
            if time.monotonic() > end:
                raise Unavailable("Service Quotas did not list all Bedrock quotas in time")

    def _is_small(self, called: str) -> bool:
        entry = self._models[called].entry
        return is_too_small(self._quotas[called], entry.context if entry is not None else None)

    def findings(self) -> Iterator[Finding | str]:
        """A finding for each quota that is too small, and an observation for each of the others."""
        region = self._caller.region
        for called, quota in self._quotas.items():
            name, tokens = self._models[called].model.name, f"{quota.value:,.0f} tokens per minute"
            evidence = f"{name} ({called} in {region}): {tokens} (quota {quota.code}, {quota.name})"
            if not self._is_small(called):
                yield evidence
                continue
            default = find_default(self._caller.environ, region, quota.code)
            more = "" if default is None else f"; AWS's default is {default:,.0f}"
            yield SMALL.finding(evidence + more, remedy=_remedy(quota, region, default))


def _remedy(quota: Quota, region: str, default: float | None) -> str:
    if not quota.is_adjustable:
        return (
            f"# {quota.code} cannot be raised by a request: contact AWS Support (account and billing, Amazon Bedrock)"
        )
    # RequestServiceQuotaIncrease rejects values up to AWS's default, even if the applied value is lower.
    wanted = "N" if default is None else str(max(int(default) + 1, ENOUGH_TOKENS))
    return (
        f"aws service-quotas request-service-quota-increase --region {region} --service-code bedrock"
        f" --quota-code {quota.code} --desired-value {wanted}    # the value must be above AWS's default; state what"
        " you need in the support case that this opens"
    )
