"""What Service Quotas says of Bedrock, asked as the service would ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from litellm_systemd.aws.client import Refused, connect, in_words, why
from litellm_systemd.bedrock.quotas import Quota
from litellm_systemd.env.expiry import BEARER_VARIABLE
from litellm_systemd.errors import Unavailable

#: The most that Service Quotas puts on a page. Bedrock has more than a thousand quotas, and there is no question for
#: those of one model.
_PAGE = 100
_DENIED = "the service may not ask Service Quotas: the statement AskForQuotas of 'litellmctl iam-policy' allows it"


def list_quotas(environ: Mapping[str, str], region: str) -> Iterator[Quota]:
    """Bedrock's quotas as they are applied to the service's account, asked for page by page.

    Raises:
        Unavailable: they can't be asked for, or not for the rest; the message says why.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    if environ.get(BEARER_VARIABLE):
        raise Unavailable("Service Quotas takes no Bedrock API key")
    try:
        pages = connect(environ, region, "service-quotas").get_paginator("list_service_quotas")
        for page in pages.paginate(ServiceCode="bedrock", PaginationConfig={"PageSize": _PAGE}):
            yield from map(_quota, page["Quotas"])
    except ClientError as error:
        denied = error.response.get("Error", {}).get("Code") == "AccessDeniedException"
        raise Unavailable(_DENIED if denied else f"Service Quotas: {in_words(error)}") from None
    except BotoCoreError as error:
        raise Unavailable(f"Service Quotas: {why(error)}") from None
    except Refused as error:
        raise Unavailable(str(error)) from None


def find_default(environ: Mapping[str, str], region: str, code: str) -> float | None:
    """What AWS gives of a quota by default, None where it can't be asked for that."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client = connect(environ, region, "service-quotas")
        return float(client.get_aws_default_service_quota(ServiceCode="bedrock", QuotaCode=code)["Quota"]["Value"])
    except (BotoCoreError, ClientError, Refused):
        return None


def _quota(found: Mapping[str, Any]) -> Quota:
    return Quota(str(found["QuotaName"]), str(found["QuotaCode"]), float(found["Value"]), bool(found["Adjustable"]))
