"""A fake Security Token Service: GetCallerIdentity and AssumeRole in the query protocol."""

from __future__ import annotations

import re
import uuid
from datetime import timedelta
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from tests.fakes.account import ACCOUNT, Account, Key, stamp
from tests.fakes.http import Reply, Request
from tests.fakes.refusals import STS_NAMESPACE, Refused, refuse
from tests.fakes.signature import identify


def answer(request: Request, account: Account, regions: tuple[str, ...]) -> tuple[Key, Reply]:
    """The key of the caller and the response. Raises Refused. The global endpoint is in us-east-1."""
    key = identify(request, account, "sts", (*regions, "us-east-1"))
    form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
    actions = {"GetCallerIdentity": _caller, "AssumeRole": _assume}
    action = form.get("Action", "")
    if action not in actions or form.get("Version") != "2011-06-15":
        raise refuse(400, "InvalidAction", f"Could not find operation {action} for version {form.get('Version')}")
    if action != "GetCallerIdentity" and f"sts:{action}" in account.denied:
        raise _denied(key, form.get("RoleArn", "*"))
    return key, _reply(action, actions[action](form, key, account))


def _caller(_form: dict[str, str], key: Key, _account: Account) -> str:
    who = f"<Arn>{escape(key.arn)}</Arn><UserId>AIDAEXAMPLEUSERID2345</UserId>"
    return f"{who}<Account>{ACCOUNT}</Account>"


def _assume(form: dict[str, str], key: Key, account: Account) -> str:
    arn, session = form.get("RoleArn", ""), form.get("RoleSessionName", "")
    if not re.fullmatch(r"[\w+=,.@-]{2,64}", session):
        message = f"1 validation error detected: Value '{session}' at 'roleSessionName' failed to satisfy constraint"
        raise refuse(400, "ValidationError", message)
    role = account.roles.get(arn)
    trusted = role is not None and (not role.trusted or any(part in key.arn for part in role.trusted))
    if role is None or not trusted or (role.external_id is not None and form.get("ExternalId") != role.external_id):
        raise _denied(key, arn)
    seconds = int(form.get("DurationSeconds", "3600"))
    made = account.add_session(role.session_arn(session), timedelta(seconds=seconds))
    return (
        f"<AssumedRoleUser><Arn>{escape(made.arn)}</Arn>"
        f"<AssumedRoleId>AROAEXAMPLEROLEID2345:{escape(session)}</AssumedRoleId></AssumedRoleUser>"
        f"<Credentials><AccessKeyId>{made.access_key}</AccessKeyId>"
        f"<SecretAccessKey>{made.secret_key}</SecretAccessKey><SessionToken>{made.token}</SessionToken>"
        f"<Expiration>{stamp(made.expires or account.clock())}</Expiration></Credentials>"
    )


def _denied(key: Key, resource: str) -> Refused:
    message = f"User: {key.arn} is not authorized to perform: sts:AssumeRole on resource: {resource}"
    return refuse(403, "AccessDenied", message)


def _reply(action: str, result: str) -> Reply:
    identifier = str(uuid.uuid4())
    body = (
        f'<{action}Response xmlns="{STS_NAMESPACE}"><{action}Result>{result}</{action}Result>'
        f"<ResponseMetadata><RequestId>{identifier}</RequestId></ResponseMetadata></{action}Response>"
    )
    return Reply(200, body.encode(), {"Content-Type": "text/xml", "x-amzn-RequestId": identifier})
