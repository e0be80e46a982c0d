"""Text that ships with the package: unit templates, configurations and the lock."""

from __future__ import annotations

from importlib.resources import files

EXAMPLE_ENV = "env.example"


def read_template(name: str) -> str:
    """The text of a template below units/, by file name."""
    return (files("litellm_systemd.units") / name).read_text(encoding="utf-8")


def read_page() -> str:
    """The template of the page that `verify --html` writes."""
    return (files("litellm_systemd.report") / "report.html.j2").read_text(encoding="utf-8")


def read_config(name: str) -> str:
    """The text of a file below configs/, by file name."""
    return (files("litellm_systemd.configs") / name).read_text(encoding="utf-8")


def read_lock() -> str:
    """The lock that this version of the package was tested with."""
    return (files("litellm_systemd") / "requirements.lock").read_text(encoding="utf-8")


def config_names() -> tuple[str, ...]:
    """The names of the configurations that ship, sorted."""
    return tuple(
        sorted(item.name for item in files("litellm_systemd.configs").iterdir() if item.name.endswith(".yml"))
    )
