"""Checks of doctor against a fake AWS on loopback: instance role, access key, identity, models and quotas."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from certifi import where

from litellm_systemd.aws import sources
from litellm_systemd.aws.client import Refused, list_quotas, whoami
from litellm_systemd.doctor.check_aws import detect_aws_model_refused, detect_aws_profile
from litellm_systemd.doctor.engine import Diagnosis, Finding, run_checks
from litellm_systemd.errors import Unavailable
from litellm_systemd.report.report import Outcome
from tests.fakes import API_KEY, USER, Cloud, Script, run_cloud
from tests.fakes.quotas import code_of
from tests.integration.doctor_snapshot import (
    BASE,
    CHECKS,
    CONFIG,
    ENTRY,
    MODEL,
    causes,
    diagnose,
    make_snapshot,
    pair,
)

OTHER = "arn:aws:iam::123456789012:role/of-others"
#: The checks that need an identity that AWS knows.
NEED_IDENTITY = ("aws-model-refused", "aws-throttled", "aws-quota-small")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
    with run_cloud() as cloud:
        yield cloud


def test_a_healthy_account(tmp_path: Path, aws: Cloud) -> None:
    """With a key that may call the models, everything is checked, nothing is found, and no call is billed."""
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    assert (causes(diagnosis), diagnosis.unchecked) == ([], ())
    asked = [seen for seen in aws.seen if "/invoke" in seen.target]
    assert [(seen.status, seen.code) for seen in asked] == [(400, "ValidationException")]


#: Prints the modules of botocore that the requests of the checks import after `load`.
_LATE_IMPORTS = """
import json, sys
from pathlib import Path
from litellm_systemd.aws import client, sources
client.load()
loaded = {name for name in sys.modules if name.startswith("botocore")}
environ, key_id, secret = json.loads(sys.argv[1])
sources.observe_instance(environ)
pair = {**environ, "AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret}
client.identify(sources.Credentials(key_id, secret, None, "us-east-1"), pair, Path(".env"))
client.whoami(pair, "us-east-1")
client.ask_bedrock(pair, "us-east-1", models=("anthropic.claude-sonnet-5-5",))
client.try_model(pair, "us-east-1", "us.anthropic.claude-sonnet-5-5")
list(client.list_quotas(pair, "us-east-1"))
print(sorted(name for name in sys.modules if name.startswith("botocore") and name not in loaded))
"""


def test_botocore_is_imported_before_the_checks_run(aws: Cloud) -> None:
    """All of botocore is imported before the parallel checks start, so no thread sees a half-imported package."""
    given = json.dumps([aws.environment, USER.access_key, USER.secret_key])
    done = subprocess.run((sys.executable, "-c", _LATE_IMPORTS, given), capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_an_unknown_key(tmp_path: Path, aws: Cloud) -> None:
    """A key that AWS does not know is the only cause, and no model is called with it."""
    aws.account.revoke(USER)
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    assert causes(diagnosis) == ["aws-key"]
    assert "doesn't know" in diagnosis.causes[0].evidence
    assert {each.cause.id for each in diagnosis.unchecked} == {"aws-identity", *NEED_IDENTITY}


def test_a_denied_call(tmp_path: Path, aws: Cloud) -> None:
    """A model that must not be called is reported with AWS's message and the remedy for it."""
    aws.account.denied.add("bedrock:InvokeModel")
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    assert causes(diagnosis) == ["aws-model-refused"]
    (found,) = diagnosis.causes
    assert found.evidence.startswith(f"claude ({MODEL} in us-east-1): ")
    assert "bedrock:InvokeModel" in found.evidence
    assert "allow bedrock:InvokeModel and " in found.remedy


def test_models_with_the_same_refusal(tmp_path: Path, aws: Cloud) -> None:
    """Models that AWS rejects for one reason are one finding with all names; throttling is a separate warning."""
    other = "us.anthropic.claude-haiku-5-5"
    config = CONFIG.replace("model_list:\n", ENTRY.format(other))
    environment = {**BASE, **aws.environment, **pair()}
    aws.runtime.scripts = {MODEL: Script(refusal="too-many-tokens"), other: Script(refusal="too-many-tokens")}
    (throttled,) = diagnose(tmp_path, environment, config).causes
    assert (throttled.cause.id, throttled.outcome) == ("aws-throttled", Outcome.WARNING)
    assert "Too many tokens" in throttled.evidence
    assert f"; the same for claude ({MODEL} in us-east-1)" in throttled.evidence
    aws.runtime.scripts = {MODEL: Script(refusal="too-many-tokens"), other: Script(refusal="no-model-access")}
    assert causes(diagnose(tmp_path, environment, config)) == ["aws-model-refused", "aws-throttled"]


def test_an_ended_model(tmp_path: Path, aws: Cloud) -> None:
    """A model that has ended is reported once, with its date, and not again for AWS's refusal."""
    config = CONFIG.replace(MODEL, "us.anthropic.claude-3-7-sonnet-20250219-v1:0")
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()}, config)
    assert causes(diagnosis) == ["aws-model-ended"]
    assert "2026-04-28" in diagnosis.causes[0].evidence


def test_expired_credentials(tmp_path: Path, aws: Cloud) -> None:
    """Expired temporary credentials are the cause, and no model is called; expiring ones are a warning."""

    def diagnose_session(lifetime: timedelta) -> Diagnosis:
        session = aws.account.add_session(USER.arn, lifetime)
        assert session.expires is not None
        end = {"AWS_CREDENTIAL_EXPIRATION": session.expires.strftime("%Y-%m-%dT%H:%M:%SZ")}
        return diagnose(tmp_path, {**BASE, **aws.environment, **pair(session), **end})

    expired = diagnose_session(timedelta(seconds=-1))
    assert causes(expired) == ["environment-credentials"]
    assert [seen for seen in aws.seen if seen.target.startswith("POST")] == []
    expiring = diagnose_session(timedelta(minutes=30))
    assert [(each.cause.id, each.outcome) for each in expiring.causes] == [
        ("environment-credentials", Outcome.WARNING)
    ]


def test_an_instance_without_a_role(tmp_path: Path, aws: Cloud) -> None:
    """An instance without a role is the cause if the configuration needs one; with it the models are called."""
    aws.metadata.role = None
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment})
    assert causes(diagnosis) == ["aws-role"]
    assert "Attach an instance profile" in diagnosis.causes[0].remedy
    aws.metadata.role = "litellm-gateway"
    assert causes(diagnose(tmp_path, {**BASE, **aws.environment})) == []


def test_a_variable_with_a_missing_file(tmp_path: Path, aws: Cloud) -> None:
    """A variable that names a missing file, or one that the service may not read, is reported with the path."""
    environment = {**BASE, **aws.environment, **pair(), "AWS_CA_BUNDLE": "/etc/litellm/ca.pem"}
    gone = diagnose(tmp_path, environment)
    assert causes(gone)[0] == "environment-file"
    assert "/etc/litellm/ca.pem: the file does not exist" in gone.causes[0].evidence
    authority = tmp_path / "etc/litellm/ca.pem"
    authority.write_text(Path(where()).read_text(encoding="utf-8"), encoding="utf-8")
    authority.chmod(0o600)
    assert "mode 0600" in diagnose(tmp_path, environment).causes[0].evidence
    authority.chmod(0o644)
    assert causes(diagnose(tmp_path, environment)) == []


# --- the identity of the service ---


def details(diagnosis: Diagnosis, name: str) -> tuple[str, ...]:
    """The observations of a check that are not problems."""
    return next(each.details for each in diagnosis.runs if each.cause.id == name)


def test_the_identity_of_the_service(tmp_path: Path, aws: Cloud) -> None:
    """The identity of the calls is reported for a key, for the instance's role and for an assumed role."""
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
    """A role that the service may not assume is the only cause, with AWS's message; no model is called."""
    aws.account.add_role("gateway", external_id="another")
    assumed = {"AWS_ROLE_NAME": "arn:aws:iam::123456789012:role/gateway", "AWS_EXTERNAL_ID": "of-mine"}
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair(), **assumed})
    assert causes(diagnosis) == ["aws-identity"]
    (found,) = diagnosis.causes
    assert f"User: {USER.arn} is not authorized to perform: sts:AssumeRole" in found.evidence
    assert "--role-name gateway " in found.remedy
    assert {each.cause.id for each in diagnosis.unchecked} == set(NEED_IDENTITY)


def test_a_models_own_role(tmp_path: Path, aws: Cloud) -> None:
    """A model with a role of its own is called with that role, the others with the service's identity."""
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
    """If the role of one model may not be assumed, AWS's refusals for the others are reported as well."""
    second = f"  - {{model_name: own, litellm_params: {{model: bedrock/{MODEL}, aws_role_name: '{OTHER}'}}}}\n"
    config = CONFIG.replace("  - model_name: mocked", f"{second}  - model_name: mocked")
    aws.account.denied.add("bedrock:InvokeModel")
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()}, config)
    assert {each.cause.id: each.evidence.partition(" ")[0] for each in diagnosis.causes} == {
        "aws-identity": "own:",
        "aws-model-refused": "claude",
    }


def test_the_instance_role_as_the_assumed_role(tmp_path: Path, aws: Cloud) -> None:
    """AWS_ROLE_NAME may name the instance's own role, which cannot assume itself: LiteLLM then uses it directly."""
    own = {"AWS_ROLE_NAME": "arn:aws:iam::123456789012:role/litellm-gateway"}
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **own})
    assert (causes(diagnosis), diagnosis.unchecked) == ([], ())
    assert details(diagnosis, "aws-identity") == (f"{aws.metadata.arn} calls claude",)


def test_unreachable_sts_without_a_role(tmp_path: Path, aws: Cloud) -> None:
    """A service that assumes no role does not need STS, so an unreachable STS is no problem."""
    closed = {**aws.environment, "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:9"}
    diagnosis = diagnose(tmp_path, {**BASE, **closed})
    assert (causes(diagnosis), diagnosis.unchecked) == ([], ())
    assert details(diagnosis, "aws-identity") == ()


def test_unreachable_sts_with_a_key(tmp_path: Path, aws: Cloud) -> None:
    """If STS cannot be reached to check the key, that is no finding, and the models are called all the same."""
    environment = {**BASE, **aws.environment, **pair(), "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:9"}
    diagnosis = diagnose(tmp_path, environment)
    assert causes(diagnosis) == []
    assert {each.cause.id for each in diagnosis.unchecked} == {"aws-key", "aws-identity"}
    assert all("STS can't be reached" in each.skip_reason for each in diagnosis.unchecked)
    aws.account.denied.add("bedrock:InvokeModel")
    assert causes(diagnose(tmp_path, environment)) == ["aws-model-refused"]


def test_sts_gets_one_request_for_the_key(tmp_path: Path, aws: Cloud) -> None:
    """The owner of the key and the identity of the service need a single request to STS."""
    diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    assert [seen.service for seen in aws.seen].count("sts") == 1


# --- the instance's metadata ---


def test_the_metadata_endpoint(tmp_path: Path, aws: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metadata endpoint comes from the service's environment, also by its IPv6 mode, else from the caller's.

    The caller's proxy is never used for it.
    """
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    by_service = {**BASE, **aws.environment}
    assert details(diagnose(tmp_path, by_service), "aws-identity") == (f"{aws.metadata.arn} calls claude",)
    monkeypatch.delenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")
    monkeypatch.setattr(sources, "_BASE_IPV6", aws.metadata_url)
    del by_service["AWS_EC2_METADATA_SERVICE_ENDPOINT"]
    by_mode = {**by_service, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv6"}
    assert details(diagnose(tmp_path, by_mode), "aws-identity") == (f"{aws.metadata.arn} calls claude",)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", aws.metadata_url)
    assert details(diagnose(tmp_path, by_service), "aws-identity") == (f"{aws.metadata.arn} calls claude",)


def test_metadata_disabled_in_the_shell(tmp_path: Path, aws: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_EC2_METADATA_DISABLED in the caller's shell skips the check of the role; for the service it is a cause."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    here = {name: value for name, value in aws.environment.items() if name != "AWS_EC2_METADATA_DISABLED"}
    diagnosis = diagnose(tmp_path, {**BASE, **here})
    assert causes(diagnosis) == []
    assert {each.skip_reason for each in diagnosis.unchecked} == {
        "AWS_EC2_METADATA_DISABLED=true is set in this shell but not for the service"
    }
    assert causes(diagnose(tmp_path, {**BASE, **here, "AWS_EC2_METADATA_DISABLED": "true"})) == ["aws-role"]


def test_a_request_without_a_role_names_the_reason(aws: Cloud) -> None:
    """A request to AWS that lacks credentials reports why the instance provides none."""
    aws.metadata.role = None
    with pytest.raises(Refused, match="has no credentials, and this EC2 instance has no IAM role"):
        whoami(aws.environment, "us-east-1")


# --- end of life of models ---


def test_an_end_date_from_bedrock(tmp_path: Path, aws: Cloud) -> None:
    """An end that Bedrock announced after this release is a warning that names Bedrock as its source."""
    aws.catalogue.end_in(MODEL.removeprefix("us."), days=30)
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    assert [(each.cause.id, each.outcome) for each in diagnosis.causes] == [("aws-model-ended", Outcome.WARNING)]
    assert diagnosis.causes[0].evidence.endswith("(source: Bedrock)")


def test_an_end_date_from_the_model_map(tmp_path: Path, aws: Cloud) -> None:
    """If Bedrock may not be queried, the end date comes from the model map, and the finding says why."""
    aws.account.denied.add("bedrock:GetFoundationModel")
    config = CONFIG.replace(MODEL, "us.anthropic.claude-3-7-sonnet-20250219-v1:0")
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()}, config)
    assert causes(diagnosis) == ["aws-model-ended"]
    assert "2026-04-28" in diagnosis.causes[0].evidence
    source = (
        "source: the model map of this release; Bedrock could not be queried: these credentials lack the permission"
    )
    assert source in diagnosis.causes[0].evidence


# --- quotas ---

QUOTA = "Cross-region model inference tokens per minute for Anthropic Claude Sonnet 5.5"


def test_a_sufficient_quota(tmp_path: Path, aws: Cloud) -> None:
    """A sufficient quota is no finding; the details of the check have its value."""
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    (detail,) = details(diagnosis, "aws-quota-small")
    assert detail == f"claude ({MODEL} in us-east-1): 6,000,000 tokens per minute (quota {code_of(QUOTA)}, {QUOTA})"


def test_the_quota_of_a_new_account(tmp_path: Path, aws: Cloud) -> None:
    """A quota of 0 is a warning with its name, AWS's default, and the command that requests an increase."""
    aws.quotas.values[QUOTA] = 0
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    (found,) = diagnosis.causes
    assert (found.cause.id, found.outcome) == ("aws-quota-small", Outcome.WARNING)
    assert f"0 tokens per minute (quota {code_of(QUOTA)}, {QUOTA}); AWS's default is 6,000,000" in found.evidence
    assert f"--region us-east-1 --service-code bedrock --quota-code {code_of(QUOTA)} --desired-value 6000001" in (
        found.remedy
    )
    aws.account.denied.add("servicequotas:GetAWSDefaultServiceQuota")
    (found,) = diagnose(tmp_path, {**BASE, **aws.environment, **pair()}).causes
    assert "--desired-value N " in found.remedy
    aws.quotas.fixed.add(QUOTA)
    (found,) = diagnose(tmp_path, {**BASE, **aws.environment, **pair()}).causes
    assert "cannot be raised by a request: contact AWS Support" in found.remedy


def test_quotas_of_other_models(tmp_path: Path, aws: Cloud) -> None:
    """Quotas of other models, other kinds of calls and longer contexts are ignored."""
    for name in aws.quotas.values:
        if name != QUOTA:
            aws.quotas.values[name] = 0
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    assert (causes(diagnosis), diagnosis.unchecked) == ([], ())


def test_service_quotas_not_allowed(tmp_path: Path, aws: Cloud) -> None:
    """If the policy does not allow Service Quotas, the check is skipped and names the missing statement."""
    aws.account.denied.add("servicequotas:ListServiceQuotas")
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    assert causes(diagnosis) == []
    assert {each.cause.id: each.skip_reason for each in diagnosis.unchecked} == {
        "aws-quota-small": "the service may not query Service Quotas: the statement AskForQuotas of 'litellmctl"
        " iam-policy' allows it"
    }


def test_a_profile_that_does_not_exist(tmp_path: Path, aws: Cloud) -> None:
    """A profile that the service's file does not have is found, with the profiles that it has."""
    file = tmp_path / "profiles"
    file.write_text("[work]\naws_access_key_id = AKIA\naws_secret_access_key = s\n", encoding="utf-8")
    found = {}
    for name in ("work", "wrok"):
        env = {**BASE, **aws.environment, "AWS_SHARED_CREDENTIALS_FILE": str(file), "AWS_PROFILE": name}
        found[name] = list(detect_aws_profile.detect(make_snapshot(tmp_path, env)))
    assert found["work"] == []
    (finding,) = (each for each in found["wrok"] if isinstance(each, Finding))
    assert finding.evidence.endswith(f": there is no profile wrok in {file}")
    assert finding.remedy.endswith("&& sudo litellmctl restart    # Found: work")


@pytest.mark.parametrize(
    ("variable", "file", "section"),
    [
        ("AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "[cline]"),
        ("AWS_PROFILE_NAME", "AWS_SHARED_CREDENTIALS_FILE", "[cline]"),
        ("AWS_PROFILE", "AWS_CONFIG_FILE", "[profile cline]"),
    ],
)
def test_a_profile_with_the_secret_of_another_key(
    tmp_path: Path, aws: Cloud, variable: str, file: str, section: str
) -> None:
    """If the secret of a profile is wrong, its line in the file of profiles is the place to correct."""
    path = tmp_path / "profiles"
    path.write_text(
        f"[default]\naws_access_key_id = x\naws_secret_access_key = y\n\n{section}\n"
        f"aws_access_key_id = {USER.access_key}\naws_secret_access_key = another\n",
        encoding="utf-8",
    )
    snapshot = make_snapshot(tmp_path, {**BASE, **aws.environment, file: str(path), variable: "cline"})
    (found,) = detect_aws_model_refused.detect(snapshot)
    assert isinstance(found, Finding)
    assert found.evidence.startswith(f"{path}:7: claude ({MODEL} in us-east-1): ")
    assert found.remedy == f"sudoedit {path} && sudo litellmctl restart    # correct the key of the profile"


@pytest.mark.parametrize(
    ("text", "evidence"),
    [
        ("[work]\naws_access_key_id = AKIA\n", "the profile work in {folder} has no complete key pair"),
        ("\ufeff[work]\naws_access_key_id = AKIA\n", "{file}:1: not in the format of the AWS CLI"),
        ("[work]\naws_access_key_id = AKIA\nsecret: no\nmore of it\n", "{file}:4: not in the format of the AWS CLI"),
        ("[work]\ncredential_process = /none/keys --x\n", "(credential_process: /none/keys)"),
        ("[work]\ncredential_process = /bin/true\n", ""),
        ("[work]\nsso_session = corp\n", "signs in through SSO, which needs a person at a browser"),
        ("[work]\nrole_arn = arn:x\nsource_profile = gone\n", "assumes a role by source_profile gone"),
        ("[work]\nrole_arn = arn:x\nsource_profile = base\n[base]\naws_access_key_id = AKIA\n", ""),
    ],
)
def test_a_profile_without_credentials(tmp_path: Path, aws: Cloud, text: str, evidence: str) -> None:
    """A profile that gives the service no credentials is found with its file. One that may do so is not."""
    file = tmp_path / "profiles"
    file.write_text(text, encoding="utf-8")
    env = {**BASE, **aws.environment, "AWS_SHARED_CREDENTIALS_FILE": str(file), "AWS_PROFILE": "work"}
    found = [each for each in detect_aws_profile.detect(make_snapshot(tmp_path, env)) if isinstance(each, Finding)]
    assert len(found) == bool(evidence)
    for each in found:
        assert evidence.format(file=file, folder=tmp_path) in each.evidence
        assert each.remedy.startswith(f"sudoedit {file} && sudo litellmctl restart")


def test_a_slow_aws(tmp_path: Path, aws: Cloud) -> None:
    """If AWS is slow, end dates come from the model map, models and quotas are skipped, and nothing is found."""
    snapshot = make_snapshot(tmp_path, {**BASE, **aws.environment, **pair()})
    snapshot.optional_timeout = 0
    diagnosis = run_checks(snapshot, CHECKS, check_timeout=60, total_timeout=60)
    assert causes(diagnosis) == []
    silent = f"claude ({MODEL} in us-east-1): the endpoint accepted the connection but did not answer within 0 s"
    assert {each.cause.id: each.skip_reason for each in diagnosis.unchecked} == {
        "aws-model-refused": silent,
        "aws-throttled": silent,
        "aws-quota-small": "Service Quotas did not list all Bedrock quotas in time",
    }
    assert "Bedrock could not be queried: it did not answer in time" in details(diagnosis, "aws-model-ended")[0]


def test_no_quotas_with_an_api_key() -> None:
    """A Bedrock API key works with Bedrock only, so Service Quotas is not queried, and the reason is reported."""
    with pytest.raises(Unavailable, match="accepts no Bedrock API key"):
        next(list_quotas({"AWS_BEARER_TOKEN_BEDROCK": API_KEY}, "us-east-1"))
