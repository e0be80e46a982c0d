"""One configuration as the service loaded it: checked, with the texts of its files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from litellm_systemd.env.mock_testing import allows_mock_testing, render_allowing
from litellm_systemd.errors import InputError
from litellm_systemd.gateway.config import check, read_config, read_text, real_path, render_document


@dataclass(frozen=True, slots=True)
class Configuration:
    """A checked LiteLLM configuration.

    `path` is the file itself, not a link to it: LiteLLM looks for callbacks next to the path that it is given.
    `texts` holds what LiteLLM reads, as it was when it was checked, by path: a worker that is replaced hours later
    gets that, not an unfinished edit of an administrator. `name` is that of the file in its folder.
    """

    path: Path
    digest: str
    models: int
    texts: Mapping[str, str] = field(repr=False)
    name: str = ""


def load_configuration(path: Path, environ: Mapping[str, str]) -> Configuration:
    """Read and check. Raises InputError, MissingError or PermissionDenied, each with its remedy.

    LiteLLM gets one text with the included files merged in, because it would read these from the disk. If the
    environment allows mock testing, the text, but not the file, has LiteLLM's switch for that.
    """
    allows = allows_mock_testing(environ)
    for _ in range(3):
        entry = path.parent / path.readlink() if os.path.islink(path) else path  # noqa: PTH114 - is_symlink() may raise
        file = real_path(entry)
        config = read_config(file)
        check(config, environ)
        texts = {str(each): read_text(each, str(each)) for each in (file, *config.includes)}
        if hashlib.sha256("".join(texts.values()).encode()).hexdigest() == config.digest:
            if allows:
                texts = {str(file): render_allowing(config.document)}
            elif config.includes:
                texts = {str(file): render_document(config.document)}
            return Configuration(file, config.digest, len(config.names), texts, entry.name)
    raise InputError(f"{path} changes while it is read", "Try again when the edit is complete.")
