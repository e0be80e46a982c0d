"""What a new version of LiteLLM changes for users, from litellm_changes.yml, which is part of this package."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files


def list_changes(old: str, new: str) -> Iterator[str]:
    """Return a line for each change that `new` has and `old` has not: the change, its first version, and the fix.

    Nothing is returned for a version that is unknown or older than `old`.
    """
    import yaml
    from packaging.version import InvalidVersion, Version

    try:
        before, after = Version(old), Version(new)
    except InvalidVersion:
        return
    for entry in yaml.safe_load((files(__package__) / "litellm_changes.yml").read_text(encoding="utf-8")):
        if before < Version(entry["since"]) <= after:
            yield f"New in LiteLLM {entry['since']}: {entry['change']}. {entry['fix']}. {entry['source']}"
