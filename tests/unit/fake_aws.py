"""A fake AWS that the environment points to, and boto3's clients for it, shared by the tests of the fakes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.fakes import USER, Cloud, Key, run_cloud

#: One attempt, because these tests expect refusals.
_ONCE = Config(retries={"total_max_attempts": 1})


@contextmanager
def pointed_at() -> Iterator[Cloud]:
    """Run the fakes; the environment of this process points to them and has no credentials."""
    with run_cloud() as cloud, pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            patch.delenv(name, raising=False)
        for name, value in cloud.environment.items():
            patch.setenv(name, value)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
        patch.setenv("AWS_CONFIG_FILE", "/nowhere")
        yield cloud


def client(service: str, key: Key = USER, region: str = "us-east-1") -> Any:
    """A client of boto3 that signs with that key."""
    return boto3.client(
        service,
        region_name=region,
        aws_access_key_id=key.access_key,
        aws_secret_access_key=key.secret_key,
        aws_session_token=key.token,
        config=_ONCE,
    )


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])
