"""A CloudFormation template with its functions evaluated for given parameters."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cfnlint.decode.cfn_yaml import load

EC2 = Path(__file__).resolve().parents[1] / "configs/cloudformation/ec2.yaml"
#: The value of a removed property: `AWS::NoValue`.
_NOTHING = object()


@dataclass(frozen=True)
class Stack:
    """A template with its parameters. `Ref` and `GetAtt` of a resource give its name in angle brackets."""

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
        return f"<{name}>" if parameter is None else self.values.get(name, parameter.get("Default", f"<{name}>"))

    def _sub(self, argument: Any) -> str:
        text, given = argument if isinstance(argument, list) else (argument, {})
        own = {name: self.resolve(value) for name, value in given.items()}
        found = re.sub(r"\$\{(?!!)([\w:]+)\}", lambda match: str(own.get(match[1]) or self._ref(match[1])), text)
        return found.replace("${!", "${")

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


def read_stack(values: Mapping[str, str], region: str = "us-east-1") -> Stack:
    """configs/cloudformation/ec2.yaml with these parameters."""
    return Stack(load(str(EC2)), values, region)


def user_data(stack: Stack) -> str:
    """The script that the instance runs at its first boot."""
    data = stack.resource("LaunchTemplate")["LaunchTemplateData"]
    return base64.b64decode(data["UserData"]).decode()
