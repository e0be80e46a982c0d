"""Fake Secrets Manager (GetSecretValue) and SSM Parameter Store (GetParameter): the JSON protocol, version 1.1."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.account import ACCOUNT, Account, Key
from tests.fakes.http import Reply, Request
from tests.fakes.refusals import denied, refuse
from tests.fakes.signature import identify

#: The services, by the prefix of the operation in the header X-Amz-Target.
TARGETS = {"secretsmanager.": "secretsmanager", "AmazonSSM.": "ssm"}


@dataclass
class Secrets:
    """The secrets of one account in one region by name: `values` in Secrets Manager, `parameters` in Parameter Store.

    A change is effective from the next request. `busy`: the number of requests to throttle.
    """

    account: Account
    region: str
    values: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    busy: int = 0

    def answer(self, request: Request) -> tuple[Key, Reply]:
        """The key of the caller and the response. Raises Refused."""
        prefix, service = next(
            pair for pair in TARGETS.items() if request.headers["x-amz-target"].startswith(pair[0])
        )
        key = identify(request, self.account, service, (self.region,))
        action = request.headers["x-amz-target"].removeprefix(prefix)
        look_up = {"GetSecretValue": self._secret, "GetParameter": self._parameter}.get(action)
        if look_up is None:
            raise refuse(400, "UnknownOperationException", "", "Message")
        if f"{service}:{action}" in self.account.denied:
            raise denied(key.arn, f"{service}:{action}", "*")
        if self.busy:
            self.busy -= 1
            raise refuse(400, "ThrottlingException", "Rate exceeded", "Message")
        headers = {"Content-Type": "application/x-amz-json-1.1", "x-amzn-RequestId": str(uuid.uuid4())}
        return key, Reply(200, json.dumps(look_up(json.loads(request.body))).encode(), headers)

    def _secret(self, given: dict[str, Any]) -> dict[str, Any]:
        name = re.sub(rf"^arn:aws:secretsmanager:{self.region}:{ACCOUNT}:secret:", "", given["SecretId"])
        name = name if name in self.values else re.sub(r"-\w{6}$", "", name)
        if name not in self.values:
            message = "Secrets Manager can\u2019t find the specified secret."
            raise refuse(400, "ResourceNotFoundException", message, "Message")
        arn = f"arn:aws:secretsmanager:{self.region}:{ACCOUNT}:secret:{name}-a1B2c3"
        return {"ARN": arn, "Name": name, "SecretString": self.values[name], "VersionStages": ["AWSCURRENT"]}

    def _parameter(self, given: dict[str, Any]) -> dict[str, Any]:
        name = re.sub(rf"^arn:aws:ssm:{self.region}:{ACCOUNT}:parameter", "", given["Name"])
        if name not in self.parameters:
            raise refuse(400, "ParameterNotFound", "", "Message")
        # Without decryption, AWS returns the ciphertext.
        value = self.parameters[name] if given.get("WithDecryption") else "AQICAHh=="
        return {"Parameter": {"Name": name, "Type": "SecureString", "Value": value, "Version": 1}}
