"""The Terraform module, parsed: its blocks by type and name, and its user data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hcl2

MODULE = Path(__file__).resolve().parents[1] / "configs/terraform"


def read_module() -> dict[str, dict[str, Any]]:
    """Each block of the module by its address, such as `aws_lb.gateway`, `data.aws_region.current` and `var.name`."""
    return {address: body for path in sorted(MODULE.glob("*.tf")) for address, body in _read(path)}


def _read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        document = _clean(hcl2.load(file))
    for kind, prefix in (("resource", ""), ("data", "data."), ("ephemeral", "ephemeral.")):
        for block in document.get(kind, ()):
            yield from (
                (f"{prefix}{type_}.{name}", body) for type_, each in block.items() for name, body in each.items()
            )
    for kind, prefix in (("variable", "var"), ("output", "output")):
        yield from ((f"{prefix}.{name}", body) for block in document.get(kind, ()) for name, body in block.items())
    for block in document.get("locals", ()):
        yield from ((f"local.{name}", value) for name, value in block.items())


def _clean(node: Any) -> Any:
    """What the parser read, without the quotes around strings and its own marks. Expressions keep their `${...}`."""
    if isinstance(node, dict):
        return {key.strip('"'): _clean(value) for key, value in node.items() if not key.startswith("__")}
    if isinstance(node, list):
        return [_clean(each) for each in node]
    if isinstance(node, str) and node.startswith('"') and node.endswith('"'):
        return node[1:-1].replace('\\"', '"')
    return node


def render_template(values: Mapping[str, str]) -> str:
    """The user data with these values, as Terraform's `templatefile` renders it. It has no directives."""
    text = (MODULE / "user-data.sh.tftpl").read_text(encoding="utf-8")
    rendered = re.sub(r"(?<!\$)\$\{(\w+)\}", lambda found: values[found[1]], text)
    return rendered.replace("$${", "${")
