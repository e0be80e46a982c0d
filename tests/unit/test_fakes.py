"""The fakes of AWS, tested with boto3: they return what it accepts, and refuse what AWS refuses."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from litellm_systemd.aws.sources import observe_instance
from tests.fakes import USER, Cloud, Key
from tests.fakes.quotas import code_of
from tests.unit.fake_aws import client, code, pointed_at


@pytest.fixture
def aws() -> Iterator[Cloud]:
    with pointed_at() as cloud:
        yield cloud


def metadata(aws: Cloud, method: str, path: str, **headers: str) -> tuple[int, str]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{aws.metadata_url}{path}", method=method, headers=sent)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


# --- signatures ---


def test_sts_knows_a_signed_request(aws: Cloud) -> None:
    """GetCallerIdentity, signed by boto3, returns the account and ARN of the key."""
    assert client("sts").get_caller_identity()["Arn"] == USER.arn


def test_what_sts_refuses(aws: Cloud) -> None:
    """A wrong secret, an unknown key, a token of another session and an expired one each have STS's own code."""
    fresh = aws.account.add_session(USER.arn, timedelta(hours=1))
    other = aws.account.add_session(USER.arn, timedelta(hours=1))
    cases = {
        "SignatureDoesNotMatch": Key(USER.access_key, USER.secret_key[::-1], USER.arn),
        "InvalidClientTokenId": Key("AKIAUNKNOWNKEYUNKNOW", USER.secret_key, USER.arn),
        "ExpiredToken": aws.account.add_session(USER.arn, timedelta(seconds=-1)),
    }
    torn = Key(fresh.access_key, fresh.secret_key, USER.arn, other.token)
    for expected, key in (*cases.items(), ("InvalidClientTokenId", torn)):
        with pytest.raises(ClientError) as error:
            client("sts", key).get_caller_identity()
        assert code(error) == expected
    assert [one.code for one in aws.seen] == [*cases, "InvalidClientTokenId"]


def test_errors_of_bedrock(aws: Cloud) -> None:
    """The REST services return errors as JSON, and refuse a signature for another region."""
    cases = {
        "UnrecognizedClientException": client("bedrock", Key("AKIAUNKNOWNKEYUNKNOW", "x", "")),
        "ExpiredTokenException": client("bedrock", aws.account.add_session(USER.arn, timedelta(seconds=-1))),
        "InvalidSignatureException": client("bedrock", region="eu-west-1"),
    }
    for expected, asker in cases.items():
        with pytest.raises(ClientError) as error:
            asker.list_foundation_models()
        assert code(error) == expected


def test_a_wrong_clock(aws: Cloud) -> None:
    """A request that was signed more than five minutes ago is refused, with both times in the message."""
    aws.account.clock = lambda: datetime.now(timezone.utc) + timedelta(minutes=6)
    with pytest.raises(ClientError, match="is now earlier than") as error:
        client("sts").get_caller_identity()
    assert code(error) == "SignatureDoesNotMatch"


def test_an_unsigned_request(aws: Cloud) -> None:
    """An unsigned request is refused."""
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{aws.api_url}/foundation-models", timeout=5)
    assert error.value.headers["x-amzn-ErrorType"].startswith("MissingAuthenticationTokenException")


# --- roles ---


def test_assume_role(aws: Cloud) -> None:
    """Only a trusted caller with the right external id can assume a role, and the session has an identity
    of its own.
    """
    role = aws.account.add_role("gateway", trusted=("user/cline",), external_id="shared-secret")
    asked = {"RoleArn": role.arn, "RoleSessionName": "test"}
    for wrong in ({}, {"ExternalId": "another"}):
        with pytest.raises(ClientError, match="sts:AssumeRole") as error:
            client("sts").assume_role(**asked, **wrong)
        assert code(error) == "AccessDenied"
    found = client("sts").assume_role(**asked, ExternalId="shared-secret")["Credentials"]
    session = Key(found["AccessKeyId"], found["SecretAccessKey"], "", found["SessionToken"])
    assert client("sts", session).get_caller_identity()["Arn"] == role.session_arn("test")
    assert timedelta(minutes=59) < found["Expiration"] - datetime.now(timezone.utc) <= timedelta(hours=1)


# --- metadata ---


def test_boto3_takes_credentials_and_region_from_the_metadata(aws: Cloud) -> None:
    """boto3 gets a token, the role and its credentials from the metadata by version 2, and signs with them."""
    session = boto3.Session(region_name="us-east-1")
    assert session.client("sts").get_caller_identity()["Arn"] == aws.metadata.arn
    found = session.get_credentials()
    assert found is not None
    assert found.method == "iam-role"
    assert observe_instance(os.environ).region == "us-east-1"


def test_the_metadata_require_a_token(aws: Cloud) -> None:
    """A missing or invalid token gets 401; if version 1 is allowed, a request without a token is answered."""
    path = "/latest/meta-data/iam/security-credentials/"
    assert metadata(aws, "GET", path)[0] == 401
    assert metadata(aws, "GET", path, X_aws_ec2_metadata_token="made-up")[0] == 401
    assert metadata(aws, "PUT", "/latest/api/token")[0] == 400
    status, token = metadata(aws, "PUT", "/latest/api/token", X_aws_ec2_metadata_token_ttl_seconds="60")
    assert (status, metadata(aws, "GET", path, X_aws_ec2_metadata_token=token)) == (200, (200, "litellm-gateway"))
    aws.metadata.version_1 = True
    assert metadata(aws, "GET", path)[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [{"role": None}, {"enabled": False}, {"hop_limit_reached": True}])
def test_no_credentials_from_the_metadata(aws: Cloud, trouble: dict[str, Any]) -> None:
    """Without a role, if disabled, or with too small a hop limit, boto3 finds no credentials there."""
    for name, value in trouble.items():
        setattr(aws.metadata, name, value)
    assert boto3.Session().get_credentials() is None


def test_credentials_rotate(aws: Cloud) -> None:
    """After `rotate` the metadata return new credentials, and the old ones sign until their own expiry."""
    aws.metadata.lifetime = timedelta(hours=1)
    first = boto3.Session().get_credentials()
    assert first is not None
    old = first.get_frozen_credentials()
    assert aws.metadata.rotate().access_key != old.access_key
    second = boto3.Session().get_credentials()
    assert second is not None
    assert second.access_key == aws.metadata.issued[-1].access_key
    assert client("sts", Key(old.access_key, old.secret_key, "", old.token)).get_caller_identity()


# --- the control plane ---


def test_models_and_profiles(aws: Cloud) -> None:
    """Models have a lifecycle, and the profiles are those of the region."""
    aws.catalogue.end_in("anthropic.claude-sonnet-4-6", days=30)
    bedrock = client("bedrock")
    models = {each["modelId"]: each for each in bedrock.list_foundation_models()["modelSummaries"]}
    cycle = models["anthropic.claude-sonnet-4-6"]["modelLifecycle"]
    assert cycle["status"] == "LEGACY"
    assert timedelta(days=29) < cycle["endOfLifeTime"] - datetime.now(timezone.utc) <= timedelta(days=30)
    assert models["anthropic.claude-sonnet-5-5"]["inferenceTypesSupported"] == ["INFERENCE_PROFILE"]
    one = bedrock.get_foundation_model(modelIdentifier="anthropic.claude-haiku-5-5")["modelDetails"]
    assert one["modelLifecycle"]["status"] == "ACTIVE"
    pages = bedrock.get_paginator("list_inference_profiles").paginate(PaginationConfig={"PageSize": 5})
    names = [each["inferenceProfileId"] for page in pages for each in page["inferenceProfileSummaries"]]
    assert {"us.anthropic.claude-sonnet-5-5", "global.anthropic.claude-sonnet-5-5"} <= set(names)
    assert not [name for name in names if name.startswith(("eu.", "jp."))]
    profile = bedrock.get_inference_profile(inferenceProfileIdentifier="us.anthropic.claude-sonnet-5-5")
    assert len(profile["models"]) == 3


def test_what_the_control_plane_refuses(aws: Cloud) -> None:
    """An unknown model, an unknown profile and a denied action have the codes of AWS."""
    bedrock = client("bedrock")
    aws.account.denied.add("bedrock:ListFoundationModels")
    cases = (
        ("ValidationException", lambda: bedrock.get_foundation_model(modelIdentifier="anthropic.claude-9")),
        ("ResourceNotFoundException", lambda: bedrock.get_inference_profile(inferenceProfileIdentifier="us.none")),
        ("AccessDeniedException", bedrock.list_foundation_models),
    )
    for expected, ask in cases:
        with pytest.raises(ClientError) as error:
            ask()
        assert code(error) == expected


def test_quotas_come_in_pages(aws: Cloud) -> None:
    """ListServiceQuotas returns every quota once, in pages of at most 100."""
    asker = client("service-quotas")
    rows = [
        row
        for page in asker.get_paginator("list_service_quotas").paginate(ServiceCode="bedrock")
        for row in page["Quotas"]
    ]
    assert len({row["QuotaCode"] for row in rows}) == len(rows) == len(aws.quotas.values)
    large = {row["QuotaName"]: row["Value"] for row in rows if row["Value"] > 1_000_000}
    assert large["Cross-region model inference tokens per minute for Anthropic Claude Haiku 5.5"] == 6_000_000
    assert len(asker.list_service_quotas(ServiceCode="bedrock", MaxResults=100)["Quotas"]) == 100
    assert {(one.service, one.target) for one in aws.seen} == {("servicequotas", "POST /")}


def test_the_default_of_a_quota(aws: Cloud) -> None:
    """An account's quota may be lower than AWS's default, which is returned for the same code."""
    name = "Cross-region model inference tokens per minute for Anthropic Claude Haiku 5.5"
    aws.quotas.values[name] = 0
    found = client("service-quotas").get_aws_default_service_quota(ServiceCode="bedrock", QuotaCode=code_of(name))
    assert found["Quota"]["Value"] == 6_000_000


def test_what_service_quotas_refuses(aws: Cloud) -> None:
    """Service Quotas has error codes of its own, and refuses a signature for another service or region."""
    good = client("service-quotas")
    cases = {
        "NoSuchResourceException": (good, {"ServiceCode": "nothing"}),
        "InvalidPaginationTokenException": (good, {"ServiceCode": "bedrock", "NextToken": "bm8="}),
        "InvalidSignatureException": (client("service-quotas", region="eu-west-1"), {"ServiceCode": "bedrock"}),
        "UnrecognizedClientException": (
            client("service-quotas", Key("AKIAUNKNOWNKEYUNKNOW", "x", "")),
            {"ServiceCode": "bedrock"},
        ),
    }
    for expected, (asker, given) in cases.items():
        with pytest.raises(ClientError) as error:
            asker.list_service_quotas(**given)
        assert code(error) == expected
    aws.account.denied.add("servicequotas:ListServiceQuotas")
    with pytest.raises(ClientError, match="not authorized to perform: servicequotas:ListServiceQuotas"):
        good.list_service_quotas(ServiceCode="bedrock")


def test_control_by_another_process(aws: Cloud) -> None:
    """Requests of a test in a box have the same effect as assignments to the fields."""

    def post(name: str, **body: Any) -> Any:
        connection = http.client.HTTPConnection(aws.api_url.removeprefix("http://"), timeout=5)
        connection.request("POST", f"/-/{name}", json.dumps(body))
        return json.loads(connection.getresponse().read())

    post("metadata", role=None, lifetime=60)
    assert (aws.metadata.role, aws.metadata.lifetime) == (None, timedelta(minutes=1))
    client("sts").get_caller_identity()
    (seen,) = post("seen")
    assert (seen["service"], seen["key"], seen["arn"], seen["status"]) == ("sts", USER.access_key, USER.arn, 200)
