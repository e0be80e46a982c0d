"""A fake instance metadata service, version 2: on 169.254.169.254 as on an EC2 instance, or on a loopback port.

Source: user guide of EC2, "Use the Instance Metadata Service" and "Retrieve security credentials".
"""

from __future__ import annotations

import json
import secrets
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tests.fakes.account import ACCOUNT, Account, Key, stamp
from tests.fakes.http import Reply, Request

_TTL_HEADER = "x-aws-ec2-metadata-token-ttl-seconds"
_TOKEN_HEADER = "x-aws-ec2-metadata-token"
INSTANCE = "i-0fake1234567890ab"


def _page(status: int, words: str) -> Reply:
    body = f'<?xml version="1.0" encoding="iso-8859-1"?><html><head><title>{status} - {words}</title></head></html>'
    return Reply(status, body.encode(), {"Content-Type": "text/html"})


@dataclass
class Metadata:
    """The metadata of one instance. A change of a field is effective from the next request.

    Attributes:
        role: the name of the role in the instance profile. None: 404.
        hop_limit_reached: the response to PUT is lost, as for a container behind a hop limit of 1.
        version_1: whether a request without a token gets a response. Current instances require a token.
        version_2: whether tokens exist. EC2 always has them.
        enabled: whether the endpoint is enabled. If not: 403.
        target_state: the lifecycle state that an instance of an Auto Scaling group is to get. None: 404.
        lifetime: of each set of credentials.
        reported_later: report an expiry that is later than the real one by this time, since botocore renews
            credentials 15 minutes before they expire. The reported time then has microseconds, so that botocore does
            not extend it (botocore/utils.py, _evaluate_expiration).
        rotate_every: return new credentials when the current ones have this age. None: after half of their lifetime.
    """

    account: Account
    region: str = "us-east-1"
    role: str | None = "litellm-gateway"
    hop_limit_reached: bool = False
    version_1: bool = False
    version_2: bool = True
    enabled: bool = True
    target_state: str | None = None
    lifetime: timedelta = timedelta(hours=6)
    reported_later: timedelta | None = None
    rotate_every: timedelta | None = None
    issued: list[Key] = field(default_factory=list)
    _since: datetime | None = None
    _tokens: dict[str, datetime] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def arn(self) -> str:
        """The identity of the instance for STS."""
        return f"arn:aws:sts::{ACCOUNT}:assumed-role/{self.role}/{INSTANCE}"

    def rotate(self) -> Key:
        """Replace the current credentials. The old ones stay valid until they expire."""
        with self._lock:
            self._since = self.account.clock()
            self.issued.append(self.account.add_session(self.arn, self.lifetime))
            return self.issued[-1]

    def answer(self, request: Request) -> Reply:
        if not self.enabled or (request.method == "PUT" and "x-forwarded-for" in request.headers):
            return _page(403, "Forbidden")
        if request.method == "PUT" and request.path == "/latest/api/token" and self.version_2:
            return Reply(silent=True) if self.hop_limit_reached else self._new_token(request)
        if request.method != "GET":
            return _page(405, "Method Not Allowed")
        token = request.headers.get(_TOKEN_HEADER)
        if not self._is_valid(token) and (token is not None or not self.version_1):
            return _page(401, "Unauthorized")
        text = self._look_up(request.path.removeprefix("/latest/").rstrip("/"))
        return _page(404, "Not Found") if text is None else Reply(200, text.encode(), {"Content-Type": "text/plain"})

    def _new_token(self, request: Request) -> Reply:
        seconds = request.headers.get(_TTL_HEADER, "")
        if not seconds.isdigit() or not 1 <= int(seconds) <= 21600:
            return _page(400, "Bad Request")
        token = secrets.token_urlsafe(42)
        with self._lock:
            self._tokens[token] = self.account.clock() + timedelta(seconds=int(seconds))
        return Reply(200, token.encode(), {"Content-Type": "text/plain", _TTL_HEADER: seconds})

    def _is_valid(self, token: str | None) -> bool:
        with self._lock:
            return token in self._tokens and self._tokens[token] > self.account.clock()

    def _look_up(self, path: str) -> str | None:
        role = self.role
        texts = {
            "meta-data": "iam/\ninstance-id\nplacement/",
            "meta-data/placement/region": self.region,
            "meta-data/placement/availability-zone": f"{self.region}a",
            "meta-data/instance-id": INSTANCE,
            "dynamic/instance-identity/document": json.dumps(
                {"accountId": ACCOUNT, "instanceId": INSTANCE, "region": self.region, "version": "2017-09-30"}
            ),
        }
        if self.target_state is not None:
            texts["meta-data/autoscaling/target-lifecycle-state"] = self.target_state
        if role is not None:
            texts["meta-data/iam/security-credentials"] = role
            texts["meta-data/iam/info"] = json.dumps(
                {
                    "Code": "Success",
                    "LastUpdated": stamp(self.account.clock()),
                    "InstanceProfileArn": f"arn:aws:iam::{ACCOUNT}:instance-profile/{role}",
                    "InstanceProfileId": "AIPAEXAMPLEPROFILE234",
                }
            )
            if path == f"meta-data/iam/security-credentials/{role}":
                return json.dumps(self._credentials())
        return texts.get(path)

    def _has_ended(self) -> bool:
        return self.account.is_expired(self.issued[-1])

    def _credentials(self) -> dict[str, str]:
        with self._lock:
            age = self.lifetime / 2 if self.rotate_every is None else self.rotate_every
            if self._since is None or self.account.clock() - self._since >= age or self._has_ended():
                self.rotate()
            key, since = self.issued[-1], self._since or self.account.clock()
        ends = key.expires or since
        expiration = (
            stamp(ends)
            if self.reported_later is None
            else (ends + self.reported_later).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        )
        return {
            "Code": "Success",
            "LastUpdated": stamp(since),
            "Type": "AWS-HMAC",
            "AccessKeyId": key.access_key,
            "SecretAccessKey": key.secret_key,
            "Token": key.token or "",
            "Expiration": expiration,
        }
