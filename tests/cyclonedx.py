"""Validate a bill of materials by the official schema of CycloneDX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def assert_valid(document: Mapping[str, Any]) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(dict(document))) is None
