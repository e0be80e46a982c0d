"""The expiry of temporary AWS credentials, and the check that reports it."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta, timezone

import pytest

from litellm_systemd.env.aws import judge_end, render_left
from litellm_systemd.env.credentials_expiry import find_end, parse_moment, render_moment
from litellm_systemd.report.report import Outcome

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=timezone.utc)
TEMPORARY = {"AWS_ACCESS_KEY_ID": "ASIAIOSFODNN7EXAMPLE", "AWS_SESSION_TOKEN": "token"}


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T12:00:00Z",
        "2026-01-31T13:00:00+01:00",
        "2026-01-31 12:00:00",
        "2026-01-31T12:00:00.123456789Z",
        " 2026-01-31T12:00:00+00:00 ",
    ],
)
def test_formats_of_a_time(text: str) -> None:
    """Each time format that tools write into AWS profiles is parsed to the same time, UTC by default."""
    assert parse_moment(text) == NOW


@pytest.mark.parametrize("text", ["", "soon", "1769860800", "2026-13-01T00:00:00Z"])
def test_invalid_time(text: str) -> None:
    """A text that is not a time gives None, not an error."""
    assert parse_moment(text) is None


def test_round_trip() -> None:
    """A time that was written to .env is read as the same time."""
    assert parse_moment(render_moment(NOW)) == NOW


@pytest.mark.parametrize(
    ("end", "outcome", "said"),
    [
        ("2026-01-31T18:00:00Z", Outcome.OK, "in 6 h"),
        ("2026-01-31T13:00:00Z", Outcome.WARNING, "in 60 min"),
        ("2026-01-31T12:00:00Z", Outcome.FAILED, "expired at 2026-01-31T12:00:00Z"),
        ("2026-01-30T12:00:00Z", Outcome.FAILED, "AWS rejects every call"),
    ],
)
def test_check_of_a_temporary_key(end: str, outcome: Outcome, said: str) -> None:
    """The check passes until an hour before the expiry, then warns with the remedy, and fails afterwards."""
    check = judge_end({**TEMPORARY, "AWS_CREDENTIAL_EXPIRATION": end}, NOW)
    assert check is not None
    assert check.outcome is outcome
    assert said in check.detail
    assert bool(check.hint) is (outcome is not Outcome.OK)


def test_unknown_expiry() -> None:
    """The check of a temporary key without a known expiry is skipped, not passed."""
    check = judge_end(TEMPORARY, NOW)
    assert check is not None
    assert (check.outcome, "AWS_CREDENTIAL_EXPIRATION" in check.detail) == (Outcome.SKIPPED, True)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE"},
        {"AWS_BEARER_TOKEN_BEDROCK": "ABSKexample"},
        {"AWS_BEARER_TOKEN_BEDROCK": "bedrock-api-key-garbled"},
        {"AWS_CREDENTIAL_EXPIRATION": "2026-01-31T12:00:00Z"},
    ],
)
def test_permanent_credentials(environment: dict[str, str]) -> None:
    """There is no check for permanent credentials, or for an expiry without a session token."""
    assert judge_end(environment, NOW) is None


def test_short_term_api_key() -> None:
    """A short-term Bedrock API key expires with its signature, without another variable in .env."""
    url = (
        "bedrock.amazonaws.com/?Action=CallWithBearerToken&X-Amz-Date=20260131T113000Z&X-Amz-Expires=43200&Version=1"
    )
    token = "bedrock-api-key-" + base64.b64encode(url.encode()).decode()
    assert find_end({"AWS_BEARER_TOKEN_BEDROCK": token}) == NOW + timedelta(hours=11, minutes=30)


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (timedelta(seconds=59), "0 min"),
        (timedelta(minutes=119), "119 min"),
        (timedelta(hours=47), "47 h"),
        (timedelta(days=3), "3 days"),
    ],
)
def test_time_spans(left: timedelta, text: str) -> None:
    """A time span is shown in minutes, hours or days, depending on its length."""
    assert render_left(left) == text
