"""Text files of the package: unit templates, configurations and the requirements lock."""

from __future__ import annotations

from importlib.resources import files

EXAMPLE_ENV = "env.example"


def read_template(name: str) -> str:
    """The text of a unit template in units/, by file name."""
    return (files("litellm_systemd.units") / name).read_text(encoding="utf-8")


def read_page() -> str:
    """The HTML template of `verify --html`."""
    return (files("litellm_systemd.report") / "report.html.j2").read_text(encoding="utf-8")


def read_config(name: str) -> str:
    """The text of a file below configs/, by file name."""
    return (files("litellm_systemd.configs") / name).read_text(encoding="utf-8")


def read_lock() -> str:
    """The text of requirements.lock, the packages that this version was tested with."""
    return (files("litellm_systemd") / "requirements.lock").read_text(encoding="utf-8")


def config_names() -> tuple[str, ...]:
    """The file names of the shipped configurations, sorted."""
    return tuple(
        sorted(item.name for item in files("litellm_systemd.configs").iterdir() if item.name.endswith(".yml"))
    )
