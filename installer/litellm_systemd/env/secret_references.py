"""Secrets that are kept in AWS: a variable holds a reference in place of the value (docs/adr/0011). Pure.

`aws-secretsmanager:NAME`, `aws-secretsmanager:NAME#KEY` for a value in a JSON object, and `aws-ssm:NAME`. NAME may be
an ARN, which has the region; for a plain name it is that of the environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from litellm_systemd.env.variables import (
    AWS_ACCESS_KEY_ID,
    AWS_REGION_NAME,
    AWS_SECRET_ACCESS_KEY,
    AWS_SESSION_TOKEN,
    SECRET_NAMES,
    TABLE,
)
from litellm_systemd.errors import InputError

#: The prefixes of a reference, with the service of AWS as botocore calls it.
_SERVICES = {"aws-secretsmanager": "secretsmanager", "aws-ssm": "ssm"}
_REFERENCE = re.compile(rf"({'|'.join(_SERVICES)}):([^#]*)(?:#(.*))?", re.DOTALL)
#: https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_CreateSecret.html,
#: https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameter.html
_NAMES = {
    "secretsmanager": re.compile(r"[\w/+=.@!-]{1,512}", re.ASCII),
    "ssm": re.compile(r"[\w./-]{1,1011}", re.ASCII),
}
_ARNS = {
    "secretsmanager": re.compile(r"arn:aws[a-z-]*:secretsmanager:([a-z0-9-]+):\d{12}:secret:[\w/+=.@!-]+", re.ASCII),
    "ssm": re.compile(r"arn:aws[a-z-]*:ssm:([a-z0-9-]+):\d{12}:parameter/[\w./-]+", re.ASCII),
}
#: With these, AWS is queried for the others.
_CREDENTIALS = (AWS_ACCESS_KEY_ID.name, AWS_SECRET_ACCESS_KEY.name, AWS_SESSION_TOKEN.name)
_PUBLIC = frozenset(name for each in TABLE for name in each.names) - SECRET_NAMES


@dataclass(frozen=True, slots=True)
class SecretReference:
    """A variable and where its value is: the service, the name or ARN, the region, and the key of a JSON object."""

    variable: str
    service: str
    name: str
    region: str
    key: str = ""

    @property
    def place(self) -> str:
        """The service, the region and the name, for messages."""
        title = "AWS Secrets Manager" if self.service == "secretsmanager" else "SSM Parameter Store"
        return f"{title} in {self.region}, {self.name}{f'#{self.key}' if self.key else ''}"


def is_reference(value: str) -> bool:
    return _REFERENCE.fullmatch(value) is not None


def find_references(
    environ: Mapping[str, str], where: Callable[[str], str] | None = None
) -> tuple[SecretReference, ...]:
    """The references of an environment. `where` returns the position of a variable for messages.

    Raises:
        InputError: one has no valid name or no region, or its variable cannot be one.
    """
    return tuple(_parse(environ, where or (lambda _name: "")))


def _parse(environ: Mapping[str, str], where: Callable[[str], str]) -> Iterator[SecretReference]:
    for variable, value in environ.items():
        match = _REFERENCE.fullmatch(value)
        if match is None:
            continue
        position = f"{where(variable)}: " if where(variable) else ""
        prefix, name, key = match.groups()
        service = _SERVICES[prefix]
        _require_variable(variable, position)
        arn = _ARNS[service].fullmatch(name)
        if (arn is None and not _NAMES[service].fullmatch(name)) or key == "" or (key and service == "ssm"):
            raise InputError(
                f"{position}{variable}={value} is not the name or ARN of a secret",
                "Write aws-secretsmanager:NAME, aws-secretsmanager:NAME#KEY for a key of a JSON object, or"
                " aws-ssm:/NAME.",
            )
        region = arn[1] if arn else next((environ[each] for each in AWS_REGION_NAME.names if environ.get(each)), "")
        if not region:
            raise InputError(
                f"{position}{variable}={value} has no region", f"Set {AWS_REGION_NAME.name}, or write the ARN."
            )
        yield SecretReference(variable, service, name, region, key or "")


def _require_variable(variable: str, position: str) -> None:
    if variable in _CREDENTIALS:
        raise InputError(
            f"{position}{variable} cannot be kept in AWS: it is what AWS is queried with",
            "Use the role of the instance, and remove the variable.",
        )
    if variable in _PUBLIC:
        raise InputError(f"{position}{variable} is not a secret and cannot be kept in AWS", "Write the value itself.")
