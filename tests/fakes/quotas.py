"""Fake Service Quotas for Bedrock: ListServiceQuotas and GetAWSDefaultServiceQuota in the JSON protocol, version 1.1.

The names of the quotas are from the AWS General Reference, "Amazon Bedrock endpoints and quotas". As in a real
account, there are several pages of quotas, most of them irrelevant here.
"""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.account import ACCOUNT, Account, Key
from tests.fakes.catalogue import Model
from tests.fakes.http import Reply, Request
from tests.fakes.refusals import denied, refuse
from tests.fakes.signature import identify

TARGET = "ServiceQuotasV20190624."
_LARGEST_PAGE = 100
#: The default size of a page.
_PAGE = 20
_OTHERS = (
    *(f"(Flows) operation {number} requests per second" for number in range(80)),
    *(f"Records per batch inference job for model {number}" for number in range(80)),
    "Cross-region model inference tokens per minute for Anthropic Claude Sonnet 4.5 V1 1M Context Length",
    "[bedrock-mantle endpoint] Input tokens per minute for Anthropic Claude Sonnet 5.5",
    "Cross-Model Max Tokens Per Day",
)


@dataclass
class Quotas:
    """The quotas of one account in one region, by name. A change of `values` is effective from the next request.

    `defaults` are AWS's default values. `fixed` are the names of the quotas that a request can't raise.
    """

    account: Account
    region: str
    values: dict[str, float] = field(default_factory=dict)
    defaults: dict[str, float] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, account: Account, region: str, models: dict[str, Model]) -> Quotas:
        """The default quotas: 6,000,000 tokens per minute for the profile of a geography, 12,000,000 for global."""
        quotas = cls(account, region, dict.fromkeys(_OTHERS, 10.0))
        for model in models.values():
            name = f"{model.provider} {model.name}"
            if model.profiles:
                quotas.values[f"Cross-region model inference tokens per minute for {name}"] = 6_000_000.0
            if "global" in model.profiles:
                quotas.values[f"Global cross-region model inference tokens per minute for {name}"] = 12_000_000.0
            if model.on_demand:
                quotas.values[f"On-demand model inference tokens per minute for {name}"] = 4_000_000.0
        quotas.defaults = dict(quotas.values)
        return quotas

    def answer(self, request: Request) -> tuple[Key, Reply]:
        """The key of the caller and the response. Raises Refused."""
        key = identify(request, self.account, "servicequotas", (self.region,))
        if request.headers.get("content-type") != "application/x-amz-json-1.1":
            raise refuse(404, "UnknownOperationException", "", "Message")
        action = request.headers.get("x-amz-target", "").removeprefix(TARGET)
        look_up = {"ListServiceQuotas": self._list, "GetAWSDefaultServiceQuota": self._default}.get(action)
        if look_up is None:
            raise refuse(400, "UnknownOperationException", "", "Message")
        if f"servicequotas:{action}" in self.account.denied:
            raise denied(key.arn, f"servicequotas:{action}", "*")
        given = json.loads(request.body)
        if given.get("ServiceCode") != "bedrock":
            raise refuse(400, "NoSuchResourceException", "The request failed because the service doesn't exist.")
        return key, _reply(look_up(given))

    def _default(self, given: dict[str, Any]) -> dict[str, Any]:
        name = next((name for name in self.defaults if code_of(name) == given.get("QuotaCode")), None)
        if name is None:
            raise refuse(400, "NoSuchResourceException", "The request failed because the quota doesn't exist.")
        return {"Quota": {**self._quota(name), "Value": self.defaults[name]}}

    def _list(self, given: dict[str, Any]) -> dict[str, Any]:
        size = given.get("MaxResults", _PAGE)
        if not 1 <= size <= _LARGEST_PAGE:
            message = "1 validation error detected: Value at 'maxResults' failed to satisfy constraint"
            raise refuse(400, "ValidationException", message)
        return self._page(_read_token(given.get("NextToken")), size)

    def _page(self, first: int, size: int) -> dict[str, Any]:
        # Sort by code, so that the quotas of a model can be on any page.
        rows = sorted(map(self._quota, self.values), key=lambda row: str(row["QuotaCode"]))
        more = {"NextToken": _token(first + size)} if first + size < len(rows) else {}
        return {"Quotas": rows[first : first + size], **more}

    def _quota(self, name: str) -> dict[str, Any]:
        code = code_of(name)
        return {
            "ServiceCode": "bedrock",
            "ServiceName": "Amazon Bedrock",
            "QuotaArn": f"arn:aws:servicequotas:{self.region}:{ACCOUNT}:bedrock/{code}",
            "QuotaCode": code,
            "QuotaName": name,
            "Value": self.values[name],
            "Unit": "None",
            "Adjustable": name not in self.fixed,
            "GlobalQuota": False,
            "QuotaAppliedAtLevel": "ACCOUNT",
        }


def code_of(name: str) -> str:
    """The code of a quota: eight hexadecimal digits, the same in each account."""
    return f"L-{zlib.crc32(name.encode()):08X}"


def _token(first: int) -> str:
    return base64.b64encode(f"from {first}".encode()).decode()


def _read_token(token: str | None) -> int:
    if token is None:
        return 0
    try:
        return int(base64.b64decode(token).removeprefix(b"from "))
    except ValueError:
        raise refuse(400, "InvalidPaginationTokenException", "Invalid pagination token.", "Message") from None


def _reply(body: dict[str, Any]) -> Reply:
    headers = {"Content-Type": "application/x-amz-json-1.1", "x-amzn-RequestId": str(uuid.uuid4())}
    return Reply(200, json.dumps(body).encode(), headers)
