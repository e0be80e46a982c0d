"""doctor at AWS, against fakes on loopback: role, key, identity, models and quotas as the service has them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from certifi import where

from litellm_systemd.aws import instance
from litellm_systemd.aws.client import Refused, whoami
from litellm_systemd.aws.quotas import list_quotas
from litellm_systemd.doctor.engine import Diagnosis, examine
from litellm_systemd.errors import Unavailable
from litellm_systemd.report.report import Outcome
from tests.fakes import API_KEY, USER, Cloud, Script, run_cloud
from tests.fakes.quotas import code_of
from tests.integration.doctor_snapshot import BASE, CONFIG, ENTRY, MODEL, PROBES, causes, diagnose, pair, scene_of

OTHER = "arn:aws:iam::123456789012:role/of-others"
#: What can't be looked at by who AWS doesn't know.
CALLING = ("aws-model-refused", "aws-throttled", "aws-quota-small")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
    with run_cloud() as cloud:
        yield cloud


def test_a_sound_account(tmp_path: Path, aws: Cloud) -> None:
    """With a key that may call the models nothing is told, everything is checked and no call was answered."""
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    assert (causes(diagnosis), diagnosis.unchecked) == ([], ())
    asked = [seen for seen in aws.seen if "/invoke" in seen.target]
    assert [(seen.status, seen.code) for seen in asked] == [(400, "ValidationException")]


#: Prints the modules of botocore that are imported after `load`, by whatever the checks ask of AWS.
_LATE = """
import json, sys
from pathlib import Path
from litellm_systemd.aws import bedrock, client, identity, instance, profiles, quotas
client.load()
loaded = {name for name in sys.modules if name.startswith("botocore")}
environ, key_id, secret = json.loads(sys.argv[1])
instance.observe_instance(environ)
pair = {**environ, "AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret}
identity.identify(profiles.Credentials(key_id, secret, None, "us-east-1"), pair, Path(".env"))
client.whoami(pair, "us-east-1")
bedrock.ask_bedrock(pair, "us-east-1", models=("anthropic.claude-sonnet-5-5",))
bedrock.try_model(pair, "us-east-1", "us.anthropic.claude-sonnet-5-5")
list(quotas.list_quotas(pair, "us-east-1"))
print(sorted(name for name in sys.modules if name.startswith("botocore") and name not in loaded))
"""


def test_threads_find_all_of_botocore(aws: Cloud) -> None:
    """Nothing of botocore is left to import when the checks begin, side by side: none of them gets half a package."""
    given = json.dumps([aws.environment, USER.access_key, USER.secret_key])
    done = subprocess.run((sys.executable, "-c", _LATE, given), capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_an_unknown_key(tmp_path: Path, aws: Cloud) -> None:
    """A key that AWS doesn't know is the one cause; no model is tried with it."""
    aws.account.revoke(USER)
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    assert causes(diagnosis) == ["aws-key"]
    assert "doesn't know" in diagnosis.causes[0].seen
    assert {each.cause.id for each in diagnosis.unchecked} == {"aws-identity", *CALLING}


def test_a_call_that_is_denied(tmp_path: Path, aws: Cloud) -> None:
    """A model that may not be called is told in AWS's words, with the remedy for that refusal."""
    aws.account.denied.add("bedrock:InvokeModel")
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    assert causes(diagnosis) == ["aws-model-refused"]
    (found,) = diagnosis.causes
    assert found.seen.startswith(f"claude ({MODEL} in us-east-1): ")
    assert "bedrock:InvokeModel" in found.seen
    assert "allow bedrock:InvokeModel and " in found.mend


def test_models_that_are_refused_alike(tmp_path: Path, aws: Cloud) -> None:
    """What AWS says of several models is told once, with all their names; throttling is a warning of its own."""
    other = "us.anthropic.claude-haiku-5-5"
    config = CONFIG.replace("model_list:\n", ENTRY.format(other))
    environment = {**BASE, **aws.environment, **pair()}
    aws.runtime.scripts = {MODEL: Script(refusal="too-many-tokens"), other: Script(refusal="too-many-tokens")}
    (throttled,) = diagnose(tmp_path, environment, config).causes
    assert (throttled.cause.id, throttled.outcome) == ("aws-throttled", Outcome.WARNING)
    assert "Too many tokens" in throttled.seen
    assert f"; and so of claude ({MODEL} in us-east-1)" in throttled.seen
    aws.runtime.scripts = {MODEL: Script(refusal="too-many-tokens"), other: Script(refusal="no-model-access")}
    assert causes(diagnose(tmp_path, environment, config)) == ["aws-model-refused", "aws-throttled"]


def test_an_ended_model(tmp_path: Path, aws: Cloud) -> None:
    """A model that has ended is told by its day, and not a second time by AWS's refusal."""
    config = CONFIG.replace(MODEL, "us.anthropic.claude-3-7-sonnet-20250219-v1:0")
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()}, config)
    assert causes(diagnosis) == ["aws-model-ended"]
    assert "2026-04-28" in diagnosis.causes[0].seen


def test_credentials_that_end(tmp_path: Path, aws: Cloud) -> None:
    """Temporary credentials that have ended are the cause, and no model is tried with them; before, a warning."""

    def look(lifetime: timedelta) -> Diagnosis:
        session = aws.account.add_session(USER.arn, lifetime)
        assert session.expires is not None
        end = {"AWS_CREDENTIAL_EXPIRATION": session.expires.strftime("%Y-%m-%dT%H:%M:%SZ")}
        return diagnose(tmp_path, {**BASE, **aws.environment, **pair(session), **end})

    ended = look(timedelta(seconds=-1))
    assert causes(ended) == ["environment-credentials"]
    assert [seen for seen in aws.seen if seen.target.startswith("POST")] == []
    ending = look(timedelta(minutes=30))
    assert [(each.cause.id, each.outcome) for each in ending.causes] == [("environment-credentials", Outcome.WARNING)]


def test_no_role(tmp_path: Path, aws: Cloud) -> None:
    """An instance without a role is the cause, if the configuration needs one; with one the models are tried."""
    aws.metadata.role = None
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment})
    assert causes(diagnosis) == ["aws-role"]
    assert "Attach an instance profile" in diagnosis.causes[0].mend
    aws.metadata.role = "litellm-gateway"
    assert causes(diagnose(tmp_path, {**BASE, **aws.environment})) == []


def test_a_named_file_that_is_gone(tmp_path: Path, aws: Cloud) -> None:
    """A variable that names a file which isn't there, or which the service may not read, is told with the path."""
    environment = {**BASE, **aws.environment, **pair(), "AWS_CA_BUNDLE": "/etc/litellm/ca.pem"}
    gone = diagnose(tmp_path, environment)
    assert causes(gone)[0] == "environment-file"
    assert "/etc/litellm/ca.pem: there is no such file" in gone.causes[0].seen
    authority = tmp_path / "etc/litellm/ca.pem"
    authority.write_text(Path(where()).read_text(encoding="utf-8"), encoding="utf-8")
    authority.chmod(0o600)
    assert "mode 0600" in diagnose(tmp_path, environment).causes[0].seen
    authority.chmod(0o644)
    assert causes(diagnose(tmp_path, environment)) == []


# --- who the service is ---


def details(diagnosis: Diagnosis, name: str) -> tuple[str, ...]:
    """What a check saw that isn't wrong."""
    return next(each.details for each in diagnosis.examined if each.cause.id == name)


def test_who_the_service_is(tmp_path: Path, aws: Cloud) -> None:
    """By a key, by the instance's role and by a role that it assumes, the identity of the calls is told."""
    by_key = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    assert details(by_key, "aws-identity") == (f"{USER.arn} calls claude",)
    by_instance = diagnose(tmp_path, {**BASE, **aws.environment})
    assert details(by_instance, "aws-identity") == (f"{aws.metadata.arn} calls claude",)
    role = aws.account.add_role("gateway", external_id="of-mine")
    assumed = {"AWS_ROLE_NAME": role.arn, "AWS_EXTERNAL_ID": "of-mine", "AWS_SESSION_NAME": "litellm"}
    by_role = diagnose(tmp_path, {**BASE, **aws.environment, **pair(), **assumed})
    assert details(by_role, "aws-identity") == (f"{role.session_arn('litellm')} calls claude",)
    assert [causes(each) for each in (by_key, by_instance, by_role)] == [[], [], []]


def test_a_role_that_may_not_be_assumed(tmp_path: Path, aws: Cloud) -> None:
    """A role that the service may not assume is the one cause, in AWS's words; no model is tried."""
    aws.account.add_role("gateway", external_id="another")
    assumed = {"AWS_ROLE_NAME": "arn:aws:iam::123456789012:role/gateway", "AWS_EXTERNAL_ID": "of-mine"}
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair(), **assumed})
    assert causes(diagnosis) == ["aws-identity"]
    (found,) = diagnosis.causes
    assert f"User: {USER.arn} is not authorized to perform: sts:AssumeRole" in found.seen
    assert "--role-name gateway " in found.mend
    assert {each.cause.id for each in diagnosis.unchecked} == set(CALLING)


def test_a_models_own_role(tmp_path: Path, aws: Cloud) -> None:
    """A model that names a role itself is tried as that role, the others as who the service is."""
    role = aws.account.add_role("other")
    second = f"  - {{model_name: own, litellm_params: {{model: bedrock/{MODEL}, aws_role_name: '{role.arn}'}}}}\n"
    config = CONFIG.replace("  - model_name: mocked", f"{second}  - model_name: mocked")
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()}, config)
    assert (causes(diagnosis), diagnosis.unchecked) == ([], ())
    assert details(diagnosis, "aws-identity") == (
        f"{USER.arn} calls claude",
        f"{role.session_arn('litellmctl')} calls own",
    )
    asked = [aws.account.keys[seen.key].arn for seen in aws.seen if seen.target.startswith("POST /model/")]
    assert sorted(asked) == sorted([USER.arn, role.session_arn("litellmctl")])


def test_a_models_own_role_that_may_not_be_assumed(tmp_path: Path, aws: Cloud) -> None:
    """Where one model's role may not be assumed, what AWS says of the others is told all the same."""
    second = f"  - {{model_name: own, litellm_params: {{model: bedrock/{MODEL}, aws_role_name: '{OTHER}'}}}}\n"
    config = CONFIG.replace("  - model_name: mocked", f"{second}  - model_name: mocked")
    aws.account.denied.add("bedrock:InvokeModel")
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()}, config)
    assert {each.cause.id: each.seen.partition(" ")[0] for each in diagnosis.causes} == {
        "aws-identity": "own:",
        "aws-model-refused": "claude",
    }


def test_a_role_that_the_instance_has_already(tmp_path: Path, aws: Cloud) -> None:
    """AWS_ROLE_NAME may name the instance's own role, which may not assume itself: LiteLLM goes on as it is."""
    own = {"AWS_ROLE_NAME": "arn:aws:iam::123456789012:role/litellm-gateway"}
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **own})
    assert (causes(diagnosis), diagnosis.unchecked) == ([], ())
    assert details(diagnosis, "aws-identity") == (f"{aws.metadata.arn} calls claude",)


def test_sts_out_of_reach(tmp_path: Path, aws: Cloud) -> None:
    """A service that assumes no role needs no STS: where it can't be reached, nothing is wrong with that."""
    closed = {**aws.environment, "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:9"}
    diagnosis = diagnose(tmp_path, {**BASE, **closed})
    assert (causes(diagnosis), diagnosis.unchecked) == ([], ())
    assert details(diagnosis, "aws-identity") == ()


def test_sts_out_of_reach_of_a_key(tmp_path: Path, aws: Cloud) -> None:
    """Where STS can't be asked about the key, that is no finding, and the models are tried all the same."""
    environment = {**BASE, **aws.environment, **pair(), "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:9"}
    diagnosis = diagnose(tmp_path, environment)
    assert causes(diagnosis) == []
    assert {each.cause.id for each in diagnosis.unchecked} == {"aws-key", "aws-identity"}
    assert all("STS can't be reached" in each.because for each in diagnosis.unchecked)
    aws.account.denied.add("bedrock:InvokeModel")
    assert causes(diagnose(tmp_path, environment)) == ["aws-model-refused"]


def test_the_key_is_asked_about_once(tmp_path: Path, aws: Cloud) -> None:
    """Whose the key is, and who the service is by it, is one question to STS; a role is another."""
    diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    assert [seen.service for seen in aws.seen].count("sts") == 1


# --- the instance's metadata ---


def test_the_services_metadata(tmp_path: Path, aws: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the metadata are the service's environment says, also by its IPv6 mode, and else the caller's.

    The caller's proxy is never asked for them.
    """
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    by_service = {**BASE, **aws.environment}
    assert details(diagnose(tmp_path, by_service), "aws-identity") == (f"{aws.metadata.arn} calls claude",)
    monkeypatch.delenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")
    monkeypatch.setattr(instance, "_BASE_IPV6", aws.metadata_url)
    del by_service["AWS_EC2_METADATA_SERVICE_ENDPOINT"]
    by_mode = {**by_service, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv6"}
    assert details(diagnose(tmp_path, by_mode), "aws-identity") == (f"{aws.metadata.arn} calls claude",)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", aws.metadata_url)
    assert details(diagnose(tmp_path, by_service), "aws-identity") == (f"{aws.metadata.arn} calls claude",)


def test_metadata_that_are_off_here(tmp_path: Path, aws: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_EC2_METADATA_DISABLED of the caller isn't the service's: the role isn't checked, and nothing is wrong."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    here = {name: value for name, value in aws.environment.items() if name != "AWS_EC2_METADATA_DISABLED"}
    diagnosis = diagnose(tmp_path, {**BASE, **here})
    assert causes(diagnosis) == []
    assert {each.because for each in diagnosis.unchecked} == {
        "AWS_EC2_METADATA_DISABLED=true is set here, and not for the service"
    }
    assert causes(diagnose(tmp_path, {**BASE, **here, "AWS_EC2_METADATA_DISABLED": "true"})) == ["aws-role"]


def test_why_there_is_no_role(aws: Cloud) -> None:
    """Who can't ask AWS without a role reads what keeps the instance from having one."""
    aws.metadata.role = None
    with pytest.raises(Refused, match="has no credentials, and this EC2 instance has no IAM role"):
        whoami(aws.environment, "us-east-1")


# --- how long the models go on ---


def test_an_end_that_bedrock_alone_knows(tmp_path: Path, aws: Cloud) -> None:
    """An end that Bedrock announced after this release is warned of, and said to be Bedrock's word."""
    aws.catalogue.end_in(MODEL.removeprefix("us."), days=30)
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    assert [(each.cause.id, each.outcome) for each in diagnosis.causes] == [("aws-model-ended", Outcome.WARNING)]
    assert diagnosis.causes[0].seen.endswith("(by Bedrock itself)")


def test_an_end_by_the_map(tmp_path: Path, aws: Cloud) -> None:
    """Where Bedrock may not be asked, the end is that of the map, and why is said."""
    aws.account.denied.add("bedrock:GetFoundationModel")
    config = CONFIG.replace(MODEL, "us.anthropic.claude-3-7-sonnet-20250219-v1:0")
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()}, config)
    assert causes(diagnosis) == ["aws-model-ended"]
    assert "2026-04-28" in diagnosis.causes[0].seen
    assert "by the model map of this release, since Bedrock wasn't asked: these credentials may not ask" in (
        diagnosis.causes[0].seen
    )


# --- quotas ---

QUOTA = "Cross-region model inference tokens per minute for Anthropic Claude Sonnet 5.5"


def test_a_quota_that_is_enough(tmp_path: Path, aws: Cloud) -> None:
    """A quota that is enough is no finding; how large it is stands among the details."""
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    (seen,) = details(diagnosis, "aws-quota-small")
    assert seen == f"claude ({MODEL} in us-east-1): 6,000,000 tokens a minute (quota {code_of(QUOTA)}, {QUOTA})"


def test_a_quota_of_a_new_account(tmp_path: Path, aws: Cloud) -> None:
    """A quota of 0 is a warning with its name, AWS's default, and the command that asks for more than that."""
    aws.quotas.values[QUOTA] = 0
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    ((found),) = diagnosis.causes
    assert (found.cause.id, found.outcome) == ("aws-quota-small", Outcome.WARNING)
    assert f"0 tokens a minute (quota {code_of(QUOTA)}, {QUOTA}); AWS's default is 6,000,000" in found.seen
    assert f"--region us-east-1 --service-code bedrock --quota-code {code_of(QUOTA)} --desired-value 6000001" in (
        found.mend
    )
    aws.account.denied.add("servicequotas:GetAWSDefaultServiceQuota")
    (found,) = diagnose(tmp_path, {**BASE, **aws.environment, **pair()}).causes
    assert "--desired-value N " in found.mend
    aws.quotas.fixed.add(QUOTA)
    (found,) = diagnose(tmp_path, {**BASE, **aws.environment, **pair()}).causes
    assert "can't be raised by a request: write to AWS Support" in found.mend


def test_anothers_quota(tmp_path: Path, aws: Cloud) -> None:
    """What other models, other ways to call them and longer contexts may use is no business of the model."""
    for name in aws.quotas.values:
        if name != QUOTA:
            aws.quotas.values[name] = 0
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    assert (causes(diagnosis), diagnosis.unchecked) == ([], ())


def test_quotas_that_may_not_be_asked_for(tmp_path: Path, aws: Cloud) -> None:
    """Where the policy is silent about quotas nothing is wrong: they aren't checked, and the statement is named."""
    aws.account.denied.add("servicequotas:ListServiceQuotas")
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    assert causes(diagnosis) == []
    assert {each.cause.id: each.because for each in diagnosis.unchecked} == {
        "aws-quota-small": "the service may not ask Service Quotas: the statement AskForQuotas of 'litellmctl"
        " iam-policy' allows it"
    }


def test_nobody_waits_for_what_is_nice_to_know(tmp_path: Path, aws: Cloud) -> None:
    """Where AWS is slow, the ends are those of the map, models and quotas aren't checked, and nothing is wrong."""
    snapshot = scene_of(tmp_path, {**BASE, **aws.environment, **pair()})
    snapshot.patience = 0
    diagnosis = examine(snapshot, PROBES, each=60, total=60)
    assert causes(diagnosis) == []
    silent = f"claude ({MODEL} in us-east-1): the endpoint takes the connection, and no answer comes within 0 s"
    assert {each.cause.id: each.because for each in diagnosis.unchecked} == {
        "aws-model-refused": silent,
        "aws-throttled": silent,
        "aws-quota-small": "Service Quotas takes too long to tell all of Bedrock's quotas",
    }
    assert "since Bedrock wasn't asked: it takes too long to answer" in details(diagnosis, "aws-model-ended")[0]


def test_no_quotas_by_an_api_key() -> None:
    """A Bedrock API key is good for Bedrock alone: that is said, and Service Quotas isn't asked."""
    with pytest.raises(Unavailable, match="takes no Bedrock API key"):
        next(list_quotas({"AWS_BEARER_TOKEN_BEDROCK": API_KEY}, "us-east-1"))
