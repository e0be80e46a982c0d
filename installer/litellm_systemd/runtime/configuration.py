"""One configuration as the service loaded it: checked, with the text of its files kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from litellm_systemd.env.mock_testing import allows_mock_testing, render_allowing
from litellm_systemd.errors import InputError
from litellm_systemd.gateway.config import check, read_config


@dataclass(frozen=True, slots=True)
class Configuration:
    """A checked LiteLLM configuration.

    `texts` holds each of its files as it was when it was checked. A worker that is replaced hours later gets these,
    not what an administrator is typing just then. `name` is that of the file which the link `path` led to.
    """

    path: Path
    digest: str
    models: int
    texts: Mapping[str, str] = field(repr=False)
    name: str = ""


def load_configuration(path: Path, environ: Mapping[str, str]) -> Configuration:
    """Read and check. Raises InputError, MissingError or PermissionDenied, each with its remedy.

    Where the environment allows mock testing, the text has LiteLLM's switch for that; the file hasn't.
    """
    allows = allows_mock_testing(environ)
    for _ in range(3):
        name = path.readlink().name if path.is_symlink() else path.name
        config = read_config(path)
        check(config, environ)
        texts = {str(file): file.read_text(encoding="utf-8") for file in (path, *config.includes)}
        if hashlib.sha256("".join(texts.values()).encode()).hexdigest() == config.digest:
            served = {str(path): render_allowing(config.document)} if allows else texts
            return Configuration(path, config.digest, len(config.names), served, name)
    raise InputError(f"{path} changes while it is read", "Try again when it is written.")
