"""References to secrets in AWS: their grammar, and where they are allowed."""

from __future__ import annotations

import pytest

from litellm_systemd.env.secret_references import SecretReference, find_references
from litellm_systemd.env.secrets import holds_secret
from litellm_systemd.env.settings import build_settings, parse_dotenv
from litellm_systemd.errors import InputError

SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:gateway-a1B2c3"
NAME = "LITELLM_MASTER_KEY"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("aws-secretsmanager:gateway", SecretReference(NAME, "secretsmanager", "gateway", "us-east-1")),
        ("aws-secretsmanager:a/b#key", SecretReference(NAME, "secretsmanager", "a/b", "us-east-1", "key")),
        (f"aws-secretsmanager:{SECRET}#k", SecretReference(NAME, "secretsmanager", SECRET, "eu-west-1", "k")),
        ("aws-ssm:/gateway/key", SecretReference(NAME, "ssm", "/gateway/key", "us-east-1")),
    ],
)
def test_references(value: str, expected: SecretReference) -> None:
    """A reference names the secret; its region is that of the ARN, otherwise that of the environment."""
    assert find_references({NAME: value, "AWS_REGION_NAME": "us-east-1"}) == (expected,)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (f"{NAME}=aws-secretsmanager:", ".env:1: LITELLM_MASTER_KEY=aws-secretsmanager: is not the name"),
        (f"{NAME}='aws-secretsmanager:a b'", "is not the name or ARN"),
        (f"{NAME}='aws-secretsmanager:a#'", "is not the name or ARN"),
        (f"{NAME}='aws-ssm:/a#b'", "is not the name or ARN"),
        (f"{NAME}=aws-ssm:arn:aws:s3:::bucket", "is not the name or ARN"),
        ("AWS_ACCESS_KEY_ID=aws-ssm:/a", "cannot be kept in AWS: it is what AWS is queried with"),
        ("OPENAI_API_BASE=aws-ssm:/a", "is not a secret"),
    ],
)
def test_invalid_references(env: str, message: str) -> None:
    """An invalid reference is one error with file and line."""
    with pytest.raises(InputError) as refused:
        build_settings(parse_dotenv(env, ".env"), installed={}, new_key=str)
    assert message in refused.value.message


def test_reference_without_a_region() -> None:
    """A plain name needs the region of the environment."""
    with pytest.raises(InputError, match="has no region"):
        find_references({NAME: "aws-ssm:/a"})


def test_reference_is_no_secret() -> None:
    """A reference is shown and needs no encryption."""
    assert not holds_secret(NAME, f"aws-secretsmanager:{SECRET}#key")
