"""Text files of the package: unit templates, configurations and the requirements lock."""

from __future__ import annotations

from importlib.resources import files

EXAMPLE_ENV = "env.example"
#: The folder below configs/ with what the configurations include.
SHARED = "shared"
#: The user's own models and settings: it ships empty, and is never written again.
USER_FILE = f"{SHARED}/my_models.yml"


def read_template(name: str) -> str:
    """The text of a unit template in units/, by file name."""
    return (files("litellm_systemd.units") / name).read_text(encoding="utf-8")


def read_page(name: str = "report.html.j2") -> str:
    """A template of a page, by file name: that of `verify --html`, of `spend --html`, or the style of both."""
    return (files("litellm_systemd.report") / name).read_text(encoding="utf-8")


def read_config(name: str) -> str:
    """The text of a file below configs/, by its path there."""
    return (files("litellm_systemd.configs") / name).read_text(encoding="utf-8")


def read_linter_docs() -> str:
    """The text of docs/linter.md, which explains the codes of the linter."""
    return (files("litellm_systemd.gateway") / "linter.md").read_text(encoding="utf-8")


def read_lock() -> str:
    """The text of requirements.lock, the packages that this version was tested with."""
    return (files("litellm_systemd") / "requirements.lock").read_text(encoding="utf-8")


def config_names() -> tuple[str, ...]:
    """The names of the configurations that ship, sorted."""
    return _yaml_files()


def shared_names() -> tuple[str, ...]:
    """The files that the shipped configurations include, as paths below configs/, sorted."""
    return tuple(f"{SHARED}/{name}" for name in _yaml_files(SHARED))


def _yaml_files(*folder: str) -> tuple[str, ...]:
    found = files("litellm_systemd.configs").joinpath(*folder)
    return tuple(sorted(item.name for item in found.iterdir() if item.name.endswith(".yml")))
