"""A CloudFormation template with its functions evaluated for given parameters."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cfnlint.decode.cfn_yaml import load

FOLDER = Path(__file__).resolve().parents[1] / "configs/cloudformation"
EC2, FLEET = FOLDER / "ec2.yaml", FOLDER / "fleet.yaml"
#: The value of a removed property: `AWS::NoValue`.
_NOTHING = object()


@dataclass(frozen=True)
class Stack:
    """A template with its parameters.

    `values` are those of parameters, and of resources and attributes by name (`Database.Endpoint.Address`). Without
    one, `Ref` and `GetAtt` give the name in angle brackets.
    """

    template: Mapping[str, Any]
    values: Mapping[str, str] = field(default_factory=dict)
    region: str = "us-east-1"

    def resource(self, name: str) -> Any:
        return self.resolve(self.template["Resources"][name]["Properties"])

    def condition(self, name: str) -> bool:
        return bool(self.resolve(self.template["Conditions"][name]))

    def resolve(self, node: Any) -> Any:
        if isinstance(node, list):
            return [value for value in map(self.resolve, node) if value is not _NOTHING]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((name, argument),) = node.items()
            function = getattr(self, "_" + name.removeprefix("Fn::").lower(), None)
            if function and (name == "Ref" or name.startswith("Fn::")):
                return function(argument)
        resolved = {str(key): self.resolve(value) for key, value in node.items()}
        return {key: value for key, value in resolved.items() if value is not _NOTHING}

    def _ref(self, name: str) -> Any:
        pseudo = {
            "AWS::Region": self.region,
            "AWS::Partition": "aws",
            "AWS::AccountId": "123456789012",
            "AWS::StackName": "gateway",
            "AWS::NoValue": _NOTHING,
        }
        if name in pseudo:
            return pseudo[name]
        parameter = self.template["Parameters"].get(name)
        default = f"<{name}>" if parameter is None else parameter.get("Default", f"<{name}>")
        return self.values.get(name, default)

    def _sub(self, argument: Any) -> str:
        text, given = argument if isinstance(argument, list) else (argument, {})
        own = {name: self.resolve(value) for name, value in given.items()}
        found = re.sub(r"\$\{(?!!)([\w:.]+)\}", lambda match: str(own.get(match[1]) or self._value(match[1])), text)
        return found.replace("${!", "${")

    def _value(self, name: str) -> Any:
        """What stands for `${NAME}` in a text: a parameter or resource, or with a dot an attribute."""
        return self.values.get(name, self._getatt(name)) if "." in name else self._ref(name)

    def _getatt(self, argument: Any) -> str:
        return f"<{argument if isinstance(argument, str) else '.'.join(argument)}>"

    def _findinmap(self, argument: Any) -> Any:
        table, row, column = map(self.resolve, argument)
        return self.template["Mappings"][table][row][column]

    def _if(self, argument: Any) -> Any:
        name, yes, no = argument
        return self.resolve(yes if self.condition(name) else no)

    def _equals(self, argument: Any) -> bool:
        left, right = map(self.resolve, argument)
        return bool(left == right)

    def _not(self, argument: Any) -> bool:
        (value,) = map(self.resolve, argument)
        return not value

    def _select(self, argument: Any) -> Any:
        index, values = argument
        return self.resolve(values)[int(index)]

    def _split(self, argument: Any) -> list[str]:
        separator, text = map(self.resolve, argument)
        return str(text).split(separator)

    def _base64(self, argument: Any) -> str:
        return base64.b64encode(self.resolve(argument).encode()).decode()


def read_stack(values: Mapping[str, str], region: str = "us-east-1", template: Path = EC2) -> Stack:
    """A template with these parameters."""
    return Stack(load(str(template)), values, region)


def rights(statements: Any) -> Iterator[tuple[str, str, str]]:
    """Each action with its resources and condition: through a profile, or in which region."""
    for statement in statements:
        assert statement["Effect"] == "Allow"
        by_way, region = (statement.get("Condition", {}).get(test, {}) for test in ("ArnLike", "StringEquals"))
        assert statement.get("Condition", {}).keys() <= {"ArnLike", "StringEquals"}
        for action in as_list(statement["Action"]):
            for arn in as_list(statement["Resource"]):
                place = "*" if by_way else arn.split(":")[3] if arn != "*" else arn
                yield action, ":".join([place, *arn.split(":")[4:]]), "by way of a profile" if by_way else str(region)


def as_list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def statements(stack: Stack) -> dict[str, Any]:
    """The statements of the role of the instances, by the name of their policy."""
    policies = stack.resource("Role")["Policies"]
    return {each["PolicyName"]: each["PolicyDocument"]["Statement"] for each in policies}


def user_data(stack: Stack) -> str:
    """The script that the instance runs at its first boot."""
    data = stack.resource("LaunchTemplate")["LaunchTemplateData"]
    return base64.b64decode(data["UserData"]).decode()
